"""What choosing a token costs: python benchmarks/sampling.py

Logits are of random tokens with the long tail of real ones; medians in microseconds as one JSON object.
"""

from __future__ import annotations

import json
import time

import click
import numpy as np

from doge_export.runtime.generation import token_chooser
from doge_export.runtime.generation_options import GenerationOptions

SETTINGS = {
    "greedy": GenerationOptions(),
    "temperature 0.8": GenerationOptions(temperature=0.8),
    "temperature 0.8, top-p 0.9": GenerationOptions(temperature=0.8, top_p=0.9),
    "temperature 0.8, top-k 50": GenerationOptions(temperature=0.8, top_k=50),
    "temperature 0.8, min-p 0.1": GenerationOptions(temperature=0.8, min_p=0.1),
}


@click.command()
@click.option("--vocabulary", default=32768, show_default=True)
@click.option("--tokens", default=200, show_default=True)
def main(vocabulary: int, tokens: int) -> None:
    """Time each of the settings."""
    rng, result = np.random.default_rng(0), {}
    scales = rng.uniform(1.5, 3, size=(tokens, 1))  # from flat to peaked
    rows = (rng.gumbel(size=(tokens, vocabulary)) * scales).astype(np.float32)
    for name, options in SETTINGS.items():
        choose, times = token_chooser(options), []
        for row in rows:
            start = time.perf_counter()
            choose(row)
            times.append(time.perf_counter() - start)
        result[name] = round(1e6 * float(np.median(times)), 1)
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
