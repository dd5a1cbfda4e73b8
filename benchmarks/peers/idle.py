"""How much processor time does a model take while nobody asks it?

    python -m benchmarks.peers.idle --sizes 20m,60m

A process of its own opens the decoder and answers once. Then it waits for the next question, and its processor time is
read before and after, over all of its threads. To wake up and be read takes a millisecond by itself. So there is a
short wait and a long one: an idle model takes no more for the long one. llama.cpp is measured beside it where it is
installed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.contenders import LLAMA, Contender, Models, installed, models_in
from benchmarks.common.results import Result, announce, finish
from benchmarks.common.timing import in_turns
from benchmarks.common.worker import Worker, workers

WAITS_S = (0.5, 5.0)


@click.command()
@options.sizes
@options.thread_counts
@options.rounds(3)
@options.models
@options.json_file
def main(
    sizes: tuple[str, ...], thread_counts: tuple[int, ...], rounds: int, models: Path | None, out: Path | None
) -> None:
    """Measure the processor time of idle models."""
    announce()
    rows = []
    with models_in(models) as folder:
        for size in sizes:
            for threads in thread_counts:
                rows += measure(contenders(folder, size), threads, rounds)
    finish({"rounds": rounds, "waits_s": WAITS_S, "rows": rows}, out)


def contenders(models: Models, size: str) -> list[Contender]:
    """Ours, and llama.cpp where it is installed."""
    return [models.ours(size), *([models.peer(LLAMA, size)] if installed(LLAMA) else [])]


def measure(chosen: Sequence[Contender], threads: int, rounds: int) -> list[Result]:
    """A line and a row for each: processor time of an answer, and of each of the waits behind one."""
    with workers(chosen, threads) as started:
        found = in_turns([partial(once, worker) for worker in started], rounds)  # [rounds, contenders, 1 + waits]
    rows: list[Result] = []
    for contender, times in zip(chosen, 1e3 * np.median(found, axis=0), strict=True):
        answer, *waits = times.tolist()
        row: Result = {"size": contender.size, "threads": threads, "contender": contender.kind}
        rows.append(row | {"answer_ms": answer, "waits_ms": waits})
        text = ", ".join(f"{wait:g} s of waiting {ms:.2f} ms" for wait, ms in zip(WAITS_S, waits, strict=True))
        click.echo(f"{contender.size} {threads} thread(s) {contender.kind:<12} an answer {answer:.0f} ms, {text}")
    return rows


def once(worker: Worker) -> list[float]:
    """Seconds of processor time: of an answer with a short wait behind it, then of each wait."""
    found = [worker.processor_s()]
    worker.decode()
    for wait in (WAITS_S[0], *WAITS_S):
        time.sleep(wait)
        found.append(worker.processor_s())
    return [after - before for before, after in itertools.pairwise(found)]


if __name__ == "__main__":
    main()
