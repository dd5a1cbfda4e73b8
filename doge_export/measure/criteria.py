"""Published criteria by which a window evicts keys, in PyTorch: a Llama's learned window is compared with them.

- recency: the oldest key leaves (StreamingLLM where the first keys stay, arXiv:2309.17453).
- accumulated attention: the key leaves that all queries together attended to least; the most recent half of the window
  is safe (H2O, arXiv:2306.14048).
- last attention: the key leaves that the last query attends to least (TOVA, arXiv:2401.06104).
- key similarity: the key leaves whose direction is nearest to that of the mean of all (KeyDiff).

Each kv head keeps keys of its own. Keys leave after every CHUNK tokens. So a query sees up to CHUNK - 1 keys more than
the window has, in favour of these criteria.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from doge_model import DogeConfig, DogeForCausalLM, KeepWindowCache
from doge_model.cache import KeepWindowLayer
from doge_model.mask import sink_bias
from doge_model.modeling import DogeAttention, repeat_heads

from .windows import Window

CHUNK = 32  # tokens
PUBLISHED = ("accumulated attention", "last attention", "key similarity")
CRITERIA = ("recency", *PUBLISHED)


class CriterionLayer(KeepWindowLayer):
    """A layer's kept keys [B, G, K, D + 2], their values, and the scores [B, G, K] by which they leave."""

    def __init__(self, criterion: str, window: Window, head_dim: int) -> None:
        super().__init__(*window[:2], head_dim)
        self.criterion, self.window = criterion, window
        self.scores: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys; `evict` brings them back to the window once their attention is known."""
        self.tokens_seen += key_states.shape[2]
        keys, values = DynamicLayer.update(self, key_states, value_states)
        return keys, values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times."""
        super().batch_repeat_interleave(repeats)
        self.scores = None if self.scores is None else self.scores.repeat_interleave(repeats, dim=0)

    def evict(self, weights: Tensor) -> None:
        """weights: attention of the chunk's queries, float32 [B, H, T, K]."""
        batch, _, queries, count = weights.shape
        groups = weights.view(batch, self.keys.shape[1], -1, queries, count)  # heads of a group apart
        if self.criterion == "accumulated attention":
            before = torch.zeros(groups.shape[0], groups.shape[1], 0) if self.scores is None else self.scores
            self.scores = F.pad(before, (0, groups.shape[-1] - before.shape[-1])) + groups.sum((2, 3))
        size, sinks = self.window.keep_window_size, self.window.keep_sinks
        if self.keys.shape[2] <= size:
            return
        scores = self._scores(groups)
        scores[..., :sinks] = torch.inf
        kept = scores.topk(size, dim=-1).indices.sort(dim=-1).values  # in the order of the stream
        self.keys, self.values = (
            x.gather(2, kept[..., None].expand(*kept.shape, x.shape[-1])) for x in (self.keys, self.values)
        )
        if self.scores is not None:
            self.scores = self.scores.gather(2, kept)

    def _scores(self, groups: Tensor) -> Tensor:
        """The worth of every key: [B, G, K]."""
        count = groups.shape[-1]
        if self.criterion == "recency":
            return torch.arange(count, dtype=torch.float32).expand(*groups.shape[:2], -1).clone()
        if self.criterion == "accumulated attention":
            assert self.scores is not None
            scores = self.scores.clone()
            scores[..., count - self.window.keep_window_size // 2 :] = torch.inf
            return scores
        if self.criterion == "last attention":
            return groups[..., -1, :].mean(2)
        directions: Tensor = F.normalize(self.keys[..., : self.head_dim], dim=-1)
        return -(directions * F.normalize(directions.mean(2, keepdim=True), dim=-1)).sum(-1)


class CriterionCache(KeepWindowCache):
    """A cache of a criterion, for `forward` within `criterion_used`."""

    def __init__(self, config: DogeConfig, criterion: str, window: Window) -> None:
        super().__init__(config)
        head_dim = config.head_dim
        assert head_dim is not None  # DogeConfig fills it in
        self.layers = [CriterionLayer(criterion, window, head_dim) for _ in range(config.num_hidden_layers)]


@contextmanager
def criterion_used(model: DogeForCausalLM, cache: CriterionCache) -> Iterator[None]:
    """Within the block, the model's attention goes over the keys of this cache, which then leave by its criterion."""

    def attend(
        layer: DogeAttention,
        query: Tensor,
        sink_query: Tensor | None,
        key: Tensor,
        value: Tensor,
        dt: Tensor,
        precedence: Tensor,
    ) -> tuple[Tensor, None]:
        of_layer = cache.layers[layer.layer_idx]
        assert isinstance(of_layer, CriterionLayer)
        times = query.shape[1] // key.shape[1]
        every_key, every_value = repeat_heads(key, times), repeat_heads(value, times)
        count, new = key.shape[2], query.shape[2]
        scores = query @ every_key.transpose(2, 3) * query.shape[-1] ** -0.5
        if sink_query is not None:
            is_sink = (torch.arange(count) < of_layer.window.keep_sinks).expand(*scores.shape[:2], -1)
            scores = scores + sink_bias(query, sink_query, every_key, is_sink)
        later = torch.arange(count) > torch.arange(count - new, count)[:, None]
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        of_layer.evict(weights)
        return weights @ every_value, None

    layers = [each for each in model.modules() if isinstance(each, DogeAttention)]
    for each in layers:
        each.attend = partial(attend, each)  # type: ignore[method-assign]  # the reference itself has no criteria
    try:
        yield
    finally:
        for each in layers:
            del each.attend


def read(model: DogeForCausalLM, ids: Tensor, cache: CriterionCache) -> Iterator[tuple[int, Tensor]]:
    """Feed int64 [B, S] tokens; the first position of every chunk, and its logits [B, CHUNK, vocab]."""
    for start in range(0, ids.shape[1], CHUNK):
        with criterion_used(model, cache), torch.inference_mode():
            logits = model(ids[:, start : start + CHUNK], past_key_values=cache).logits
        yield start, logits
