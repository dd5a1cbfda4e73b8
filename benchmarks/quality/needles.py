"""Does a narrow window still know keys and values that were planted in a text, and are asked for long after?

    python -m benchmarks.quality.needles TEXT --window 512 --fit /tmp/fit-512.safetensors
    python -m benchmarks.quality.needles TEXT --calibration doge_export/texts/calibration.txt

Every stream is a piece of a held-out TEXT. In the midst of each quarter it says, "The password of Lisbon is 4071." From
copies of the state at its end each place is asked for.
An answer is right if the model finds every token of it most likely. An error is the standard error of the share over
the streams. The built-in calibration has facts of another form; the second command learns from its text without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.utils.rnn
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common import options
from benchmarks.common.learned import learned_demo
from benchmarks.common.results import Result, announce, finish
from doge_export.measure import criteria
from doge_export.measure.windows import Window, window_set
from doge_model import Checkpoint, DogeForCausalLM

from .eviction import LEARNED, NONE, SINKS, WHOLE, beginning, cache_of, feed, window_of

NAMES = """
Lisbon Cairo Oslo Lima Delhi Rome Tokyo Boston Paris Dublin Quito Berlin
Athens Havana Sydney Moscow London Vienna Prague Warsaw Madrid Nairobi Kabul Seoul
"""
PLACES = NAMES.split()
DEPTHS = 4


@dataclass(frozen=True)
class Stream:
    """A text with needles: its tokens int64 [S], then question, answer and depth of each."""

    ids: Tensor
    questions: tuple[Tensor, ...]
    answers: tuple[Tensor, ...]


@click.command()
@click.argument("text", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--window", type=click.IntRange(8), default=512, show_default=True, help="Keys that are kept.")
@click.option("--length", type=click.IntRange(256), default=1024, show_default=True, help="Tokens of a stream.")
@click.option("--needles", type=click.IntRange(1, 6), default=6, show_default=True, help="At each of the four depths.")
@click.option("--streams", type=click.IntRange(2), default=9, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--calibration", help="The text that the window learns from. [default: the built-in one]")
@click.option("--fit", type=click.Path(path_type=Path), help="A file that keeps the fitted bonuses for the next run.")
@click.option("--ways", type=options.names, default=f"{WHOLE},{NONE},{SINKS},{LEARNED}", help="Also `criteria`.")
@options.json_file
def main(
    text: Path,
    window: int,
    length: int,
    needles: int,
    streams: int,
    seed: int,
    calibration: str | None,
    fit: Path | None,
    ways: tuple[str, ...],
    out: Path | None,
) -> None:
    """Plant needles in TEXT (UTF-8, or .xz) and ask for them, with each way to evict keys."""
    known = (WHOLE, NONE, SINKS, LEARNED, *criteria.CRITERIA)
    unknown = [way for way in ways if way not in known]
    if unknown:
        raise click.UsageError(f"--ways has {unknown[0]!r}; take {', '.join(known)}")
    if window >= length:
        raise click.UsageError(f"--window is {window}; it must be below the {length} tokens of a stream")
    announce()
    checkpoint, learned = learned_demo(window, calibration, fit)
    made = planted(checkpoint, text, length, needles, streams, seed)
    result: Result = {
        "window": window,
        "length": length,
        "cases": streams * needles * DEPTHS,
        "seed": seed,
        "right": {},
    }
    for way in ways:
        right = np.stack([asked(checkpoint.model, each, way, learned) for each in made]).mean(2)  # [streams, depths]
        shares = [[float(part.mean()), standard_error(part)] for part in (*right.T, right.mean(1))]
        result["right"][way] = shares
        said = "  ".join(f"{100 * share:5.1f} ± {100 * error:3.1f}" for share, error in shares)
        click.echo(f"{window} slots, {way:<22} right in % from the beginning to the end, all: {said}")
    finish(result, out)


def standard_error(shares: NDArray[np.float64]) -> float:
    """Of the mean over streams."""
    return float(shares.std(ddof=1) / np.sqrt(len(shares)))


def planted(checkpoint: Checkpoint, text: Path, length: int, needles: int, streams: int, seed: int) -> list[Stream]:
    """So many streams of consecutive pieces of a text; seed: of places and numbers."""
    rng = np.random.default_rng(seed)
    filler = beginning(checkpoint, text, 0, length * streams).view(streams, length)
    return [with_needles(checkpoint, each, needles, rng) for each in filler]


def with_needles(checkpoint: Checkpoint, filler: Tensor, needles: int, rng: np.random.Generator) -> Stream:
    """Needles in the midst of each quarter of int64 [length] tokens, which stay as many."""
    places = rng.choice(PLACES, needles * DEPTHS, replace=False).tolist()
    codes = [str(code) for code in rng.integers(1000, 10_000, len(places))]
    parts, questions, answers = [], [], []
    pairs = list(zip(places, codes, strict=True))
    for depth, quarter in enumerate(filler.chunk(DEPTHS)):
        group = pairs[depth * needles : (depth + 1) * needles]
        told = "".join(f" The password of {place} is {code}." for place, code in group)
        hay = tokens_of(checkpoint, told)
        half = (len(quarter) - len(hay)) // 2
        parts += [quarter[:half], hay, quarter[half : len(quarter) - len(hay)]]
        for place, code in group:
            question = tokens_of(checkpoint, f"\n\nThe password of {place} is")
            questions.append(question)
            answers.append(tokens_of(checkpoint, f"\n\nThe password of {place} is {code}.")[len(question) :])
    return Stream(torch.cat(parts), tuple(questions), tuple(answers))


def tokens_of(checkpoint: Checkpoint, text: str) -> Tensor:
    """int64 [S]"""
    assert checkpoint.tokenizer is not None  # the demo has one
    return torch.tensor(checkpoint.tokenizer.encode(text, add_special_tokens=False))


def asked(model: DogeForCausalLM, stream: Stream, way: str, learned: Window) -> NDArray[np.float64]:
    """Whether each answer is right, by depth: float64 [depths, needles]."""
    own = Window(model.config.keep_window_size, learned.keep_sinks)
    with window_set(model, own if way == WHOLE else window_of(way, learned)):
        cache = cache_of(model, way, learned)
        for _ in feed(model, stream.ids[None], cache):
            pass
        # a row for each question; those that end sooner are filled up behind their end, which nothing before it sees
        cache.batch_repeat_interleave(len(stream.questions))
        rows = [torch.cat(pair) for pair in zip(stream.questions, stream.answers, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        found = torch.cat([logits.argmax(-1) for _, logits in feed(model, ids, cache)], dim=1)
    right = [
        torch.equal(found[row, len(question) - 1 : len(question) + len(answer) - 1], answer)
        for row, (question, answer) in enumerate(zip(stream.questions, stream.answers, strict=True))
    ]
    return np.array(right, float).reshape(DEPTHS, -1)


if __name__ == "__main__":
    main()
