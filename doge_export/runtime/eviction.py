"""Bookkeeping of a full window: which keys leave next, and moving the stayers into their slots.

Rule: of all keys of a mask head the keep_window_size largest dt stay, and of equal dt the most recent. Keys carry a
precedence that grows with dt; what is closer than TIE is equal (`doge_model.mask.tie_classes` says why).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TIE = np.float32(2.0 ** (-17 - 40))  # `doge_model.mask.TIE`; a graph computes precedence times 2^-40
NO_POSITION = np.int64(2**63 - 1)

Index = tuple[Any, ...]


class Keys(NamedTuple):
    """What orders keys, two arrays of one shape.

    precedence: float32. positions: int64 below 2**32, in the stream.
    """

    precedence: NDArray[np.float32]
    positions: NDArray[np.int64]

    def at(self, index: NDArray[np.int64]) -> Keys:
        """Those at int64 indices of the last axis."""
        return Keys(
            np.take_along_axis(self.precedence, index, axis=-1), np.take_along_axis(self.positions, index, axis=-1)
        )

    def take(self, index: Index) -> Keys:
        """Those that numpy's indexing names."""
        return Keys(self.precedence[index], self.positions[index])

    def leaving_order(self) -> NDArray[np.int64]:
        """Indices of the last axis in the order in which keys leave: the smallest first, the oldest of equals."""
        order = self.precedence.argsort(axis=-1)
        ordered = self.at(order)
        classes = np.zeros_like(order)
        (np.diff(ordered.precedence, axis=-1) > TIE).cumsum(axis=-1, out=classes[..., 1:])
        ages = (classes << 32) + ordered.positions
        by_age = ages.argsort(axis=-1, kind="stable")  # fast for what is nearly in order
        return np.take_along_axis(order, by_age, axis=-1)


class FullWindow:
    """The keys of a state, per layer and mask head; slot i of the cache holds the key at [..., i].

    Attributes:
        keys: [layers, heads, keep_window_size].
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._layer, self._head = np.ogrid[tuple(map(slice, keys.positions.shape[:2]))]

    def keys_at(self, slots: NDArray[np.int64]) -> Keys:
        """Those in int64 [layers, heads, n] slots."""
        return self.keys.take((self._layer[..., None], self._head[..., None], slots))

    def copy(self) -> FullWindow:
        """The same keys in memory of its own."""
        return FullWindow(Keys(self.keys.precedence.copy(), self.keys.positions.copy()))

    def next_to_leave(self, count: int) -> NDArray[np.int64]:
        """Slots of the `count` keys that leave first, in that order: int64 [layers, heads, count]."""
        if count > 1:
            return self.keys.leaving_order()[..., :count]
        least = self.keys.precedence.min(axis=-1, keepdims=True)
        tied = self.keys.precedence <= least + TIE
        oldest: NDArray[np.int64] = np.where(tied, self.keys.positions, NO_POSITION).argmin(axis=-1, keepdims=True)
        return oldest

    def replace_one(
        self, cache: NDArray[Any], slots: NDArray[np.int64], precedence: NDArray[np.float32], position: int
    ) -> None:
        """One token came to the slot behind the window; keep it where it outranks the key in `slots`.

        cache [layers, 2, heads, slots, channels]; slots, the first to leave of each head, and precedence of the new
        key: [layers, heads]. Doing it twice is as doing it once.
        """
        keys, window = self.keys, self.keys.positions.shape[-1]
        layers, heads = np.nonzero(precedence >= keys.precedence[self._layer, self._head, slots] - TIE)
        chosen = slots[layers, heads]
        cache[layers, :, heads, chosen] = cache[layers, :, heads, window]
        keys.precedence[layers, heads, chosen] = precedence[layers, heads]
        keys.positions[layers, heads, chosen] = position

    def replace_many(self, cache: NDArray[Any], slots: NDArray[np.int64], leaving: Keys, new: Keys) -> None:
        """Several tokens came behind the window; of old and new keys those stay that leave last.

        cache [layers, 2, heads, slots, channels]; slots [layers, heads, R]: the R that leave first of each head, in
        that order, R = min(S, keep_window_size); leaving, the keys there before; new [layers, heads, S]. Doing it twice
        is as doing it once.
        """
        window, count = self.keys.positions.shape[-1], slots.shape[-1]
        both = Keys(
            np.concatenate([leaving.precedence, new.precedence], axis=-1),
            np.concatenate([leaving.positions, new.positions], axis=-1),
        )
        order = both.leaving_order()
        stays = np.ones(order.shape, bool)
        np.put_along_axis(stays, order[..., :-count], False, axis=-1)
        for layer, head in np.ndindex(order.shape[:2]):
            free = slots[layer, head, ~stays[layer, head, :count]]
            chosen = np.flatnonzero(stays[layer, head, count:])
            cache[layer, :, head, free] = cache[layer, :, head, window + chosen]
            self.keys.precedence[layer, head, free] = new.precedence[layer, head, chosen]
            self.keys.positions[layer, head, free] = new.positions[layer, head, chosen]
