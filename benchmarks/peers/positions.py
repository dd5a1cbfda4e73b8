"""How does the time of a step grow with the position, ours and llama.cpp's?

    python -m benchmarks.peers.positions --sizes 20m,60m --json results/positions-all.json

Prompts of growing length and a few steps after each, in turns. Behind 2,048 tokens our window is full and stays so;
llama.cpp keeps every key.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.contenders import LLAMA, installed, models_in
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns
from benchmarks.common.worker import Worker, workers

POSITIONS = (64, 256, 512, 1024, 1536, 1984, 2560, 3072, 4064)
STEPS = 32  # tokens
CONTEXT = 4096  # tokens


@click.command()
@options.sizes
@options.threads
@options.rounds(5)
@options.models
@options.json_file
def main(sizes: tuple[str, ...], threads: int, rounds: int, models: Path | None, out: Path | None) -> None:
    """Measure steps at several positions."""
    announce()
    with models_in(models) as folder:
        chosen = [folder.ours(size) for size in sizes]
        chosen += [folder.peer(LLAMA, size) for size in sizes if installed(LLAMA)]
        with workers(chosen, threads, context=CONTEXT) as started:
            for worker in started:
                worker.ask(POSITIONS[-1], 1)  # opens the recurrent graph too
            times = in_turns([partial(steps_ms, started, position) for position in POSITIONS], rounds)
    medians = np.median(times, axis=0)  # [positions, contenders]
    rows = [
        {"contender": c.kind, "size": c.size, "positions": POSITIONS, "ms_per_token": medians[:, i].tolist()}
        for i, c in enumerate(chosen)
    ]
    for row in rows:
        click.echo(f"{row['size']} {row['contender']:<12} " + " ".join(f"{ms:.3f}" for ms in row["ms_per_token"]))
    finish({"threads": threads, "rounds": rounds, "rows": rows}, out)


def steps_ms(started: Sequence[Worker], position: int) -> list[float]:
    """Milliseconds per token of the steps after a prompt of `position` tokens, of each worker in turn."""
    return [1e3 * worker.ask(position, STEPS)[1] / STEPS for worker in started]


if __name__ == "__main__":
    main()
