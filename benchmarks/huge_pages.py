"""What huge pages for the weights give: python benchmarks/huge_pages.py --sizes 20m,60m,160m,320m

Decodes with the weights in huge pages and in ordinary ones, in turns, in new processes every round: where a process's
ordinary pages lie is chance, and makes some processes slower for all their life. The last line is one JSON object with
the medians and the median of the rounds' ratios; above 1 huge pages are faster.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from contenders import Contender, Models, Worker, finish, machine, models_in
from peer_workers import SMALL_PAGES

GENERATIONS = 3  # of every process


@click.command()
@click.option("--sizes", default="20m", show_default=True, help="Family members or smollm2-135m, separated by commas.")
@click.option("--threads", default="1,2", show_default=True)
@click.option("--rounds", default=11, show_default=True)
@click.option("--models", type=click.Path(path_type=Path), help="A folder where the models are made, and stay.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the result to a file too.")
def main(sizes: str, threads: str, rounds: int, models: Path | None, out: Path | None) -> None:
    """Compare huge pages with ordinary ones."""
    click.echo(json.dumps(machine()))
    rows = []
    with models_in(models) as folder:
        for size in sizes.split(","):
            rows += [compare(folder, size, int(count), rounds) for count in threads.split(",")]
    finish(machine() | {"rounds": rounds, "rows": rows}, out)


def compare(models: Models, size: str, threads: int, rounds: int) -> dict[str, Any]:
    """One size on so many threads."""
    ours = models.ours(size)
    chosen = [ours, Contender(SMALL_PAGES, ours.model, size)]
    speeds = np.array([[speed_of_new_process(contender, threads) for contender in chosen] for _ in range(rounds)])
    huge, small = np.median(speeds, axis=0)
    ratio = float(np.median(speeds[:, 0] / speeds[:, 1]))
    click.echo(f"{size:>12} {threads} thread(s)  huge {huge:8.1f}  ordinary {small:8.1f} tokens/s  ratio {ratio:.2f}")
    row = {"size": size, "threads": threads, "ratio": ratio}
    return row | {"huge_tokens_per_s": float(huge), "ordinary_tokens_per_s": float(small)}


def speed_of_new_process(contender: Contender, threads: int) -> float:
    """Tokens per second: the median of some generations of a process."""
    worker = Worker(contender, threads)
    worker.warm_up()
    speed = float(np.median([worker.decode() for _ in range(GENERATIONS)]))
    worker.close()
    return speed


if __name__ == "__main__":
    main()
