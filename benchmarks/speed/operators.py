"""How much faster is a decoder by DogeStep than by onnxruntime's operators?

    python -m benchmarks.speed.operators --sizes 20m,60m,160m --models models

Both compute the same export, in 8 bits unless --weights names another recipe, in turns: a prompt, and steps behind 64
tokens. Then come prompts and steps near the end of the window and over a full one, and steps of 8 sequences. Ratios are
medians of the rounds' ratios of time, onnxruntime's to DogeStep's.

    python -m benchmarks.speed.operators --sizes smollm2-135m --threads 1 --rounds 3 --whole 8000

Instead of all that: a prompt of so many tokens and one of 512, by both, in turns. The speed of the former is compared
with that of DogeStep's own 512, and of the standard graphs'.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.contenders import models_in
from benchmarks.common.decoders import random_ids
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median, seconds
from doge_export.runtime.decoder import Decoder

PROMPT, STEPS, SEQUENCES = 512, 32, 8
NEAR_START = 64


class Contender:
    """One decoder and the streams that its steps go on with."""

    def __init__(self, folder: Path, threads: int, operators: bool) -> None:
        self.decoder = Decoder(folder, threads, operators=operators)
        self.ids = random_ids(self.decoder.vocab_size, PROMPT)
        self.start, self.late, self.end, self.full = (self.decoder.new_state() for _ in range(4))
        self.decoder.forward(self.start, self.ids[:NEAR_START])
        window = self.decoder.keep_window_size
        for state, length in ((self.late, window - PROMPT), (self.end, self.near_end), (self.full, window)):
            self.decoder.forward(state, self.ids[:NEAR_START])
            state.fill_window(np.arange(length) % NEAR_START)
        self.decoder.forward(self.full, self.ids[:1])
        self.batch = self.decoder.new_batch(SEQUENCES)
        for _ in range(SEQUENCES):
            self.decoder.forward(self.batch.open(), self.ids[:NEAR_START])

    @property
    def near_end(self) -> int:
        """A position from which STEPS tokens just fit the window."""
        return self.decoder.keep_window_size - STEPS

    def prompt(self) -> float:
        """Seconds of PROMPT tokens."""
        return seconds(lambda: self.decoder.forward(self.decoder.new_state(), self.ids))

    def whole_prompt(self, length: int) -> float:
        """Seconds of so many tokens, those of the prompt again and again."""
        ids = np.resize(self.ids, length)
        return seconds(lambda: self.decoder.forward(self.decoder.new_state(), ids))

    def prompt_at_end(self) -> float:
        """Seconds of PROMPT tokens that fill the window."""
        self.late.truncate(self.decoder.keep_window_size - PROMPT)
        return seconds(lambda: self.decoder.forward(self.late, self.ids))

    def prompt_beyond(self) -> float:
        """Seconds of PROMPT tokens over a full window."""
        return seconds(lambda: self.decoder.forward(self.full, self.ids))

    def steps_at_start(self) -> float:
        """Seconds of STEPS tokens behind NEAR_START."""
        self.start.truncate(NEAR_START)
        return seconds(lambda: [self.decoder.forward(self.start, token) for token in self.ids[:STEPS, None]])

    def steps_at_end(self) -> float:
        """Seconds of STEPS tokens that fill the window."""
        self.end.truncate(self.near_end)
        return seconds(lambda: [self.decoder.forward(self.end, token) for token in self.ids[:STEPS, None]])

    def steps_beyond(self) -> float:
        """Seconds of STEPS tokens over a full window."""
        return seconds(lambda: [self.decoder.forward(self.full, token) for token in self.ids[:STEPS, None]])

    def sequences(self) -> float:
        """Seconds of STEPS tokens of each of several sequences."""
        for state in self.batch.states:
            state.truncate(NEAR_START)
        return seconds(lambda: [self.batch.forward([int(token)] * SEQUENCES) for token in self.ids[:STEPS]])


WORK: dict[str, tuple[Callable[[Contender], float], int]] = {
    f"prompt of {PROMPT}": (Contender.prompt, PROMPT),
    f"prompt of {PROMPT} that fills the window": (Contender.prompt_at_end, PROMPT),
    f"prompt of {PROMPT} over a full window": (Contender.prompt_beyond, PROMPT),
    f"steps at {NEAR_START}": (Contender.steps_at_start, STEPS),
    "steps that fill the window": (Contender.steps_at_end, STEPS),
    "steps over a full window": (Contender.steps_beyond, STEPS),
    f"steps of {SEQUENCES} sequences": (Contender.sequences, STEPS * SEQUENCES),
}


@click.command()
@options.sizes
@options.thread_counts
@options.rounds(11)
@click.option("--weights", type=click.Choice(["int8", "int4", "fp32"]), default="int8", show_default=True)
@click.option("--whole", type=click.IntRange(PROMPT), help=f"Only a prompt of so many tokens beside one of {PROMPT}.")
@options.models
@options.json_file
def main(
    sizes: tuple[str, ...],
    thread_counts: tuple[int, ...],
    rounds: int,
    weights: str,
    whole: int | None,
    models: Path | None,
    out: Path | None,
) -> None:
    """Compare both ways to compute."""
    announce()
    rows = []
    with models_in(models) as folder:
        for size in sizes:
            for threads in thread_counts:
                model = Path(folder.ours(size, weights).model)
                standard, own = (Contender(model, threads, operators) for operators in (False, True))
                about: dict[str, object] = {"size": size, "threads": threads}
                if whole is not None:
                    rows.append(about | compared_whole(standard, own, whole, rounds))
                    click.echo(f"{size} {threads} thread(s): {rows[-1]}")
                    continue
                for name, (work, tokens) in WORK.items():
                    times = in_turns([partial(work, standard), partial(work, own)], rounds)
                    ratio, speeds = median(times[:, 0] / times[:, 1]), (tokens / np.median(times, axis=0)).tolist()
                    rows.append(about | {"work": name, "tokens_per_s": speeds, "ratio": ratio})
                    click.echo(
                        f"{size} {threads} thread(s) {name:<38}{speeds[0]:8.0f}{speeds[1]:8.0f} tokens/s ({ratio:.2f})"
                    )
    finish({"rounds": rounds, "weights": weights, "kernels": own.decoder.kernels, "rows": rows}, out)


def compared_whole(standard: Contender, own: Contender, length: int, rounds: int) -> dict[str, object]:
    """Tokens per second by the standard graphs and by DogeStep, and the whole prompt to one of PROMPT tokens."""
    calls = [each.prompt for each in (standard, own)] + [partial(each.whole_prompt, length) for each in (standard, own)]
    speeds = np.array([PROMPT, PROMPT, length, length]) / in_turns(calls, rounds)
    short, short_own, whole, whole_own = speeds.T
    return {
        "whole": length,
        "tokens_per_s": np.median(speeds[:, :2], axis=0).tolist(),
        "whole_tokens_per_s": np.median(speeds[:, 2:], axis=0).tolist(),
        "own_whole_to_own_short": median(whole_own / short_own),
        "own_whole_to_standard_short": median(whole_own / short),
        "standard_whole_to_standard_short": median(whole / short),
    }


if __name__ == "__main__":
    main()
