"""How much faster is decoding than by the loop and the graphs of commit 2a0d6f8?

    git worktree add --detach ../earlier 2a0d6f8
    python -m benchmarks.speed.earlier ../earlier --sizes 20m,60m,160m --models models

2a0d6f8 is the last commit without DogeStep. Its tree exports the same random weights, and its own worker decodes them.
Beside it run DogeStep and today's standard graphs, each in a process of its own, in turns, at every position. Ratios
are medians of the rounds' ratios, the later to 2a0d6f8. Its exports are kept beside ours, by the commit's name.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.contenders import OURS, Contender, Models, models_in
from benchmarks.common.results import Result, announce, finish
from benchmarks.common.timing import in_turns, median
from benchmarks.common.worker import CONTEXT, WORKER, Worker, workers

COMMIT = "2a0d6f8"
STEPS = 128  # tokens behind a position, or as many as the window has room for
NAMES = ("DogeStep", "standard graphs", COMMIT)


@click.command()
@click.argument("tree", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.sizes
@options.thread_counts
@click.option(
    "--positions", type=options.numbers, default="64,1984", show_default=True, help="Tokens before the steps."
)
@options.rounds(7)
@options.models
@options.json_file
def main(
    tree: Path,
    sizes: tuple[str, ...],
    thread_counts: tuple[int, ...],
    positions: tuple[int, ...],
    rounds: int,
    models: Path | None,
    out: Path | None,
) -> None:
    """Compare with TREE, a clean work tree of commit 2a0d6f8."""
    check_tree(tree)
    announce()
    rows = []
    with models_in(models) as folder:
        for size in sizes:
            chosen = contenders(folder, tree.resolve(), size)
            for threads in thread_counts:
                found = [
                    {"size": size, "threads": threads, **row} for row in compare(chosen, threads, positions, rounds)
                ]
                print_rows(found)
                rows += found
    finish({"rounds": rounds, "rows": rows}, out)


def check_tree(tree: Path) -> None:
    """Refuse any other commit."""
    command = ["git", "-C", str(tree), "rev-parse", "--short=7", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if head != COMMIT:
        raise click.BadParameter(
            f"{tree} is at commit {head or '(none)'}; make one of {COMMIT}: git worktree add --detach TREE {COMMIT}",
            param_hint="TREE",
        )


def contenders(models: Models, tree: Path, size: str) -> list[Contender]:
    """Those of NAMES, with the same weights byte for byte."""
    ours = models.ours(size)
    folder = Path(ours.model).with_name(f"{size}-{COMMIT}").resolve()
    python = ("env", f"PYTHONPATH={tree}", sys.executable)
    if not folder.exists():
        subprocess.run([*python, "-m", "doge_export.bench.random_model", size, "int8", folder], cwd=tree, check=True)
    files = [next(path.glob("onnx/*_data")) for path in (Path(ours.model), folder)]
    if files[0].read_bytes() != files[1].read_bytes():
        raise click.ClickException(f"{files[1]} has other weights than {files[0]}; remove both folders")
    today = [
        Contender(OURS, ours.model, size, ("env", f"DOGE_EXPORT_OPERATORS={wanted}", sys.executable, *WORKER))
        for wanted in (1, 0)
    ]
    return [*today, Contender(OURS, str(folder), size, (*python, str(tree / "benchmarks" / "peer_workers.py")))]


def compare(chosen: Sequence[Contender], threads: int, positions: Sequence[int], rounds: int) -> list[Result]:
    """A row for each contender and position."""
    with workers(chosen, threads) as started:
        calls = [partial(speed, worker, position) for position in positions for worker in started]
        found = in_turns(calls, rounds).reshape(rounds, len(positions), len(chosen))
    ratios = found / found[:, :, -1:]
    return [
        {
            "position": position,
            "contender": name,
            "tokens_per_s": median(found[:, i, j]),
            "ratio": median(ratios[:, i, j]),
            "ratio_quartiles": np.percentile(ratios[:, i, j], (25, 75)).tolist(),
        }
        for i, position in enumerate(positions)
        for j, name in enumerate(NAMES)
    ]


def speed(worker: Worker, position: int) -> float:
    """Tokens per second of steps behind a position."""
    steps = min(STEPS, CONTEXT - position)
    return steps / worker.ask(position, steps)[1]


def print_rows(rows: Sequence[Result]) -> None:
    """A line for each contender."""
    for row in rows:
        click.echo(
            f"{row['size']:>5} {row['threads']} thread(s) at {row['position']:>4} {row['contender']:<16}"
            f"{row['tokens_per_s']:8.1f} tokens/s ({row['ratio']:.2f})"
        )


if __name__ == "__main__":
    main()
