"""A stream of tokens: the keys and values that survive of it, in memory of fixed size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import ContextLengthError
from .description import DecoderDescription
from .window import FullWindow, make_ranks

if TYPE_CHECKING:
    from .decoder import PlainStep, RecurrentStep

MAX_CHUNK = 256  # tokens of a prompt that go through a graph at once: long enough to be fast, small in memory


class State:
    """One stream.

    Attributes:
        description: of the decoder it belongs to.
        cache: float32 [layers, 2 (key, value), heads, slots, channels]. While the stream is shorter than the window, slot
            i holds position i; once it is longer, the survivors stand in any order, each mask head with its own.
        position: tokens fed so far.
        plain_step, recurrent_step: the decoder's bindings to this very cache.
    """

    def __init__(self, description: DecoderDescription) -> None:
        self.description = description
        self.cache = self._empty_cache(description.num_kv_heads)
        self.position = 0
        self.plain_step: PlainStep | None = None
        self.recurrent_step: RecurrentStep | None = None
        self._window: FullWindow | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the whole cache; the system hands them out as the stream fills its window."""
        return self.cache.nbytes

    def copy(self) -> State:
        """An independent state at the same position."""
        other = State(self.description)
        if self._window is not None:
            other.cache = other._empty_cache(self.cache.shape[2])
            other._window = FullWindow(self._window.ranks.copy())
        used = min(self.position, self.description.keep_window_size)
        other.cache[..., :used, :] = self.cache[..., :used, :]
        other.position = self.position
        return other

    def truncate(self, position: int) -> None:
        """Forget every token from `position` on.

        Raises:
            ContextLengthError: there are fewer tokens, or the window has overflowed and earlier keys may be gone.
        """
        if not 0 <= position <= self.position:
            raise ContextLengthError(f"cannot go back to position {position}: the state is at {self.position}")
        if position < self.position and self._window is not None:
            raise ContextLengthError(
                f"cannot go back to position {position}: the window of {self.description.keep_window_size} tokens has "
                "overflowed, and what fell out is gone; keep a copy() of the state to return to"
            )
        self.position = position

    def room_for_chunk(self) -> int:
        """Tokens that the next chunk may have: a chunk must not cross the moment the window fills."""
        before_full = self.description.keep_window_size - self.position
        return min(MAX_CHUNK, before_full) if before_full > 0 else MAX_CHUNK

    def full_window(self) -> FullWindow:
        """The bookkeeping of a window that is full; made when the first token beyond it comes."""
        if self._window is None:
            d = self.description
            if d.num_recurrent_heads != d.num_kv_heads:
                per_kv_head = self.cache
                self.cache = self._empty_cache(d.num_recurrent_heads)
                self.cache[:] = per_kv_head.repeat(d.num_recurrent_heads // d.num_kv_heads, axis=2)
                self.plain_step = None  # it is bound to the cache that was
            self._window = FullWindow(make_ranks(self._dt(slice(0, d.keep_window_size)), np.arange(d.keep_window_size)))
        return self._window

    def dt_behind_window(self, count: int) -> NDArray[np.float32]:
        """dt of the `count` keys that the last step wrote behind the full window: float32 [layers, heads, count]."""
        start = self.description.keep_window_size
        return self._dt(slice(start, start + count))

    def _dt(self, slots: slice) -> NDArray[np.float32]:
        """dt of the keys in slots: [layers, heads, slots]; 1 for all in a model without mask."""
        d, keys = self.description, self.cache[:, 0]
        if d.mask_channels == 0:
            return np.ones(keys[..., slots, 0].shape, np.float32)
        heads = range(d.num_recurrent_heads)
        return np.stack([keys[:, head, slots, d.head_dim + head % d.mask_channels] for head in heads], axis=1)

    def _empty_cache(self, heads: int) -> NDArray[np.float32]:
        d = self.description
        return np.zeros((d.num_layers, 2, heads, d.keep_window_size + MAX_CHUNK, d.channels), np.float32)
