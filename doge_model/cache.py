"""The recurrent form in PyTorch: a cache that never holds more than keep_window_size keys per mask head.

    model.generate(input_ids, past_key_values=KeepWindowCache(model.config), max_new_tokens=100_000)

dt of a key depends on nothing but its value, so a key that falls out of the window for one query is out for all later
ones: the survivors of a step are the survivors of the step before, plus the newcomers, minus the smallest dt. Memory
and time per token are constant, and every logit is the one of the full computation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from .configuration import DogeConfig
from .mask import tie_classes


class KeepWindowLayer(DynamicLayer):
    """The surviving keys of one layer, in the order in which they came.

    keys [B, M, K, D + 2] (rotated; then dt and precedence) and values [B, M, K, D], K at most keep_window_size. The
    survivors differ between mask heads, so keys and values are kept for each, also where attention heads share them.
    """

    is_croppable = False  # what fell out of the window cannot come back

    def __init__(self, keep_window_size: int, head_dim: int) -> None:
        super().__init__()
        self.keep_window_size, self.head_dim = keep_window_size, head_dim
        self.tokens_seen = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add keys [B, G, T, D + 2 M / G] and values [B, G, T, D]; returns survivors and newcomers [B, M, K + T, ...].

        The attention of this step sees all of them and masks, query by query, what has fallen out.
        """
        key_states, value_states = per_mask_head(key_states, value_states, self.head_dim)
        self.tokens_seen += key_states.shape[2]
        keys, values = super().update(key_states, value_states)
        if keys.shape[2] > self.keep_window_size:
            order = tie_classes(keys[..., -1]).argsort(dim=-1, stable=True)  # of equals the most recent comes last
            kept = order[..., -self.keep_window_size :].sort(dim=-1).values
            self.keys, self.values = (
                x.gather(2, kept[..., None].expand(*kept.shape, x.shape[-1])) for x in (keys, values)
            )
        return keys, values

    def crop(self, max_length: int) -> None:
        """Forget all tokens from max_length on, or the last -max_length; ValueError once keys have dropped out."""
        length = max(0, self.tokens_seen + max_length) if max_length < 0 else max_length
        if length >= self.tokens_seen:
            return
        if self.tokens_seen > self.keep_window_size:
            raise ValueError(
                f"cannot crop to {length} tokens: {self.tokens_seen} were fed to a window of {self.keep_window_size}, "
                "and what fell out is gone; keep a copy of the cache to return to"
            )
        self.keys, self.values = self.keys[..., :length, :], self.values[..., :length, :]
        self.tokens_seen = length

    def get_seq_length(self) -> int:
        """Tokens fed so far, which is the position of the next one; not the number of keys held."""
        return self.tokens_seen

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.tokens_seen = 0


def per_mask_head(key: Tensor, value: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Give every mask head its own copy of its kv head's key, with its own dt and precedence.

    key [B, G, T, D + 2 M / G] -> [B, M, T, D + 2], value [B, G, T, D] -> [B, M, T, D].
    """
    rotated, states = key.split((head_dim, key.shape[-1] - head_dim), dim=-1)
    heads = states.shape[-1] // 2
    if heads == 1:
        return key, value
    own = [part.transpose(2, 3).flatten(1, 2)[..., None] for part in states.chunk(2, dim=-1)]
    return torch.cat((rotated.repeat_interleave(heads, dim=1), *own), dim=-1), value.repeat_interleave(heads, dim=1)


class KeepWindowCache(Cache):
    """A cache for `generate` and `forward` whose size does not grow beyond the model's keep_window_size."""

    def __init__(self, config: DogeConfig) -> None:
        head_dim = config.head_dim
        assert head_dim is not None
        layers = [KeepWindowLayer(config.keep_window_size, head_dim) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=layers)
        self.keep_window_size = config.keep_window_size

    def check(self, config: DogeConfig) -> None:
        """ValueError unless the cache is of the window and the layers of this model."""
        made = self.keep_window_size, len(self.layers)
        if made != (config.keep_window_size, config.num_hidden_layers):
            raise ValueError(
                f"the cache was made for a window of {made[0]} tokens and {made[1]} layers, but this model has "
                f"{config.keep_window_size} and {config.num_hidden_layers}; make it by KeepWindowCache(model.config)"
            )
