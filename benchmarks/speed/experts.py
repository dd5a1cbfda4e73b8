"""How fast is a model with experts beside the dense one that it grew from?

    python -m benchmarks.speed.experts

Both in 8 bits, each in a process of its own, in turns. Ratios are medians of the rounds' ratios, experts to dense.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.contenders import models_in
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median
from benchmarks.common.worker import workers

PAIRS = (("20m-moe", "20m"), ("120m-moe", "60m"))


@click.command()
@options.thread_counts
@options.rounds(11)
@options.models
@options.json_file
def main(thread_counts: tuple[int, ...], rounds: int, models: Path | None, out: Path | None) -> None:
    """Compare decoding with and without experts."""
    announce()
    rows = []
    with models_in(models) as folder:
        for sizes in PAIRS:
            pair = [folder.ours(size) for size in sizes]
            for threads in thread_counts:
                with workers(pair, threads) as started:
                    speeds = in_turns([worker.decode for worker in started], rounds)
                with_experts, dense = np.median(speeds, axis=0).tolist()
                ratio = median(speeds[:, 0] / speeds[:, 1])
                rows.append({"sizes": sizes, "threads": threads, "tokens_per_s": [with_experts, dense], "ratio": ratio})
                click.echo(f"{sizes[0]} {threads} thread(s) {with_experts:.1f}, {sizes[1]} {dense:.1f}: {ratio:.2f}")
    finish({"rounds": rounds, "rows": rows}, out)


if __name__ == "__main__":
    main()
