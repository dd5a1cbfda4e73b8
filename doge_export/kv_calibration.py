"""How large keys and values get: what the scales of a state in 8 bits are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache

from .graph import KeyValueScales
from .window_cost import long_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from doge_model import Checkpoint, DogeForCausalLM

TEXT_TOKENS, RANDOM_TOKENS = 2048, 512
LARGEST = 127  # the code of the largest magnitude seen


def calibration_tokens(checkpoint: Checkpoint) -> list[NDArray[np.int64]]:
    """The beginning of a long text, where there is a tokenizer, and random tokens: int64 [n] each."""
    config = checkpoint.model.config
    random = np.random.default_rng(0).integers(config.vocab_size, size=min(RANDOM_TOKENS, config.keep_window_size))
    _, text = long_text(checkpoint, min(TEXT_TOKENS, config.keep_window_size))
    return [text, random]


def measure_scales(model: DogeForCausalLM, sequences: Sequence[NDArray[np.int64]]) -> KeyValueScales:
    """Scales for the largest magnitude of every channel of the keys (rotated) and values of some sequences.

    Rotation moves magnitude between the two channels of a pair as a key's position goes on, so both get the scale of
    the pair's length: it holds at every position.
    """
    largest = [largest_magnitudes(model, ids) for ids in sequences]
    keys, values = (np.max(part, axis=0) / np.float32(LARGEST) for part in zip(*largest, strict=True))
    return KeyValueScales(np.where(keys == 0, np.float32(1), keys), np.where(values == 0, np.float32(1), values))


def largest_magnitudes(
    model: DogeForCausalLM, token_ids: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of the keys' pairs of channels and of the values' channels, int64 [n] -> float32 [layers, kv heads, head_dim]."""
    head_dim, cache = model.config.head_dim, DynamicCache()
    assert head_dim is not None  # DogeConfig fills it in
    with torch.inference_mode():
        model(torch.from_numpy(token_ids)[None], past_key_values=cache, logits_to_keep=1)
    keys, values = [], []
    for layer in cache.layers:
        first, second = layer.keys[0, ..., :head_dim].float().chunk(2, dim=-1)  # [kv heads, n, head_dim / 2] each
        pairs = torch.hypot(first, second).amax(dim=1)
        keys.append(torch.cat((pairs, pairs), dim=-1).numpy())
        values.append(layer.values[0].float().abs().amax(dim=1).numpy())
    return np.stack(keys), np.stack(values)
