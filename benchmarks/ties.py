"""How often rounding still decides which key stays: python -m benchmarks.ties

Tiny random models of all forms and windows of 3 to 64, fed random tokens of an alphabet in random chunks. The smaller
the alphabet, the more equal values a window holds. The exported decoder and KeepWindowCache are compared with the full
matrix, and the full matrix with one that compares precedence to its last digit. The last line is one JSON object:
sequences, and how many of them differ by more than 1e-4 of the largest logit.
"""

from __future__ import annotations

import gc
import json
import tempfile
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
from numpy.typing import NDArray

from doge_model import DogeForCausalLM, KeepWindowCache
from tests.helpers.models import FORMS, VOCAB_SIZE, exported, relative_difference, tiny_model, torch_logits

WINDOWS, ALPHABETS, LIMIT = (3, 4, 5, 8, 16, 31, 64), (2, 3, 5, 20), 1e-4
Ids = NDArray[np.int64]


@click.command()
@click.option("--sequences", default=60, show_default=True, help="Of each alphabet.")
@click.option("--seed", default=0, show_default=True)
def main(sequences: int, seed: int) -> None:
    """Count the sequences that differ from the full matrix."""
    rng, found = np.random.default_rng(seed), []
    for alphabet in ALPHABETS:
        differs = np.array([differences(rng, alphabet) for _ in range(sequences)]) > LIMIT
        counts = dict(
            zip(("decoder", "KeepWindowCache", "to the last digit"), differs.sum(axis=0).tolist(), strict=True)
        )
        found.append({"alphabet": alphabet, "sequences": sequences} | counts)
        click.echo(found[-1])
    click.echo(json.dumps(found))


def differences(rng: np.random.Generator, alphabet: int) -> list[float]:
    """Of one sequence, as a share of the largest logit: the decoder's, the cache's, those of a model whose TIE is 0."""
    form, window = FORMS[rng.choice(list(FORMS))], int(rng.choice(WINDOWS))
    model = tiny_model(seed=int(rng.integers(10**6)), **form | {"keep_window_size": window})
    ids = rng.permutation(VOCAB_SIZE)[:alphabet][rng.integers(alphabet, size=int(rng.integers(5, 12) * window + 30))]
    pieces = np.split(ids, np.sort(rng.choice(len(ids) - 1, size=len(ids) // 4, replace=False)) + 1)
    expected = torch_logits(model, ids)
    gc.collect()  # decoders of earlier sequences
    with tempfile.TemporaryDirectory() as folder:
        decoder = exported(model, Path(folder))
        state = decoder.new_state()
        rows = np.concatenate([decoder.forward(state, piece, "all").copy() for piece in pieces])
    with patch("doge_model.mask.TIE", 0.0):
        exact = torch_logits(model, ids)
    return [relative_difference(expected, found) for found in (rows, cached_logits(model, pieces), exact)]


def cached_logits(model: DogeForCausalLM, pieces: list[Ids]) -> NDArray[np.float32]:
    """Of a stream in pieces, by the recurrent form in PyTorch."""
    cache = KeepWindowCache(model.config)
    with torch.inference_mode():
        rows = [model(torch.from_numpy(piece)[None], past_key_values=cache).logits[0].numpy() for piece in pieces]
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
