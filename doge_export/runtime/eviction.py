"""A full window: the keys it holds, which of them are evicted next, and the new keys that take their slots.

Rule: every mask head keeps the keep_window_size keys with the largest dt, and of equal dt the most recent. Keys carry a
precedence that grows with dt. Two that are closer than TIE count as equal (`doge_model.mask.tie_classes`). Sinks are
kept whatever their dt is. They stand in the first slots, in the order of the stream, and never leave them.

With bonuses, the keys with the largest position + bonus are kept, and of equal sums the most recent. `Keys.precedence`
is the bonus then, a whole number of tokens. Sums are counted from the first new token, so that float32 is exact.

The last keep_recent tokens up to a query may be safe. A key then competes with the others so many tokens later, when
it is no longer recent. A new key stays, and at every step the key that many tokens before it competes.

A step has two halves. `FullWindow.candidates` names the slots that may be freed. The graph writes its rows behind the
window, and `FullWindow.admit` moves the kept ones into free slots. Nothing else knows how keys are evicted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST = np.finfo(np.float32).max  # precedence of a key that does not leave
TIE = np.float32(2.0 ** (-17 - 40))  # `doge_model.mask.TIE`; a graph computes precedence times 2^-40
NO_POSITION = np.int64(2**63 - 1)
SCALE = np.float32(2.0**-40)  # of the precedence that a graph computes

Index = tuple[Any, ...]


class Keys(NamedTuple):
    """The order of keys, two arrays of one shape.

    precedence: float32; with bonuses, theirs in tokens. positions: int64 below 2**32, in the stream.
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

    def eviction_order(self) -> NDArray[np.int64]:
        """Indices of the last axis in the order of eviction: the smallest first, the oldest of equals."""
        order = self.precedence.argsort(axis=-1)
        ordered = self.at(order)
        classes = np.zeros_like(order)
        (np.diff(ordered.precedence, axis=-1) > TIE).cumsum(axis=-1, out=classes[..., 1:])
        ages = (classes << 32) + ordered.positions
        by_age = ages.argsort(axis=-1, kind="stable")  # fast for an order that is nearly right
        return np.take_along_axis(order, by_age, axis=-1)


def bonuses(precedence: NDArray[np.float32], keep_bonus: int) -> NDArray[np.float32]:
    """The bonuses in tokens that a graph's precedence stands for, as `doge_model.mask.kept_until` has them."""
    tokens: NDArray[np.float32] = np.rint(precedence / SCALE).clip(0, keep_bonus)
    return tokens


class Candidates(NamedTuple):
    """The cached keys that a chunk of S tokens can evict.

    R = min(S, keep_window_size - sinks - keep_recent) of each mask head are in the order of eviction. Behind them stand
    the min(S, keep_recent) that are the next to compete with them, in the order of the stream.

    slots: int64 [layers, heads, R + those]. keys: those in them, as the graph compares them: with bonuses, precedence
    is their sums.
    """

    slots: NDArray[np.int64]
    keys: Keys


class FullWindow:
    """The keys of a state, per layer and mask head; slot i of the cache holds the key at [..., i].

    Attributes:
        keys: [layers, heads, keep_window_size].
    """

    def __init__(self, keys: Keys, keep_sinks: int = 0, has_bonus: bool = False, keep_recent: int = 0) -> None:
        """keep_sinks: slots, from the first on, whose keys never leave. has_bonus: whether precedence is a bonus.

        keep_recent: the last tokens, whose keys are safe.
        """
        self.keys, self._sinks, self._has_bonus, self._recent = keys, keep_sinks, has_bonus, keep_recent
        self._layer, self._head = np.ogrid[tuple(map(slice, keys.positions.shape[:2]))]

    def copy(self) -> FullWindow:
        """The same keys in memory of its own."""
        keys = Keys(self.keys.precedence.copy(), self.keys.positions.copy())
        return FullWindow(keys, self._sinks, self._has_bonus, self._recent)

    def candidates(self, tokens: int, position: int) -> Candidates:
        """The keys that a chunk of so many tokens can evict, whose first one has this position."""
        ordered = self._compared(self.keys, position)
        room = self.keys.positions.shape[-1] - self._sinks - self._recent
        slots = self._next_evicted(ordered, min(tokens, room), position)
        if self._recent:
            slots = np.concatenate([slots, self._entering(min(tokens, self._recent), position)], axis=-1)
        return Candidates(slots, ordered.take((self._layer[..., None], self._head[..., None], slots)))

    def admit(self, rows: NDArray[Any], candidates: Candidates, new: Keys) -> None:
        """Keep those of the candidates and new keys that are evicted last; new ones take the slots of evicted ones.

        rows: the cache, [layers, 2, heads, slots, channels], the new keys behind the window. new: [layers, heads, S].
        Doing it twice is as doing it once.
        """
        if new.positions.shape[-1] == 1:
            self._admit_one(rows, candidates, new)
        else:
            self._admit_many(rows, candidates, new)

    def _compared(self, keys: Keys, position: int) -> Keys:
        """With the precedence that orders them: as it is, or the sums with bonuses, counted from a position."""
        if not self._has_bonus:
            return keys
        return Keys(keys.precedence + (keys.positions - position).astype(np.float32), keys.positions)

    def _entering(self, count: int, position: int) -> NDArray[np.int64]:
        """Slots of the oldest `count` safe keys, the oldest first: int64 [layers, heads, count]."""
        age = self.keys.positions - (position - self._recent)
        layer, head, slot = np.nonzero((age >= 0) & (age < count))
        slots = np.zeros((*age.shape[:2], count), np.int64)
        slots[layer, head, age[layer, head, slot]] = slot
        return slots

    def _next_evicted(self, ordered: Keys, count: int, position: int) -> NDArray[np.int64]:
        """Slots of the `count` keys that are evicted first, in that order: int64 [layers, heads, count]."""
        keys = ordered.take((..., slice(self._sinks, None)))
        if self._recent:
            safe = keys.positions >= position - self._recent
            keys = Keys(np.where(safe, MOST, keys.precedence), keys.positions)
        if count > 1:
            return keys.eviction_order()[..., :count] + self._sinks
        least = keys.precedence.min(axis=-1, keepdims=True)
        tied = keys.precedence <= least + TIE
        oldest: NDArray[np.int64] = np.where(tied, keys.positions, NO_POSITION).argmin(axis=-1, keepdims=True)
        return oldest + self._sinks

    def _admit_one(self, rows: NDArray[Any], candidates: Candidates, new: Keys) -> None:
        """One new key: it is kept where it outranks the candidate. No sort, which a single step cannot afford."""
        keys, window = self.keys, self.keys.positions.shape[-1]
        slots, precedence = candidates.slots[..., 0], new.precedence[..., 0]  # its sum is its bonus
        least = candidates.keys.precedence[..., 0] - TIE
        if self._recent:  # it takes the slot of the candidate, or of the key that competes with that
            slots = np.where(candidates.keys.precedence[..., 1] >= least, slots, candidates.slots[..., 1])
            layers, heads = np.nonzero(slots >= 0)
        else:
            layers, heads = np.nonzero(precedence >= least)
        chosen = slots[layers, heads]
        rows[layers, :, heads, chosen] = rows[layers, :, heads, window]
        keys.precedence[layers, heads, chosen] = precedence[layers, heads]
        keys.positions[layers, heads, chosen] = new.positions[layers, heads, 0]

    def _admit_many(self, rows: NDArray[Any], candidates: Candidates, new: Keys) -> None:
        """Several new keys: order them together with the candidates."""
        window, count, tokens = self.keys.positions.shape[-1], candidates.slots.shape[-1], new.positions.shape[-1]
        entering = tokens - min(tokens, self._recent)  # new keys that compete; those behind them stay
        ordered = self._compared(new, int(new.positions.flat[0]))
        both = Keys(
            np.concatenate([candidates.keys.precedence, ordered.precedence[..., :entering]], axis=-1),
            np.concatenate([candidates.keys.positions, ordered.positions[..., :entering]], axis=-1),
        )
        order = both.eviction_order()
        kept = np.ones((*order.shape[:2], count + tokens), bool)
        np.put_along_axis(kept, order[..., :tokens], False, axis=-1)
        for layer, head in np.ndindex(order.shape[:2]):
            free = candidates.slots[layer, head, ~kept[layer, head, :count]]
            chosen = np.flatnonzero(kept[layer, head, count:])
            rows[layer, :, head, free] = rows[layer, :, head, window + chosen]
            self.keys.precedence[layer, head, free] = new.precedence[layer, head, chosen]
            self.keys.positions[layer, head, free] = new.positions[layer, head, chosen]
