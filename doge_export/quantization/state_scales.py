"""How large keys and values get, which gives the scales of a state in 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache

from doge_model.mask import numbers_of_key

from ..graph import KeyValueScales
from ..texts.calibration import calibration_sequences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from doge_model import Checkpoint, DogeForCausalLM

TEXT_TOKENS, RANDOM_TOKENS = 2048, 512
LARGEST = 127  # the code of the largest magnitude seen
DT_ROOM = 8.0  # how much larger dt may get than any seen, where nothing bounds it


def scale_sequences(checkpoint: Checkpoint, source: str | None, seed: int) -> list[NDArray[np.int64]]:
    """Pieces of a calibration text, where there is a tokenizer or a source, and random tokens: int64 [n] each.

    Raises:
        ExportError, OptionError: of `calibration_sequences`.
    """
    config = checkpoint.model.config
    rng = np.random.default_rng(seed)
    random = rng.integers(config.vocab_size, size=min(RANDOM_TOKENS, config.keep_window_size))
    if checkpoint.tokenizer is None and source is None:
        return [random]
    return [*calibration_sequences(checkpoint, source, TEXT_TOKENS, seed).numpy(), random]


def measure_scales(model: DogeForCausalLM, sequences: Sequence[NDArray[np.int64]]) -> KeyValueScales:
    """Scales for the largest magnitude of every channel of the keys (rotated) and values of some sequences.

    sequences: int64 [n] each. Rotation moves magnitude between the two channels of a pair as a key's position goes on.
    So both get the scale of the pair's length, which holds at every position.
    """
    largest = [largest_magnitudes(model, ids) for ids in sequences]
    keys, values, dt = (np.max(part, axis=0) / np.float32(LARGEST) for part in zip(*largest, strict=True))
    steps = np.exp2(np.ceil(np.log2(np.maximum(dt, np.finfo(np.float32).tiny))))
    keys, values = (np.where(part == 0, np.float32(1), part) for part in (keys, values))
    return KeyValueScales(keys, values, steps.astype(np.float32))


def largest_magnitudes(
    model: DogeForCausalLM, token_ids: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Of the keys' pairs of channels, the values' channels, and dt, in a sequence int64 [n].

    Returns float32 [layers, kv heads, head_dim] twice and [layers, kv heads, mask heads of each]. Where A is not
    positive, dt is at most 1; elsewhere it gets room beyond the largest seen.
    """
    head_dim, cache = model.config.head_dim, DynamicCache()
    assert head_dim is not None  # DogeConfig fills it in
    with torch.inference_mode():
        model(torch.from_numpy(token_ids)[None], past_key_values=cache, logits_to_keep=1)
    keys, values, dt = [], [], []
    for index, layer in enumerate(cache.layers):
        first, second = layer.keys[0, ..., :head_dim].float().chunk(2, dim=-1)  # [kv heads, n, head_dim / 2] each
        length = torch.hypot(first, second)
        keys.append(torch.cat((length, length), dim=-1).amax(dim=1).numpy())
        values.append(layer.values[0].float().abs().amax(dim=1).numpy())
        numbers = layer.keys[0, ..., head_dim:].float().amax(dim=1)  # dt, then precedence
        seen = numbers.chunk(numbers_of_key(model.config.keep_bonus), dim=-1)[0]
        a = model.get_parameter(f"model.layers.{index}.self_attn.A").float().view_as(seen)
        dt.append(torch.where(a > 0, seen * DT_ROOM, 1.0).numpy())
    return np.stack(keys), np.stack(values), np.stack(dt)
