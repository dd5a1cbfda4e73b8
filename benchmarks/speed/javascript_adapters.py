"""How much decoding speed does an adapter cost in JavaScript, and how long does it take to change it?

    doge-export smollm2-135m out --int8 --adapters legal=runs/legal --adapters support=runs/support
    python -m benchmarks.speed.javascript_adapters out --provider wasm

64 tokens of prompt, then 32 steps, in one process. The base and each adapter take turns. Ratios are medians of the
rounds' ratios to the base, of wall time and of the process's time on processors. A change is timed as
the first step of a new stream.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import median

SCRIPT = Path(__file__).with_suffix(".mjs")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--provider", type=click.Choice(["cpu", "wasm"]), default="wasm", show_default=True)
@options.thread_counts
@options.rounds(9)
@options.json_file
def main(folder: Path, provider: str, thread_counts: tuple[int, ...], rounds: int, out: Path | None) -> None:
    """Compare decoding with the adapters of an exported FOLDER."""
    announce()
    rows = [row for threads in thread_counts for row in compare(folder, provider, threads, rounds)]
    finish({"folder": folder.name, "provider": provider, "rounds": rounds, "rows": rows}, out)


def compare(folder: Path, provider: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    """A row for the base and for each adapter."""
    *measured, memory = lines_of(folder, provider, threads, rounds)
    speeds = {each["adapter"]: np.array(each["tokens_per_s"]) for each in measured}
    rows = []
    for each in measured:
        own, change = speeds[each["adapter"]], median(each["change_ms"])
        wall, processor = (median(own[:, k] / speeds[None][:, k]) for k in range(2))
        speed, name = median(own[:, 0]), each["adapter"] or "base"
        rows.append({"adapter": each["adapter"], "threads": threads, "tokens_per_s": speed, "ratio": wall})
        rows[-1] |= {"processor_ratio": processor, "change_ms": change, **memory}
        click.echo(
            f"{threads} thread(s) {name:16} {speed:8.1f} tokens/s ({wall:.3f}, of processor time {processor:.3f}), "
            f"{change:.1f} ms"
        )
    click.echo(f"{memory['mb_before']:.0f} MB resident, {memory['mb_behind']:.0f} MB with all adapters")
    return rows


def lines_of(folder: Path, provider: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    """The lines that the script prints."""
    node = shutil.which("node")
    if node is None:
        raise click.UsageError("node is not installed; install Node 20 or newer")
    command = [node, str(SCRIPT), str(folder), provider, str(threads), str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"node ended with exit status {done.returncode}; its message stands above")
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    main()
