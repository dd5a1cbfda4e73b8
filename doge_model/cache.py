"""The recurrent form in PyTorch: a cache that never holds more than keep_window_size keys per mask head.

    model.generate(input_ids, past_key_values=KeepWindowCache(model.config), max_new_tokens=100_000)

The dt of a key depends on its value alone, so a key that is evicted for one query is evicted for all later ones. A step
therefore keeps the largest of the keys that the step before kept and of its own. Memory and time per token are
constant, and every logit is that of the full computation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from doge_common.errors import OptionError

from .configuration import DogeConfig
from .mask import numbers_of_key, split_numbers, tie_classes, with_recent, with_sinks


class KeepWindowLayer(DynamicLayer):
    """The kept keys of one layer, in the order of their tokens.

    keys [B, M, K, D + N] hold the rotated key, then its `numbers_of_key`; values [B, M, K, D]; K is at most
    keep_window_size. Mask heads keep different keys, so each has its own copies, also of a key that they share.
    """

    is_croppable = False  # evicted keys cannot come back

    def __init__(
        self, keep_window_size: int, keep_sinks: int, head_dim: int, keep_bonus: int = 0, keep_recent: int = 0
    ) -> None:
        super().__init__()
        self.keep_window_size, self.keep_sinks, self.head_dim = keep_window_size, keep_sinks, head_dim
        self.keep_bonus, self.keep_recent = keep_bonus, keep_recent
        self.tokens_seen = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add keys [B, G, T, D + N M / G] and values [B, G, T, D]; returns kept and new ones [B, M, K + T, ...].

        The attention of this step gets all of them, and masks those that are evicted for each of its queries.
        """
        key_states, value_states = per_mask_head(
            key_states, value_states, self.head_dim, numbers_of_key(self.keep_bonus)
        )
        self.tokens_seen += key_states.shape[2]
        keys, values = super().update(key_states, value_states)
        if keys.shape[2] > self.keep_window_size:
            _, precedence = split_numbers(keys[..., self.head_dim :], self.keep_bonus)
            precedence = with_recent(with_sinks(precedence, self.keep_sinks), self.keep_recent)
            order = tie_classes(precedence).argsort(dim=-1, stable=True)  # of equals the most recent comes last
            kept = order[..., -self.keep_window_size :].sort(dim=-1).values
            self.keys, self.values = (
                x.gather(2, kept[..., None].expand(*kept.shape, x.shape[-1])) for x in (keys, values)
            )
        return keys, values

    def crop(self, max_length: int) -> None:
        """Forget all tokens from max_length on, or the last -max_length.

        transformers catches nothing here: it asks `is_croppable` first. So the error is one of this package's tree,
        and a ValueError, which transformers' own layers raise for a length that they do not take.

        Raises:
            OptionError: keys have been evicted, so the state of fewer tokens is gone.
        """
        length = max(0, self.tokens_seen + max_length) if max_length < 0 else max_length
        if length >= self.tokens_seen:
            return
        if self.tokens_seen > self.keep_window_size:
            raise OptionError(
                f"max_length is {max_length}; it must be at least the {self.tokens_seen} tokens fed, as the window of "
                f"{self.keep_window_size} has evicted keys; keep a copy to rewind"
            )
        self.keys, self.values = self.keys[..., :length, :], self.values[..., :length, :]
        self.tokens_seen = length

    def get_seq_length(self) -> int:
        """The number of tokens fed, which is the position of the next one; fewer keys may be held."""
        return self.tokens_seen

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.tokens_seen = 0


def per_mask_head(key: Tensor, value: Tensor, head_dim: int, numbers: int) -> tuple[Tensor, Tensor]:
    """Copy each kv head's keys and values for every mask head of its group, which has its own dt and precedence.

    key [B, G, T, D + numbers * M / G] -> [B, M, T, D + numbers], value [B, G, T, D] -> [B, M, T, D].
    """
    rotated, states = key.split((head_dim, key.shape[-1] - head_dim), dim=-1)
    heads = states.shape[-1] // numbers
    if heads == 1:
        return key, value
    own = [part.transpose(2, 3).flatten(1, 2)[..., None] for part in states.chunk(numbers, dim=-1)]
    return torch.cat((rotated.repeat_interleave(heads, dim=1), *own), dim=-1), value.repeat_interleave(heads, dim=1)


class KeepWindowCache(Cache):
    """A cache for `generate` and `forward` that never grows beyond the model's keep_window_size."""

    def __init__(self, config: DogeConfig) -> None:
        head_dim = config.head_dim
        assert head_dim is not None
        self.keep_window_size, self.keep_sinks = config.keep_window_size, config.keep_sinks
        self.keep_bonus, self.keep_recent = config.keep_bonus, config.keep_recent
        rule = self.keep_bonus, self.keep_recent
        layers = [
            KeepWindowLayer(self.keep_window_size, self.keep_sinks, head_dim, *rule)
            for _ in range(config.num_hidden_layers)
        ]
        super().__init__(layers=layers)

    def check(self, config: DogeConfig) -> None:
        """Refuse a model of another window, other sinks, bonuses, safe keys or layers than the cache is for.

        Raises:
            OptionError: the cache is for another model.
        """
        made = self.keep_window_size, self.keep_sinks, self.keep_bonus, self.keep_recent, len(self.layers)
        rule = config.keep_window_size, config.keep_sinks, config.keep_bonus, config.keep_recent
        needed = *rule, config.num_hidden_layers
        if made != needed:
            raise OptionError(
                f"the cache has a window of {made[0]}, {made[1]} sinks, keep_bonus {made[2]}, keep_recent {made[3]} "
                f"and {made[4]} layers; it must have {', '.join(map(str, rule))} and {needed[-1]}, as of "
                "KeepWindowCache(model.config)"
            )
