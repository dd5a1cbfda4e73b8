"""Bookkeeping of a full window: which keys leave next, and moving the stayers into their slots.

Rule: of all keys of a mask head the keep_window_size largest dt stay, and of equal dt the most recent. Keys carry a
precedence that grows with dt; a key's `rank` is one int64 that orders by precedence, then by position in the stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]
ROUNDING = np.float32(1.5 * 2.0 ** (23 - 14 - 40))  # a graph computes precedence times 2^-40


def comparable(precedence: NDArray[np.float32]) -> NDArray[np.float32]:
    """Precedence rounded to 14 binary places: `doge_model.mask.comparable` says why. There is no -0 in it.

    The graph does the same with those of new keys (`doge_export.graph.eviction`), to the last bit.
    """
    return (precedence + ROUNDING) - ROUNDING


def make_ranks(precedence: NDArray[np.float32], positions: NDArray[np.int64]) -> Ranks:
    """precedence float32 and positions below 2**32, of one shape -> ranks of that shape."""
    bits = np.ascontiguousarray(comparable(precedence)).view(np.int32)
    return (_sortable(bits).astype(np.int64) << 32) + positions


def rank_precedence(ranks: Ranks) -> NDArray[np.float32]:
    """The precedence in ranks, as it was rounded to be compared."""
    return _sortable((ranks >> 32).astype(np.int32)).view(np.float32)


def _sortable(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Bits of a float32 <-> an int32 that sorts like it: below zero a larger magnitude comes first."""
    return np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)


class FullWindow:
    """The ranks of a state's keys, per layer and mask head; slot i of the cache holds the key of ranks[..., i].

    Attributes:
        ranks: int64 [layers, heads, keep_window_size].
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._layer, self._head = np.ogrid[: ranks.shape[0], : ranks.shape[1]]

    def positions(self) -> NDArray[np.int64]:
        """Position in the stream of the key in every slot: int64 [layers, heads, keep_window_size]."""
        return self.ranks & 0xFFFFFFFF

    def next_to_leave(self, count: int) -> NDArray[np.int64]:
        """Slots of the `count` keys with the lowest ranks, lowest first: int64 [layers, heads, count]."""
        if count == 1:
            lowest: NDArray[np.int64] = self.ranks.argmin(axis=-1, keepdims=True)
            return lowest
        return self.ranks.argsort(axis=-1)[..., :count]

    def ranks_of(self, slots: NDArray[np.int64]) -> Ranks:
        """Ranks at int64 [layers, heads, count] slots."""
        return np.take_along_axis(self.ranks, slots, axis=-1)

    def replace_one(self, cache: NDArray[Any], slots: NDArray[np.int64], rank: Ranks) -> None:
        """One token came to the slot behind the window; keep it where it outranks the key in `slots`.

        cache [layers, 2, heads, slots, channels]; slots, the lowest of each head, and rank: [layers, heads]. Doing it
        twice is as doing it once.
        """
        layers, heads = np.nonzero(rank > self.ranks[self._layer, self._head, slots])
        chosen = slots[layers, heads]
        cache[layers, :, heads, chosen] = cache[layers, :, heads, self.ranks.shape[-1]]
        self.ranks[layers, heads, chosen] = rank[layers, heads]

    def replace_many(self, cache: NDArray[Any], slots: NDArray[np.int64], old: Ranks, new: Ranks) -> None:
        """Several tokens came behind the window; the highest ranks of old and new stay.

        cache [layers, 2, heads, slots, channels]; slots [layers, heads, R]: the R lowest of each head, lowest first,
        R = min(S, keep_window_size); old, the ranks there before; new [layers, heads, S]. Doing it twice is as doing it
        once.
        """
        window = self.ranks.shape[-1]
        for layer, head in np.ndindex(self.ranks.shape[:2]):
            lowest = slots[layer, head]
            both = np.concatenate([old[layer, head], new[layer, head]])
            stays = np.zeros(len(both), bool)
            stays[np.argsort(both)[-len(lowest) :]] = True
            free = lowest[~stays[: len(lowest)]]
            chosen = np.flatnonzero(stays[len(lowest) :])
            cache[layer, :, head, free] = cache[layer, :, head, window + chosen]
            self.ranks[layer, head, free] = new[layer, head, chosen]
