"""How often does rounding still decide which key is kept?

    python -m benchmarks.quality.ties --sequences 200

Tiny random models of many forms, with windows of 3 to 64, read random tokens of an alphabet in random chunks. The
smaller the alphabet, the more equal values a window holds. The exported decoder and KeepWindowCache are compared with
the full matrix, and the full matrix with one that compares precedence to its last digit. The result counts the
sequences that differ by more than 1e-4 of the largest logit anywhere.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import options
from benchmarks.common.results import announce, finish
from doge_export.export.decoder_files import fold_model, write_decoder
from doge_export.quantization.rounding import simple_plan
from doge_export.recipes import RECIPES
from doge_export.runtime.decoder import Decoder
from doge_model import DogeConfig, DogeForCausalLM, KeepWindowCache

WINDOWS, ALPHABETS, LIMIT = (3, 4, 5, 8, 16, 31, 64), (2, 3, 5, 20), 1e-4
COMPARED = ("decoder", "KeepWindowCache", "to the last digit")
VOCAB_SIZE, HEADS, STD = 97, 4, 0.3
Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


@click.command()
@click.option("--sequences", default=60, show_default=True, help="Of each alphabet.")
@click.option("--seed", default=0, show_default=True)
@options.json_file
def main(sequences: int, seed: int, out: Path | None) -> None:
    """Count the sequences that differ from the full matrix."""
    announce()
    rng, rows = np.random.default_rng(seed), []
    for alphabet in ALPHABETS:
        differs = np.array([differences(rng, alphabet) for _ in range(sequences)]) > LIMIT
        counts = dict(zip(COMPARED, differs.sum(axis=0).tolist(), strict=True))
        rows.append({"alphabet": alphabet, "sequences": sequences} | counts)
        click.echo(rows[-1])
    finish({"seed": seed, "rows": rows}, out)


def differences(rng: np.random.Generator, alphabet: int) -> list[float]:
    """Of one sequence and each of COMPARED, as a share of the largest logit."""
    window = int(rng.choice(WINDOWS))
    model = random_model(rng, window)
    ids = rng.permutation(VOCAB_SIZE)[:alphabet][rng.integers(alphabet, size=int(rng.integers(5, 12) * window + 30))]
    pieces = np.split(ids, np.sort(rng.choice(len(ids) - 1, size=len(ids) // 4, replace=False)) + 1)
    expected = logits_of(model, ids)
    found = [decoder_logits(model, pieces), cached_logits(model, pieces)]
    with patch("doge_model.mask.TIE", 0.0):
        found.append(logits_of(model, ids))
    return [float(np.abs(expected - rows).max() / np.abs(expected).max()) for rows in found]


def random_model(rng: np.random.Generator, window: int) -> DogeForCausalLM:
    """A model of two layers in a random form: a mask head per kv head or per head, dense or with experts, and so on."""
    kv_heads = int(rng.choice((1, 2, 4)))
    per_kv_head, experts, biases = rng.random(3) < (0.5, 0.2, 0.2)
    config = DogeConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        num_mask_heads=kv_heads if per_kv_head else HEADS,
        qk_norm=bool(per_kv_head),  # as the published forms pair them
        attention_bias=bool(biases),
        is_moe=bool(experts),
        num_experts=16,
        num_experts_per_tok=6,
        max_position_embeddings=32,
        keep_window_size=window,
        attn_implementation="eager",
    )
    model: DogeForCausalLM = DogeForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(int(rng.integers(10**6)))
    for parameter in model.parameters():
        parameter.data.normal_(std=STD, generator=generator)
    return model


def logits_of(model: DogeForCausalLM, ids: Ids) -> Logits:
    """Of a sequence in one go, by the full matrix: float32 [S, vocab]."""
    with torch.inference_mode():
        logits: Logits = model(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()
    return logits


def decoder_logits(model: DogeForCausalLM, pieces: Sequence[Ids]) -> Logits:
    """Of a stream in pieces, by the exported decoder: float32 [S, vocab]."""
    gc.collect()  # decoders of earlier sequences
    with tempfile.TemporaryDirectory() as folder:
        folded = fold_model(model)
        write_decoder(folded, simple_plan(folded.matrices, RECIPES["fp32"]), Path(folder))
        decoder = Decoder(Path(folder), threads=1)
        state = decoder.new_state()
        return np.concatenate([decoder.forward(state, piece, "all").copy() for piece in pieces])


def cached_logits(model: DogeForCausalLM, pieces: Sequence[Ids]) -> Logits:
    """Of a stream in pieces, by the recurrent form in PyTorch: float32 [S, vocab]."""
    cache = KeepWindowCache(model.config)
    with torch.inference_mode():
        rows = [model(torch.from_numpy(piece)[None], past_key_values=cache).logits[0].numpy() for piece in pieces]
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
