"""Do time per token and memory stay constant, however long a stream gets?

    python -m benchmarks.speed.stream --size 20m --tokens 100000 --plot docs/stream.png

Random tokens go through a random Doge one by one; medians are of 1,000 tokens each. Machines change their speed within
minutes, so a control is timed beside: a copy of the stream that was taken just after the window filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import options
from benchmarks.common.decoders import random_decoder, random_ids
from benchmarks.common.results import Result, announce, finish
from benchmarks.common.timing import median, seconds
from doge_export.measure.machine import cpu_name
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.state import State

BLOCK = 1000  # tokens per measurement
CONTROL = 100  # tokens of the control beside each


@dataclass(frozen=True)
class Block:
    """One measurement: the position it ends at, the median step, that of the control, and the memory in use."""

    position: int
    ms_per_token: float
    control_ms_per_token: float | None
    rss_mb: float


@click.command()
@options.size
@click.option("--weights", type=click.Choice(["int8", "fp32"]), default="int8", show_default=True)
@click.option("--tokens", default=100_000, show_default=True)
@options.threads
@click.option("--plot", type=click.Path(path_type=Path), help="Write a PNG.")
@options.json_file
def main(size: str, weights: str, tokens: int, threads: int, plot: Path | None, out: Path | None) -> None:
    """Stream TOKENS random tokens through a random model of a family size."""
    announce()
    with random_decoder(size, weights, threads) as decoder:
        window = decoder.keep_window_size
        if tokens < window + 3 * BLOCK:
            raise click.UsageError(f"--tokens is {tokens}; it must be at least {window + 3 * BLOCK}, beyond the window")
        blocks = stream(decoder, tokens)
    if plot is not None:
        draw(blocks, window, f"Doge-{size.upper()}, {weights}, {threads} thread(s), {cpu_name()}", plot)
    finish({"size": size, "weights": weights, "threads": threads} | summary(blocks, window), out)


def stream(decoder: Decoder, tokens: int) -> list[Block]:
    """Feed tokens one by one; a Block for every BLOCK of them."""
    ids = random_ids(decoder.vocab_size, tokens)
    state, control, blocks = decoder.new_state(), None, []
    for start in range(0, tokens, BLOCK):
        ms_per_token = median_ms(decoder, state, ids[start : start + BLOCK])
        if control is None and state.position > decoder.keep_window_size:
            control = state.copy()
        control_ms = None if control is None else median_ms(decoder, control, ids[:CONTROL])
        blocks.append(Block(state.position, ms_per_token, control_ms, rss_mb()))
        click.echo(f"{state.position:>8} tokens  {ms_per_token:.3f} ms/token  {blocks[-1].rss_mb:.1f} MB")
    return blocks


def median_ms(decoder: Decoder, state: State, ids: NDArray[np.int64]) -> float:
    """Median time of feeding int64 [n] tokens one by one."""
    return 1e3 * median([seconds(decoder.forward, state, token) for token in ids[:, None]])


def summary(blocks: Sequence[Block], window: int) -> Result:
    """The first and the last tenth of the blocks behind the full window, and all blocks."""
    full = [block for block in blocks if block.position >= window + 2 * BLOCK]
    tenth = max(1, len(full) // 10)
    first, last = full[:tenth], full[-tenth:]
    return {
        "keep_window_size": window,
        "ms_per_token_after_filling": median([block.ms_per_token for block in first]),
        "ms_per_token_at_the_end": median([block.ms_per_token for block in last]),
        "to_control_after_filling": median(to_control(first)),
        "to_control_at_the_end": median(to_control(last)),
        "rss_growth_mb": last[-1].rss_mb - first[0].rss_mb,
        "blocks": [asdict(block) for block in blocks],
    }


def to_control(blocks: Sequence[Block]) -> list[float]:
    """Time per token as a ratio to the control's."""
    return [block.ms_per_token / block.control_ms_per_token for block in blocks if block.control_ms_per_token]


def draw(blocks: Sequence[Block], window: int, title: str, path: Path) -> None:
    """Time per token and resident memory against the position."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only a plot needs it

    figure, (time_axis, memory_axis) = plt.subplots(2, 1, sharex=True, figsize=(8, 5.5), layout="constrained")
    positions = [block.position for block in blocks]
    time_axis.plot(positions, [block.ms_per_token for block in blocks], color="tab:blue", label="the stream")
    controls = [(block.position, block.control_ms_per_token) for block in blocks if block.control_ms_per_token]
    label = "control: a stream just behind the filled window"
    time_axis.plot(*zip(*controls, strict=True), color="gray", linewidth=1, linestyle=":", label=label)
    time_axis.legend(loc="lower right")
    memory_axis.plot(positions, [block.rss_mb for block in blocks], color="tab:orange")
    for axis, label in ((time_axis, "ms per token (median)"), (memory_axis, "resident memory, MB")):
        axis.axvline(window, color="gray", linestyle="--", linewidth=1)
        axis.set_ylim(0, 1.2 * max(axis.get_lines()[0].get_ydata()))
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    time_axis.set_title(title)
    time_axis.annotate("window full", (window, 0), xytext=(4, 6), textcoords="offset points", color="gray")
    memory_axis.set_xlabel("position in the stream, tokens")
    figure.savefig(path, dpi=110)


def rss_mb() -> float:
    """Resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    main()
