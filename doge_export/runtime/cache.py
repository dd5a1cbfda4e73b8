"""The memory of one stream: keys and values of fixed size, and their precedence."""

from __future__ import annotations

import math
import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .description import PACKED_NUMBERS, DecoderDescription
from .eviction import bonuses
from .packed_rows import mask_numbers

MAX_CHUNK = 256  # tokens of a prompt that go through a graph at once: long enough to be fast, small in memory

Rows = NDArray[Any]  # float32, int8 or uint8, as the decoder has it


class Cache:
    """Keys and values, and precedence where their numbers have no room for it.

    Attributes:
        rows: [layers, 2 (key, value), heads, slots, row_width] of the description's row_dtype.
        precedence: float32 [layers, num_recurrent_heads, slots], bonuses in tokens where keys have any; None where the
            values carry it.
    """

    def __init__(
        self,
        description: DecoderDescription,
        rows: Rows | None = None,
        precedence: NDArray[np.float32] | None = None,
    ) -> None:
        """rows: memory to live in, new by default. precedence: to go on using, new by default where there is any."""
        d = self._description = description
        self.rows = empty_rows(d, d.num_kv_heads) if rows is None else rows
        self.precedence = precedence
        if d.separate_precedence and precedence is None:
            self.precedence = np.zeros((d.num_layers, d.num_recurrent_heads, slots_of(d)), np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes at most, once the window is full."""
        d = self._description
        rows = d.num_layers * 2 * d.num_recurrent_heads * slots_of(d) * d.row_width * self.rows.itemsize
        return rows + (0 if self.precedence is None else self.precedence.nbytes)

    def copy(self, used: int, into: Rows | None = None) -> Cache:
        """The first `used` slots in memory of their own, or in `into`, of the shape of `rows`."""
        d = self._description
        other = Cache(d, empty_rows(d, self.rows.shape[2]) if into is None else into)
        other.rows[..., :used, :] = self.rows[..., :used, :]
        if self.precedence is not None and other.precedence is not None:
            other.precedence[..., :used] = self.precedence[..., :used]
        return other

    def per_mask_head(self) -> Cache:
        """The cache of a full window: mask heads keep different keys, so each gets its own copy of them."""
        d = self._description
        if d.num_recurrent_heads == d.num_kv_heads:
            return self
        other = Cache(d, empty_rows(d, d.num_recurrent_heads), self.precedence)
        groups = other.rows.reshape(d.num_layers, 2, d.num_kv_heads, -1, *other.rows.shape[3:])
        groups[:] = self.rows[:, :, :, None]
        return other

    def precedence_of(self, slots: slice) -> NDArray[np.float32]:
        """Of the keys in slots of a full window: [layers, heads, slots]; 0 for all in a model without mask.

        Bonuses in tokens, where keys have any.
        """
        if self.precedence is not None:
            return self.precedence[..., slots]
        d, values = self._description, self.rows[:, 1]
        if d.mask_channels == 0:
            return np.zeros(values[..., slots, 0].shape, np.float32)
        first = d.head_dim
        if d.cache_type in PACKED_NUMBERS:
            values, first = mask_numbers(values, d), 0
        heads = np.arange(d.num_recurrent_heads)
        by_head: NDArray[np.float32] = values[:, heads, slots, first + heads % d.mask_channels]
        by_layer: NDArray[np.float32] = by_head.swapaxes(0, 1)  # numpy puts the axis of several index arrays in front
        return bonuses(by_layer, d.keep_bonus) if d.keep_bonus else by_layer


def slots_of(description: DecoderDescription) -> int:
    """Slots of a cache: the window, and a chunk's rows behind it."""
    return description.keep_window_size + MAX_CHUNK


def empty_rows(description: DecoderDescription, heads: int, batch: int | None = None) -> Rows:
    """Zeros for a cache, [layers, 2, heads, slots, row_width], or for a batch of them, [layers, 2, batch, ...].

    The system hands the memory out as it is written to, in small pages. numpy asks for large ones. With those, the
    first token of a stream would take most of it at once, as every layer and head begins at another place.
    """
    d = description
    shape = (d.num_layers, 2, *(() if batch is None else (batch,)), heads, slots_of(d), d.row_width)
    dtype = d.row_dtype
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    if sys.platform == "linux":
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


def new_precedence(description: DecoderDescription, batch: int, tokens: int) -> NDArray[np.float32]:
    """Memory for a graph's word on new keys: [layers, batch, tokens, num_recurrent_heads], no layers where it has none.

    A graph has one where the cache has no room for precedence.
    """
    layers = description.num_layers if description.separate_precedence else 0
    return np.zeros((layers, batch, tokens, description.num_recurrent_heads), np.float32)


def precedence_outputs(memory: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The arrays to bind by name so that the graph writes into that memory."""
    return {f"new_precedence.{layer}": rows for layer, rows in enumerate(memory)}
