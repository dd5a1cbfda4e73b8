"""Several sequences at once against one: python benchmarks/batch.py --sizes 20m,60m

64 tokens of prompt for each, then steps of all of them together; tokens per second are those of all. Rounds take 1, 2,
4 and 8 sequences in turns; ratios are medians of a round's, to one sequence. The last line is one JSON object.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from contenders import finish, machine, models_in

from doge_export.runtime.decoder import Decoder

COUNTS = (1, 2, 4, 8)
PROMPT, STEPS = 64, 64  # tokens


@click.command()
@click.option("--sizes", default="20m", show_default=True, help="Family members or smollm2-135m, separated by commas.")
@click.option("--threads", default="1,2", show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--models", type=click.Path(path_type=Path), help="A folder where the models are made, and stay.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the result to a file too.")
def main(sizes: str, threads: str, rounds: int, models: Path | None, out: Path | None) -> None:
    """Compare decoding of several sequences with that of one."""
    click.echo(json.dumps(machine()))
    with models_in(models) as folder:
        decoders = {
            (size, count): Decoder(Path(folder.ours(size).model), count)
            for size in sizes.split(",")
            for count in map(int, threads.split(","))
        }
    click.echo("measuring")
    rows = []
    for (size, count), decoder in decoders.items():
        rows += [{"size": size, "threads": count, **row} for row in compare(decoder, rounds)]
    finish(machine() | {"rounds": rounds, "rows": rows}, out)


def compare(decoder: Decoder, rounds: int) -> list[dict[str, Any]]:
    """A row for each number of sequences."""
    for sequences in COUNTS:
        tokens_per_s(decoder, sequences, steps=4)
    speeds = np.array([[tokens_per_s(decoder, sequences) for sequences in COUNTS] for _ in range(rounds)])
    rows = []
    for i, sequences in enumerate(COUNTS):
        speed, ratio = np.median(speeds[:, i]), np.median(speeds[:, i] / speeds[:, 0])
        rows.append({"sequences": sequences, "tokens_per_s": float(speed), "ratio": float(ratio)})
        click.echo(f"{decoder.threads} thread(s) {sequences} sequences {speed:8.1f} tokens/s ({ratio:.2f})")
    return rows


def tokens_per_s(decoder: Decoder, sequences: int, steps: int = STEPS) -> float:
    """Of the steps after the prompts; one sequence takes its steps as a single one does, and not as a batch."""
    ids = np.random.default_rng(0).integers(3, decoder.vocab_size, size=(sequences, PROMPT))
    if sequences == 1:
        state, token = decoder.new_state(), np.zeros(1, np.int64)
        decoder.forward(state, ids[0])
        start = time.perf_counter()
        for _ in range(steps):
            token[0] = decoder.forward(state, token)[0].argmax()
        return steps / (time.perf_counter() - start)
    batch = decoder.new_batch(sequences)
    tokens = [int(decoder.forward(batch.open(), prompt)[0].argmax()) for prompt in ids]
    start = time.perf_counter()
    for _ in range(steps):
        tokens = batch.forward(tokens).argmax(axis=1).tolist()
    return sequences * steps / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
