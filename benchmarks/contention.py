"""What another busy process costs: python benchmarks/contention.py --sizes 20m,60m

Decodes alone and beside as many processes as are asked for that compute without end, in turns: ours, ours with other
times in the place of SPIN_US (-1: onnxruntime's own), and llama.cpp where it is installed. --under puts all of them
behind a command that limits them, such as --under "taskset -c 0". The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from contenders import OURS, Contender, Worker, finish, has_llama, machine, models_in


@click.command()
@click.option("--sizes", default="20m", show_default=True, help="Family members, separated by commas.")
@click.option("--threads", default="1,2", show_default=True, help="0 means what each takes by itself.")
@click.option("--spins", default="-1", show_default=True, help="Microseconds to compare with, separated by commas.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--busy", default=1, show_default=True, help="Processes that compute beside.")
@click.option("--under", default="", help="A command that limits whoever runs behind it.")
@click.option("--models", type=click.Path(path_type=Path), help="A folder where the models are made, and stay.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the result to a file too.")
def main(
    sizes: str, threads: str, spins: str, rounds: int, busy: int, under: str, models: Path | None, out: Path | None
) -> None:
    """Compare decoding alone and beside busy processes."""
    prefix = shlex.split(under)
    click.echo(json.dumps(machine()))
    rows = []
    with models_in(models) as folder, competitors(busy, prefix) as others:
        for size in sizes.split(","):
            ours = folder.ours(size)
            chosen = [ours, *(Contender(f"{OURS}-spin-{us}", ours.model, size) for us in spins.split(","))]
            chosen += [folder.peer("llama.cpp", size)] if has_llama() else []
            for count in map(int, threads.split(",")):
                rows += [
                    {"size": size, "threads": count, **row} for row in compare(chosen, count, rounds, others, prefix)
                ]
                print_rows(rows[-len(chosen) :])
    finish(machine() | {"busy": busy, "under": under, "rows": rows}, out)


@contextmanager
def competitors(count: int, prefix: list[str]) -> Iterator[list[int]]:
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


def send(pids: list[int], number: signal.Signals) -> None:
    """Stop the processes, or let them go on."""
    for pid in pids:
        os.kill(pid, number)


def compare(
    contenders: list[Contender], threads: int, rounds: int, others: list[int], prefix: list[str]
) -> list[dict[str, Any]]:
    """A row for each contender; everyone decodes alone and beside the others in each round."""
    workers = [Worker(contender, threads, prefix) for contender in contenders]
    for worker in workers:
        worker.warm_up()
    click.echo("measuring")
    speeds = np.empty((rounds, 2, len(workers)))  # [round, (alone, beside the others), contender] in tokens/s
    for round_speeds in speeds:
        round_speeds[0] = [worker.decode() for worker in workers]
        send(others, signal.SIGCONT)
        round_speeds[1] = [worker.decode() for worker in workers]
        send(others, signal.SIGSTOP)
    for worker in workers:
        worker.close()
    alone, beside = np.median(speeds, axis=0)
    kept = np.median(speeds[:, 1] / speeds[:, 0], axis=0)
    return [
        {
            "contender": contender.kind,
            "alone_tokens_per_s": float(alone[i]),
            "beside_tokens_per_s": float(beside[i]),
            "kept": float(kept[i]),
        }
        for i, contender in enumerate(contenders)
    ]


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A line for each contender."""
    for row in rows:
        click.echo(
            f"{row['size']:>5} {row['threads']} thread(s) {row['contender']:<22} alone {row['alone_tokens_per_s']:8.1f}"
            f"  beside {row['beside_tokens_per_s']:8.1f}  kept {row['kept']:.2f}"
        )


if __name__ == "__main__":
    main()
