"""How fast are answers that several threads ask of one model, merged into batches or not?

    python -m benchmarks.speed.threads smollm2-135m-int8

Eight threads ask for one greedy answer each, of the same length. Beside them stand one list of eight prompts, and one
prompt by itself. A round takes all four in turns; tokens per second are those of all answers, prompts included in the
time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import click
import numpy as np

import doge_export
from benchmarks.common import options
from benchmarks.common.decoders import random_ids
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median, seconds
from doge_export import Model

THREADS, PROMPT, NEW = 8, 32, 64


def answer(model: Model, prompt: list[int]) -> None:
    """One answer of NEW tokens."""
    model.generate(prompt, max_new_tokens=NEW, temperature=0.0, ignore_eos=True)


def by_threads(model: Model, prompts: list[list[int]]) -> None:
    """Every prompt in a thread of its own."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        list(pool.map(partial(answer, model), prompts))


def as_list(model: Model, prompts: list[list[int]]) -> None:
    """One call for all prompts."""
    model.generate(prompts, max_new_tokens=NEW, temperature=0.0, ignore_eos=True)


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@options.thread_counts
@options.rounds(7)
@options.json_file
def main(folder: Path, thread_counts: tuple[int, ...], rounds: int, out: Path | None) -> None:
    """Compare eight threads with a list of eight prompts and with one prompt."""
    announce()
    rows = []
    for threads in thread_counts:
        plain = doge_export.load(folder, threads=threads)
        merging = doge_export.load(folder, threads=threads, max_streams=THREADS)
        prompts = random_ids(plain.decoder.vocab_size, THREADS * PROMPT).reshape(THREADS, PROMPT).tolist()
        ways: dict[str, tuple[int, Callable[[], None]]] = {
            "one prompt": (1, partial(answer, plain, prompts[0])),
            "8 threads": (THREADS, partial(by_threads, plain, prompts)),
            "8 threads, max_streams=8": (THREADS, partial(by_threads, merging, prompts)),
            "a list of 8 prompts": (THREADS, partial(as_list, plain, prompts)),
        }
        for _, way in ways.values():
            way()
        times = in_turns([partial(seconds, way) for _, way in ways.values()], rounds)
        speeds = np.array([count * NEW for count, _ in ways.values()]) / times
        for index, name in enumerate(ways):
            speed, ratio = median(speeds[:, index]), median(speeds[:, index] / speeds[:, 0])
            rows.append({"way": name, "threads": threads, "tokens_per_s": speed, "ratio": ratio})
            click.echo(f"{threads} thread(s), {name}: {speed:.0f} tokens/s ({ratio:.2f})")
    finish({"rounds": rounds, "rows": rows}, out)


if __name__ == "__main__":
    main()
