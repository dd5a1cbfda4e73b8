"""A model with experts against the dense one it grew from: python benchmarks/experts.py

Both in 8 bits, each in a process of its own, in turns. Ratios are medians of the pairwise ratios of a round, the one
with experts to the dense one. The last line is one JSON object.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from contenders import Worker, finish, machine, models_in

PAIRS = (("20m-moe", "20m"), ("120m-moe", "60m"))


@click.command()
@click.option("--threads", default="1,2", show_default=True)
@click.option("--rounds", default=11, show_default=True)
@click.option("--models", type=click.Path(path_type=Path), help="A folder where the models are made, and stay.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the result to a file too.")
def main(threads: str, rounds: int, models: Path | None, out: Path | None) -> None:
    """Compare decoding with and without experts."""
    click.echo(json.dumps(machine()))
    rows = []
    with models_in(models) as folder:
        pairs = [[folder.ours(size) for size in pair] for pair in PAIRS]
        workers = {
            count: [[Worker(c, count) for c in pair] for pair in pairs] for count in map(int, threads.split(","))
        }
        for worker in (w for pairs_of_workers in workers.values() for pair in pairs_of_workers for w in pair):
            worker.warm_up()  # it has opened its model by then
    click.echo("measuring")
    for count, pairs_of_workers in workers.items():
        for sizes, pair in zip(PAIRS, pairs_of_workers, strict=True):
            speeds = np.array([[worker.decode() for worker in pair] for _ in range(rounds)])
            with_experts, dense = np.median(speeds, axis=0).tolist()
            ratio = float(np.median(speeds[:, 0] / speeds[:, 1]))
            rows.append({"sizes": sizes, "threads": count, "tokens_per_s": [with_experts, dense], "ratio": ratio})
            click.echo(f"{sizes[0]} {count} thread(s) {with_experts:.1f}, {sizes[1]} {dense:.1f}: {ratio:.2f}")
    finish(machine() | {"rounds": rounds, "rows": rows}, out)


if __name__ == "__main__":
    main()
