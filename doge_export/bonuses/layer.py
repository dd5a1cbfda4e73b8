"""One layer's attention over a text, in the whole context and in a narrow window."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from doge_model.modeling import DogeAttention, DogeDecoderLayer
from doge_model.rotary import apply_rotary


class Window(NamedTuple):
    """Keys that are kept, how many first tokens are among them for good, the largest bonus, and how many last ones."""

    size: int
    sinks: int
    most: int
    recent: int = 0


@dataclass(frozen=True)
class Heads:
    """A layer's heads over one text.

    query [H, T, D] and key [G, T, D], both rotated, value [G, T, D]; size [T] of the residual that the output joins. An
    error counts as a share of it, for the norm behind it divides by it.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    size: Tensor

    @classmethod
    def of(cls, layer: DogeDecoderLayer, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Heads:
        """hidden [1, T, hidden] is the layer's input."""
        query, key, value = layer.self_attn.project(layer.input_layernorm(hidden))
        size = hidden[0].norm(dim=-1)
        return cls(apply_rotary(query, *rotary)[0], apply_rotary(key, *rotary)[0], value[0], size)

    @property
    def length(self) -> int:
        """Tokens of the text."""
        return self.key.shape[1]

    @property
    def times(self) -> int:
        """Attention heads of a kv head."""
        return len(self.query) // len(self.key)

    def features(self) -> Tensor:
        """The values of all kv heads side by side, which dt_proj sees: [T, G * D]."""
        return self.value.transpose(0, 1).flatten(1)

    def weights(self, asked: Tensor) -> Tensor:
        """Attention of the queries at int [Q] positions in the whole context: [H, Q, T]."""
        width = self.query.shape[-1]
        query = self.query[:, asked].reshape(len(self.key), -1, width)  # [G, times * Q, D]
        scores = (query @ self.key.transpose(1, 2)).view(len(self.query), len(asked), -1) * width**-0.5
        later = torch.arange(self.length) > asked[:, None]
        weights: Tensor = scores.masked_fill(later, -torch.inf).softmax(-1)
        return weights

    def outputs(self, weights: Tensor) -> Tensor:
        """Values by weights [H, Q, T] whose sum may be below 1: [H, Q, D]."""
        grouped = weights.reshape(len(self.key), -1, self.length)
        out: Tensor = (grouped @ self.value).view(*weights.shape[:2], -1) / weights.sum(-1, keepdim=True)
        return out


def written(attention: DogeAttention, outputs: Tensor) -> Tensor:
    """Each head's output behind o_proj: [H, Q, D] -> [H, Q, hidden]."""
    heads, _, width = outputs.shape
    return torch.einsum("hqd,ohd->hqo", outputs, attention.o_proj.weight.view(-1, heads, width))


def evicted_at(bonus: Tensor, window: Window) -> Tensor:
    """The first query that does not see a key any more, T where all do: whole [T] -> int64 [T].

    The rule of `doge_model.mask.kept_until`, token by token: a key competes once it is no longer recent.
    """
    gone, heap = [len(bonus)] * len(bonus), list[tuple[float, int]]()
    for position, own in enumerate(bonus[: max(0, len(bonus) - window.recent)].tolist()):
        if position < window.sinks:
            continue
        key = (position + own, position)
        if len(heap) < window.size - window.sinks - window.recent:
            heapq.heappush(heap, key)
        else:
            gone[heapq.heappushpop(heap, key)[1]] = position + window.recent
    return torch.tensor(gone)
