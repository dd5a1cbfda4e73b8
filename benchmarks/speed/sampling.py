"""How long does the choice of a token take?

    python -m benchmarks.speed.sampling

Logits are of random tokens with the long tail of real ones; the result is medians in microseconds.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import median, seconds
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
@options.json_file
def main(vocabulary: int, tokens: int, out: Path | None) -> None:
    """Time each of the settings."""
    announce()
    rng = np.random.default_rng(0)
    scales = rng.uniform(1.5, 3, size=(tokens, 1))  # from flat to peaked
    rows = (rng.gumbel(size=(tokens, vocabulary)) * scales).astype(np.float32)
    found = {}
    for name, settings in SETTINGS.items():
        choose = token_chooser(settings)
        found[name] = round(1e6 * median([seconds(choose, row) for row in rows]), 1)
    finish({"vocabulary": vocabulary, "us_per_token": found}, out)


if __name__ == "__main__":
    main()
