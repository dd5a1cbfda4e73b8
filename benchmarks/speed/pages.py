"""How much faster is a decoder by DogeStep whose weights lie in huge pages than one that reads the mapped file?

    python -m benchmarks.speed.pages --sizes 20m,60m,160m,smollm2-135m --models models

Both compute the same 8-bit export, in turns: a prompt, and steps behind 64 tokens. Ratios are medians of the rounds'
ratios of time, those of the mapped file to those of huge pages. Linux alone has them.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.contenders import models_in
from benchmarks.common.decoders import random_ids
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median, seconds
from doge_export.runtime import weights
from doge_export.runtime.decoder import Decoder

PROMPT, STEPS, NEAR_START = 512, 32, 64


class Contender:
    """A decoder and a stream that its steps go on with."""

    def __init__(self, folder: Path, threads: int, least_bytes: int) -> None:
        with patch.object(weights, "LEAST_BYTES", least_bytes):
            self.decoder = Decoder(folder, threads, operators=True)
        self.ids, self.state = random_ids(self.decoder.vocab_size, PROMPT), self.decoder.new_state()
        self.decoder.forward(self.state, self.ids[:NEAR_START])

    def prompt(self) -> float:
        """Seconds of PROMPT tokens."""
        return seconds(lambda: self.decoder.forward(self.decoder.new_state(), self.ids))

    def steps(self) -> float:
        """Seconds of STEPS tokens behind NEAR_START."""
        self.state.truncate(NEAR_START)
        return seconds(lambda: [self.decoder.forward(self.state, token) for token in self.ids[:STEPS, None]])


@click.command()
@options.sizes
@options.thread_counts
@options.rounds(11)
@options.models
@options.json_file
def main(
    sizes: tuple[str, ...], thread_counts: tuple[int, ...], rounds: int, models: Path | None, out: Path | None
) -> None:
    """Compare pages."""
    announce()
    rows = []
    with models_in(models) as folder:
        for size in sizes:
            for threads in thread_counts:
                model = Path(folder.ours(size).model)
                mapped, huge = Contender(model, threads, sys.maxsize), Contender(model, threads, 0)
                for thread in [each for each in threading.enumerate() if each.name == "huge-pages"]:
                    thread.join()
                both = (("prompt", PROMPT, mapped.prompt, huge.prompt), ("steps", STEPS, mapped.steps, huge.steps))
                for name, tokens, *calls in both:
                    times = in_turns(calls, rounds)
                    ratio, speeds = median(times[:, 0] / times[:, 1]), (tokens / np.median(times, axis=0)).tolist()
                    row = {"size": size, "threads": threads, "work": name, "tokens_per_s": speeds, "ratio": ratio}
                    rows.append(row)
                    click.echo(
                        f"{size} {threads} thread(s) {name:<8}{speeds[0]:8.0f}{speeds[1]:8.0f} tokens/s ({ratio:.2f})"
                    )
    finish({"rounds": rounds, "rows": rows}, out)


if __name__ == "__main__":
    main()
