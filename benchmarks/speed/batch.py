"""How much faster are several sequences at once than one?

    python -m benchmarks.speed.batch --sizes 20m,60m,smollm2-135m --json results/batch-all.json

64 tokens of prompt for each sequence, then steps of all of them together; tokens per second are those of all. A round
takes 1, 2, 4 and 8 sequences in turns; ratios are medians of the rounds' ratios to one sequence.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common import options
from benchmarks.common.contenders import models_in
from benchmarks.common.decoders import random_ids
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median, seconds
from doge_export.measure.greedy import new_stream
from doge_export.measure.speed import time_greedy
from doge_export.runtime.decoder import Decoder

COUNTS = (1, 2, 4, 8)
PROMPT, STEPS = 64, 64  # tokens


@click.command()
@options.sizes
@options.thread_counts
@options.rounds(7)
@options.models
@options.json_file
def main(
    sizes: tuple[str, ...], thread_counts: tuple[int, ...], rounds: int, models: Path | None, out: Path | None
) -> None:
    """Compare decoding of several sequences with that of one."""
    announce()
    rows = []
    with models_in(models) as folder:
        for size in sizes:
            for threads in thread_counts:
                decoder = Decoder(Path(folder.ours(size).model), threads)
                rows += [{"size": size, "threads": threads, **row} for row in compare(decoder, rounds)]
    finish({"rounds": rounds, "rows": rows}, out)


def compare(decoder: Decoder, rounds: int) -> list[dict[str, Any]]:
    """A row for each number of sequences."""
    for sequences in COUNTS:
        tokens_per_s(decoder, sequences, steps=4)
    speeds = in_turns([partial(tokens_per_s, decoder, sequences) for sequences in COUNTS], rounds)
    rows = []
    for i, sequences in enumerate(COUNTS):
        speed, ratio = median(speeds[:, i]), median(speeds[:, i] / speeds[:, 0])
        rows.append({"sequences": sequences, "tokens_per_s": speed, "ratio": ratio})
        click.echo(f"{decoder.threads} thread(s) {sequences} sequences {speed:8.1f} tokens/s ({ratio:.2f})")
    return rows


def tokens_per_s(decoder: Decoder, sequences: int, steps: int = STEPS) -> float:
    """Of the steps after the prompts; one sequence takes its steps as a single one does, and not as a batch."""
    prompts = random_ids(decoder.vocab_size, sequences * PROMPT).reshape(sequences, PROMPT)
    if sequences == 1:
        return time_greedy(partial(new_stream, decoder), prompts[0], steps).decode_tokens_per_s
    batch = decoder.new_batch(sequences)
    first = [int(decoder.forward(batch.open(), prompt)[0].argmax()) for prompt in prompts]

    def decode() -> None:
        tokens = first
        for _ in range(steps):
            tokens = batch.forward(tokens).argmax(axis=1).tolist()

    return sequences * steps / seconds(decode)


if __name__ == "__main__":
    main()
