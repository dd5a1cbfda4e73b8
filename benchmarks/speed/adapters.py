"""How much decoding speed does an adapter cost, and how long does it take to change it?

    doge-export smollm2-135m out --int8 --adapters legal=runs/legal --adapters support=runs/support
    python -m benchmarks.speed.adapters out --threads 1,2 --json results/adapters.json

64 tokens of prompt, then 32 steps. The ways take turns: the base, empty places for an adapter, and each adapter. All
are computed by DogeStep, where the library is installed, and by the standard graphs. Ratios are medians of the rounds'
ratios to the base by the same graphs. They are of wall time, and of processor time, which neighbours on the machine
disturb less. A change is timed as the first step of a new stream.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.decoders import random_ids
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median
from doge_export.runtime.adapters import Adapter, Adapters
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.operators import operators_library

PROMPT, STEPS = 64, 32  # tokens
NO_ADAPTER = Adapter({}, "")


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@options.thread_counts
@options.rounds(15)
@options.json_file
def main(folder: Path, thread_counts: tuple[int, ...], rounds: int, out: Path | None) -> None:
    """Compare decoding with the adapters of an exported FOLDER."""
    announce()
    rows = [row for threads in thread_counts for row in compare(folder, threads, rounds)]
    finish({"rounds": rounds, "rows": rows}, out)


def compare(folder: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each way."""
    own = [] if operators_library() is None else [True]
    ways = [way for operators in (*own, False) for way in ways_by(folder, threads, operators)]
    for _, _, decoder in ways:
        speed_of(decoder)
    speeds, rows = in_turns([partial(speed_of, decoder) for *_, decoder in ways], rounds), []
    bases = {graphs: i for i, (graphs, name, _) in enumerate(ways) if name == "base"}
    for i, (graphs, name, decoder) in enumerate(ways):
        wall, processor = (median(speeds[:, i, k] / speeds[:, bases[graphs], k]) for k in range(2))
        speed, change = median(speeds[:, i, 0]), milliseconds_to_change(decoder)
        rows.append({"graphs": graphs, "way": name, "threads": threads, "tokens_per_s": speed, "ratio": wall})
        rows[-1] |= {"processor_ratio": processor, "change_ms": change}
        click.echo(
            f"{threads} thread(s) {graphs:24} {name:16} {speed:8.1f} tokens/s ({wall:.3f}, of processor time "
            f"{processor:.3f}), {change:.1f} ms"
        )
    return rows


def ways_by(folder: Path, threads: int, operators: bool) -> list[tuple[str, str, Decoder]]:
    """Who computes, a name and a decoder: the base, empty places, and each adapter."""
    base = Decoder(folder, threads, operators=operators)
    adapters = Adapters(folder, base)
    ways = {"base": base, "empty places": adapters.with_values(NO_ADAPTER, "")}
    ways |= {name: adapters.decoder(name) for name in adapters.names}
    return [(base.kernels, name, decoder) for name, decoder in ways.items()]


def speed_of(decoder: Decoder) -> tuple[float, float]:
    """Tokens per second of steps behind a prompt: by the wall's clock, and by the processor's."""
    state = decoder.new_state()
    token = int(decoder.forward(state, random_ids(decoder.vocab_size, PROMPT))[-1].argmax())
    starts = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        token = int(decoder.forward(state, np.array([token]))[-1].argmax())
    return STEPS / (time.perf_counter() - starts[0]), STEPS / (time.process_time() - starts[1])


def milliseconds_to_change(decoder: Decoder) -> float:
    """Of a new stream's first step, binding included."""
    start = time.perf_counter()
    decoder.forward(decoder.new_state(), np.array([1]))
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
