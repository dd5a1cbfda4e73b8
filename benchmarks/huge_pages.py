"""What huge pages for the weights give: python benchmarks/huge_pages.py --sizes 20m,60m,160m,320m

Decodes with the weights in huge pages and in ordinary ones, in turns, in new processes every round: where a process's
ordinary pages lie is chance, and makes some processes slower for all their life. The last line is one JSON object with
the medians, the median and the extremes of the rounds' ratios, above 1 where huge pages are faster, and how long new
processes took to move the weights once the model was open.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
from contenders import Contender, Models, Worker, finish, machine, models_in
from peer_workers import SMALL_PAGES

from doge_export.runtime.decoder import Decoder

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
    ratios = speeds[:, 0] / speeds[:, 1]
    row = {
        "size": size,
        "threads": threads,
        "huge_tokens_per_s": float(np.median(speeds[:, 0])),
        "ordinary_tokens_per_s": float(np.median(speeds[:, 1])),
        "ratio": float(np.median(ratios)),
        "least_ratio": float(ratios.min()),
        "most_ratio": float(ratios.max()),
        "move_ms": sorted(in_new_process(move_ms, ours.model) for _ in range(rounds)),
    }
    click.echo(
        f"{size:>12} {threads} thread(s)  huge {row['huge_tokens_per_s']:7.1f}  ordinary "
        f"{row['ordinary_tokens_per_s']:7.1f} tokens/s  ratio {row['ratio']:.2f} ({row['least_ratio']:.2f} to "
        f"{row['most_ratio']:.2f})  moved in {row['move_ms'][0]:.0f} to {row['move_ms'][-1]:.0f} ms"
    )
    return row


def in_new_process(function: Callable[[str], float], argument: str) -> float:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, argument).result()


def move_ms(model: str) -> float:
    """Milliseconds from the end of opening a model until its weights have moved."""
    decoder = Decoder(Path(model), 1)
    start = time.perf_counter()
    for thread in threading.enumerate():
        if thread.name == "huge-pages":
            thread.join()
    del decoder  # not before: its memory would be gone
    return 1e3 * (time.perf_counter() - start)


def speed_of_new_process(contender: Contender, threads: int) -> float:
    """Tokens per second: the median of some generations of a process."""
    worker = Worker(contender, threads)
    worker.warm_up()
    speed = float(np.median([worker.decode() for _ in range(GENERATIONS)]))
    worker.close()
    return speed


if __name__ == "__main__":
    main()
