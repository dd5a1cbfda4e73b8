"""How long should an idle thread look for work, where another process is busy?

    python -m benchmarks.decisions.contention --sizes 20m,60m

Decides SPIN_US and the number of threads in doge_export/runtime/threads.py. Everyone decodes alone and beside processes
that compute without end, in turns. Contenders are ours, ours with other times of spinning (-1: onnxruntime's own), and
llama.cpp where it is installed. --under puts all behind a command that limits them, such as --under "taskset -c 0".
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.contenders import LLAMA, OURS, Contender, Models, installed, models_in
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns
from benchmarks.common.worker import workers


@click.command()
@options.sizes
@options.thread_counts
@click.option("--spins", type=options.numbers, default="-1", show_default=True, help="Microseconds to compare with.")
@options.rounds(7)
@click.option("--busy", default=1, show_default=True, help="Processes that compute beside.")
@click.option("--under", default="", help="A command that limits whoever runs behind it.")
@options.models
@options.json_file
def main(
    sizes: tuple[str, ...],
    thread_counts: tuple[int, ...],
    spins: tuple[int, ...],
    rounds: int,
    busy: int,
    under: str,
    models: Path | None,
    out: Path | None,
) -> None:
    """Compare decoding alone and beside busy processes; 0 threads leaves the number to each contender."""
    announce()
    prefix, rows = shlex.split(under), []
    with models_in(models) as folder, competitors(busy, prefix) as others:
        for size in sizes:
            chosen = contenders(folder, size, spins)
            for threads in thread_counts:
                found = [
                    {"size": size, "threads": threads, **row}
                    for row in compare(chosen, threads, rounds, others, prefix)
                ]
                print_rows(found)
                rows += found
    finish({"busy": busy, "under": under, "rows": rows}, out)


def contenders(models: Models, size: str, spins: Sequence[int]) -> list[Contender]:
    """Ours, ours with each time of spinning, and llama.cpp where it is installed."""
    ours = models.ours(size)
    spinning = [Contender(f"{OURS}-spin-{microseconds}", ours.model, size) for microseconds in spins]
    return [ours, *spinning, *([models.peer(LLAMA, size)] if installed(LLAMA) else [])]


@contextmanager
def competitors(count: int, prefix: Sequence[str]) -> Iterator[list[int]]:
    """Processes that never rest while they are not stopped; they begin stopped."""
    started = [subprocess.Popen([*prefix, sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    pids = [process.pid for process in started]
    send(pids, signal.SIGSTOP)
    try:
        yield pids
    finally:
        for process in started:
            process.kill()
            process.wait()


def send(pids: Sequence[int], number: signal.Signals) -> None:
    """Stop the processes, or let them go on."""
    for pid in pids:
        os.kill(pid, number)


def compare(
    contenders: Sequence[Contender], threads: int, rounds: int, others: Sequence[int], prefix: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each contender; everyone decodes alone and beside the others in each round."""
    with workers(contenders, threads, prefix) as started:

        def alone() -> list[float]:
            return [worker.decode() for worker in started]

        def beside() -> list[float]:
            send(others, signal.SIGCONT)
            try:
                return alone()
            finally:
                send(others, signal.SIGSTOP)

        speeds = in_turns([alone, beside], rounds)  # [rounds, (alone, beside), contenders] in tokens/s
    alone_speeds, beside_speeds = np.median(speeds, axis=0).tolist()
    kept = np.median(speeds[:, 1] / speeds[:, 0], axis=0).tolist()
    return [
        {
            "contender": contender.kind,
            "alone_tokens_per_s": alone_speeds[i],
            "beside_tokens_per_s": beside_speeds[i],
            "kept": kept[i],
        }
        for i, contender in enumerate(contenders)
    ]


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """A line for each contender."""
    for row in rows:
        click.echo(
            f"{row['size']:>5} {row['threads']} thread(s) {row['contender']:<22} alone {row['alone_tokens_per_s']:8.1f}"
            f"  beside {row['beside_tokens_per_s']:8.1f}  kept {row['kept']:.2f}"
        )


if __name__ == "__main__":
    main()
