"""How much time do sinks take in steps and prompts over a full window?

    python -m benchmarks.speed.sinks --size 20m --window 512

Two exports of one random model, with sinks and without, are fed in turns behind a full window. Ratios are medians of
the rounds' ratios of time, with sinks to without; more than 1 is slower.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.decoders import random_ids
from benchmarks.common.results import Result, announce, finish
from benchmarks.common.timing import in_turns, median, seconds
from doge_export.export.random_model import export_random
from doge_export.runtime.decoder import Decoder

STEPS, PROMPT = 32, 512


class Contender:
    """One decoder and a stream that has filled its window."""

    def __init__(self, folder: Path, threads: int, operators: bool) -> None:
        self.decoder = Decoder(folder, threads, operators=operators)
        self.ids = random_ids(self.decoder.vocab_size, PROMPT)
        self.state = self.decoder.new_state()
        self.decoder.forward(self.state, self.ids[:STEPS])
        self.state.fill_window(np.arange(self.decoder.keep_window_size) % STEPS)

    def steps(self) -> float:
        """Seconds of STEPS tokens, one by one."""
        return seconds(lambda: [self.decoder.forward(self.state, token) for token in self.ids[:STEPS, None]])

    def prompt(self) -> float:
        """Seconds of PROMPT tokens."""
        return seconds(self.decoder.forward, self.state, self.ids)


@click.command()
@options.size
@click.option("--window", type=click.IntRange(STEPS), default=512, show_default=True, help="Keys that are kept.")
@click.option("--sinks", type=click.IntRange(1), default=1, show_default=True, help="Tokens among them for good.")
@options.threads
@options.rounds(21)
@options.json_file
def main(size: str, window: int, sinks: int, threads: int, rounds: int, out: Path | None) -> None:
    """Time a random model of a family size with sinks beside the same one without."""
    announce()
    if sinks >= window:
        raise click.UsageError(f"--sinks is {sinks}; it must be below --window, {window}")
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / str(count) for count in (sinks, 0)]
        for folder, count in zip(folders, (sinks, 0), strict=True):
            export_random(size, "int8", folder, window, count)
        rows = compared(folders, "sinks", threads, rounds)
    finish({"size": size, "window": window, "sinks": sinks, "threads": threads, "rounds": rounds, "rows": rows}, out)


def compared(folders: Sequence[Path], what: str, threads: int, rounds: int) -> list[Result]:
    """Of steps and prompts by both ways: the time of the first folder, which has `what`, to that of the second."""
    rows: list[Result] = []
    for operators in (True, False):
        contenders = [Contender(folder, threads, operators) for folder in folders]
        for work, call in (("steps", Contender.steps), ("prompt", Contender.prompt)):
            times = in_turns([partial(call, contender) for contender in contenders], rounds)
            rows.append({"by": contenders[0].decoder.kernels, "work": work, "ratio": median(times[:, 0] / times[:, 1])})
            click.echo(f"{rows[-1]['by']:<40}{work:<8}{rows[-1]['ratio']:.3f} times as long with {what}")
    return rows


if __name__ == "__main__":
    main()
