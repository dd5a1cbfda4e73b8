"""How fast and how exact is a step of one export beside that of another, by DogeStep and by the standard graphs?

    python -m benchmarks.speed.recipes smollm2-135m-int8 smollm2-135m-fp32
    .arm/python cortex-a72 -m benchmarks.speed.recipes smollm2-135m-int8 smollm2-135m-fp32

The second line runs it on an emulated processor, after `scripts/arm-root`. Ratios of time are to the last line, medians
of rounds in which all take a step. Differences of logits after a prompt are to the folder's own numbers in float32, as
a share of the largest. Standard graphs are measured unchanged, in float32, and as this processor gets them if that is
neither.

The prices of an emulator's instructions are not those of a real processor. Only ratios inside one emulator mean
anything, and those of kernels as different as DogeStep's and onnxruntime's not much.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median, seconds
from doge_export.measure.machine import peak_rss_mb
from doge_export.runtime import sessions
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DECODER_FILE, STEP_FILE
from doge_export.runtime.operators import LIBRARY, kernels_of
from doge_export.runtime.processor import Processor, this_processor

PROMPT = np.arange(5, 37)  # any tokens
IN_FLOAT, UNCHANGED = Processor(is_arm=True, dot_product=False), Processor(is_arm=False, dot_product=False)


@dataclass(frozen=True)
class Way:
    """One way to compute a folder; processor: the one that its standard graphs are made for, None for DogeStep."""

    folder: Path
    name: str
    processor: Processor | None


def ways_of(folder: Path) -> list[Way]:
    """Every way to compute a folder, the one in float32 last."""
    names = {UNCHANGED: "standard graphs unchanged", IN_FLOAT: "standard graphs in float32"}
    if this_processor() not in names:
        names = {this_processor(): "standard graphs"} | names
    if b"MatMulNBits" not in (folder / DECODER_FILE).read_bytes():
        names = {IN_FLOAT: "standard graphs"}
    ways = [Way(folder, name, processor) for processor, name in names.items()]
    if (folder / STEP_FILE).is_file() and LIBRARY.is_file():
        ways.insert(0, Way(folder, f"DogeStep with {kernels_of(LIBRARY)}", None))
    return ways


class Contender:
    """A decoder and a stream behind the prompt.

    Attributes:
        logits: after each token of the prompt.
    """

    def __init__(self, way: Way, threads: int) -> None:
        start = time.perf_counter()
        with patch.object(sessions, "this_processor", lambda: way.processor or this_processor()):
            decoder = Decoder(way.folder, threads, operators=way.processor is None)
        opened = time.perf_counter() - start
        self.state = decoder.new_state()
        self.logits = decoder.forward(self.state, PROMPT, "all").copy()
        self.step = partial(seconds, decoder.forward, self.state, PROMPT[:1])
        self.step()
        self.name = f"{way.folder.name} by {way.name}"
        click.echo(f"{self.name}: opened in {opened:.1f} s, the process has needed {peak_rss_mb():.0f} MB so far")


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@options.threads
@options.rounds(11)
@options.json_file
def main(folders: tuple[Path, ...], threads: int, rounds: int, out: Path | None) -> None:
    """Compare FOLDERS."""
    announce()
    found, differences = [], []
    for folder in folders:
        contenders = [Contender(way, threads) for way in ways_of(folder)]
        exact = contenders[-1].logits
        differences += [float(np.abs(each.logits - exact).max() / np.abs(exact).max()) for each in contenders]
        found += contenders
    times = in_turns([each.step for each in found], rounds)
    rows = []
    for i, (each, difference) in enumerate(zip(found, differences, strict=True)):
        row = {"ms": 1e3 * median(times[:, i]), "ratio": median(times[:, -1] / times[:, i]), "difference": difference}
        click.echo(f"{each.name:<60}{row['ms']:9.1f} ms{row['ratio']:7.2f}{difference:10.1e}")
        rows.append({"name": each.name} | row)
    finish({"threads": threads, "rounds": rounds, "rows": rows}, out)


if __name__ == "__main__":
    main()
