"""A stream of tokens: the keys and values that survive of it, in memory of fixed size."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ContextLengthError
from .description import DecoderDescription
from .eviction import FullWindow, Keys

MAX_CHUNK = 256  # tokens of a prompt that go through a graph at once: long enough to be fast, small in memory
FULL_WINDOW_CHUNK = 128  # the same once keys are dropped: attention with a mask is fastest while its scores fit a cache
NEVER = np.iinfo(np.int64).max

Cache = NDArray[Any]  # float32 or int8, as the decoder has it
Memory = tuple[Cache, FullWindow | None]  # the cache, and its bookkeeping once the window is full
Step = Callable[["State", int], NDArray[np.float32]]  # feeds one token
Draft = Callable[["State", NDArray[np.int64]], NDArray[np.float32]]  # looks at several


class Arrival(NamedTuple):
    """Tokens whose rows a graph has written; the bookkeeping of them can be done once or again, with one result.

    token_ids: int64 [S]. position: of the first. slots, leaving, precedence: None in a window that is not full, else
    the slots that may be taken and the keys in them, [layers, heads, min(S, keep_window_size)], and the precedence of
    the new keys, [layers, heads, S].
    """

    token_ids: NDArray[np.int64]
    position: int
    slots: NDArray[np.int64] | None
    leaving: Keys | None
    precedence: NDArray[np.float32] | None


class State:
    """One stream, to be fed by one thread at a time.

    Attributes:
        description: of the decoder it belongs to.
        metadata: text by name that `save` writes and loading brings back; the program's own, copied by `copy`.
        precedence: of the keys in slots, float32 [layers, num_recurrent_heads, slots]; None where the cache holds it.
        plain_step, draft_step, recurrent_step: the decoder's bindings to this very cache.

    An exception between any two instructions, Ctrl-C included, leaves a state that holds the first `position` tokens
    of those it was to be fed.
    """

    def __init__(self, description: DecoderDescription, cache: Cache | None = None) -> None:
        """cache: memory to live in, as `cache` describes it; its own by default."""
        self.description = description
        self.metadata: dict[str, str] = {}
        self.precedence = empty_precedence(description) if description.separate_precedence else None
        self.plain_step: Step | None = None
        self.draft_step: Draft | None = None
        self.recurrent_step: Step | None = None
        # One attribute, so that no exception can come between a wider cache and its bookkeeping.
        self._memory: Memory = (empty_cache(description, description.num_kv_heads) if cache is None else cache, None)
        self._position = 0
        self._arrival: Arrival | None = None
        self._unfed: tuple[int, int | None] = (0, None)  # the position it was noted at, and the token
        self._first_seen = np.full(description.vocab_size, NEVER, np.int64)  # where each token came first

    @property
    def position(self) -> int:
        """Tokens fed so far."""
        if self._arrival is not None:
            self._finish()
        return self._position

    @position.setter
    def position(self, position: int) -> None:
        """For those who write rows into the cache themselves."""
        self._position = position

    @property
    def cache(self) -> Cache:
        """float32 or int8 [layers, 2 (key, value), heads, slots, channels].

        While the stream is no longer than the window, slot i holds position i; once it is longer, the survivors stand
        in any order, each mask head with its own.
        """
        return self._memory[0]

    def rows(self) -> Cache:
        """The cache as a batch of this one stream: [layers, 2, 1, heads, slots, channels]."""
        return self.cache[:, :, None]

    @property
    def nbytes(self) -> int:
        """Bytes the state takes at most, however long the stream gets.

        Cache, order of the keys and seen tokens; the system hands the memory out as the stream fills its window.
        """
        d = self.description
        rows = d.num_layers * 2 * d.num_recurrent_heads * (d.keep_window_size + MAX_CHUNK)
        cache = rows * d.channels * self.cache.itemsize + (0 if self.precedence is None else self.precedence.nbytes)
        return cache + d.num_layers * d.num_recurrent_heads * d.keep_window_size * 12 + self._first_seen.nbytes

    @property
    def overflowed(self) -> bool:
        """Whether the stream is longer than the window, so that keys are gone and `truncate` has no way back."""
        return self._memory[1] is not None

    @property
    def unfed_token(self) -> int | None:
        """The token that comes next in the stream but is not fed yet: the last one of an answer.

        Whoever continues the stream feeds it first. It is forgotten when the position changes, or by setting None.
        """
        noted_at, token_id = self._unfed
        return token_id if noted_at == self.position else None

    @unfed_token.setter
    def unfed_token(self, token_id: int | None) -> None:
        self._unfed = (self.position, token_id)

    def seen_tokens(self) -> NDArray[np.int64]:
        """The different tokens fed so far, those included whose keys are gone: int64 [n], in ascending order."""
        return np.flatnonzero(self._first_seen < self.position)

    def copy(self, into: Cache | None = None) -> State:
        """An independent state at the same position: the way to branch, or to come back.

        into: memory to live in, of the shape of `cache`; its own by default.
        """
        used = min(self.position, self.description.keep_window_size)
        cache, window = self._memory
        other = State(self.description, empty_cache(self.description, cache.shape[2]) if into is None else into)
        other._memory = (other.cache, None if window is None else window.copy())
        other.cache[..., :used, :] = cache[..., :used, :]
        if self.precedence is not None and other.precedence is not None:
            other.precedence[..., :used] = self.precedence[..., :used]
        other._position, other._unfed = self._position, self._unfed
        other._first_seen = self._first_seen.copy()
        other.metadata = dict(self.metadata)
        return other

    __copy__ = copy  # a shallow one would share the memory that both write to

    def truncate(self, position: int) -> None:
        """Forget every token from `position` on, an unfed one included.

        Raises:
            ContextLengthError: there are fewer tokens, or the window has overflowed and earlier keys may be gone.
        """
        if not 0 <= position <= self.position:
            raise ContextLengthError(f"cannot go back to position {position}: the state is at {self.position}")
        if position < self.position and self.overflowed:
            raise ContextLengthError(
                f"cannot go back to position {position}: the window of {self.description.keep_window_size} tokens has "
                "overflowed, and what fell out is gone; keep a copy() of the state to return to"
            )
        self._unfed = (position, None)
        self._first_seen = np.where(self._first_seen < position, self._first_seen, NEVER)
        self._position = position

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the state to a safetensors file, with `metadata` and an unfed token; complete, or not at all.

        Raises:
            StateError: the file exists and `overwrite` is False, or it cannot be written.
        """
        from .state_file import StateFile  # noqa: PLC0415  # safetensors and hashlib: 10 ms of each start

        position, (cache, window) = self.position, self._memory
        seen, used = self.seen_tokens(), min(position, self.description.keep_window_size)
        precedence = None
        if self.precedence is not None:
            precedence = self.precedence[..., :used] if window is None else window.keys.precedence
        StateFile(
            position=position,
            unfed_token=self.unfed_token,
            metadata=self.metadata,
            cache=cache[..., :used, :],
            precedence=precedence,
            key_positions=None if window is None else window.keys.positions,
            seen_tokens=seen,
            first_positions=self._first_seen[seen],
        ).write(path, self.description, overwrite)

    @classmethod
    def load(cls, path: str | Path, description: DecoderDescription) -> State:
        """The state in a file, which goes on bit by bit as the saved one would.

        Raises:
            StateError: the file is missing, damaged, of another format version, or from another model.
        """
        from .state_file import StateFile  # noqa: PLC0415  # as in save

        file = StateFile.read(path, description)
        state = cls(description)
        if file.key_positions is not None:
            state._memory = (empty_cache(description, description.num_recurrent_heads), None)
        state.cache[..., : file.cache.shape[3], :] = file.cache
        if state.precedence is not None and file.precedence is not None:
            state.precedence[..., : file.cache.shape[3]] = file.precedence
        if file.key_positions is not None:
            precedence = state._precedence(slice(0, description.keep_window_size))
            state._memory = (state.cache, FullWindow(Keys(precedence.copy(), file.key_positions.copy())))
        state._position = file.position
        state._unfed = (file.position, file.unfed_token)
        state._first_seen[file.seen_tokens] = file.first_positions
        state.metadata = file.metadata
        return state

    def room_for_chunk(self) -> int:
        """Tokens that the next chunk may have: a chunk must not cross the moment the window fills."""
        before_full = self.description.keep_window_size - self.position
        return min(MAX_CHUNK, before_full) if before_full > 0 else FULL_WINDOW_CHUNK

    def full_window(self) -> FullWindow:
        """The bookkeeping of a window that is full; made when the first token beyond it comes."""
        cache, window = self._memory
        if window is None:
            d = self.description
            if d.num_recurrent_heads != d.num_kv_heads:
                per_kv_head, cache = cache, empty_cache(d, d.num_recurrent_heads)
                groups = cache.reshape(d.num_layers, 2, d.num_kv_heads, -1, *cache.shape[3:])
                groups[:] = per_kv_head[:, :, :, None]
            precedence = self._precedence(slice(0, d.keep_window_size), cache).copy()
            positions = np.broadcast_to(np.arange(d.keep_window_size), precedence.shape).copy()
            window = FullWindow(Keys(precedence, positions))
            self.plain_step = self.draft_step = None  # they are bound to the cache that was
            self._memory = (cache, window)
        return window

    def take_precedence(self, rows: NDArray[np.float32]) -> None:
        """Keep what a graph says beside the rows it has just written: float32 [layers, S, heads], before `take_in`.

        Nothing to do where the cache itself holds it.
        """
        if self.precedence is not None:
            start = self.description.keep_window_size if self.overflowed else self.position
            self.precedence[..., start : start + rows.shape[1]] = rows.swapaxes(1, 2)

    def take_in(
        self, token_ids: NDArray[np.int64], slots: NDArray[np.int64] | None = None, leaving: Keys | None = None
    ) -> None:
        """Note that a graph has written the rows of int64 [S] tokens: the position moves on.

        In a full window the rows stand behind it, and those that outrank the keys in `slots` take their places;
        slots and leaving, the keys there: [layers, heads, min(S, keep_window_size)], in the order in which they leave.
        """
        precedence = None if slots is None else self._precedence_behind_window(len(token_ids))
        self._arrival = Arrival(token_ids, self._position, slots, leaving, precedence)
        self._finish()

    def _finish(self) -> None:
        """Do the bookkeeping of the last arrival; after an exception in the midst of it `position` does it again."""
        assert self._arrival is not None
        token_ids, position, slots, leaving, precedence = self._arrival
        positions = np.arange(position, position + len(token_ids))
        if slots is not None and leaving is not None and precedence is not None:
            if len(token_ids) == 1:
                self.full_window().replace_one(self.cache, slots[..., 0], precedence[..., 0], position)
            else:
                new = Keys(precedence, np.broadcast_to(positions, precedence.shape))
                self.full_window().replace_many(self.cache, slots, leaving, new)
        np.minimum.at(self._first_seen, token_ids, positions)
        self._position = position + len(token_ids)
        self._arrival = None

    def _precedence_behind_window(self, count: int) -> NDArray[np.float32]:
        """Of the `count` keys that the last step wrote behind the full window: float32 [layers, heads, count]."""
        start = self.description.keep_window_size
        return self._precedence(slice(start, start + count))

    def _precedence(self, slots: slice, cache: Cache | None = None) -> NDArray[np.float32]:
        """Of the keys in slots: [layers, heads, slots]; 0 for all in a model without mask."""
        if self.precedence is not None:
            return self.precedence[..., slots]
        d, values = self.description, (self.cache if cache is None else cache)[:, 1]
        if d.mask_channels == 0:
            return np.zeros(values[..., slots, 0].shape, np.float32)
        heads = np.arange(d.num_recurrent_heads)
        by_head: NDArray[np.float32] = values[:, heads, slots, d.head_dim + heads % d.mask_channels]
        return by_head.swapaxes(0, 1)  # numpy puts what several index arrays choose in front


def empty_precedence(description: DecoderDescription) -> NDArray[np.float32]:
    """Zeros for the precedence of a state's keys: [layers, num_recurrent_heads, slots]."""
    d = description
    return np.zeros((d.num_layers, d.num_recurrent_heads, d.keep_window_size + MAX_CHUNK), np.float32)


def new_precedence(description: DecoderDescription, rows: int, tokens: int) -> NDArray[np.float32]:
    """Memory for what a graph says of new keys: [layers, rows, tokens, num_recurrent_heads], no layers if nothing."""
    layers = description.num_layers if description.separate_precedence else 0
    return np.zeros((layers, rows, tokens, description.num_recurrent_heads), np.float32)


def precedence_outputs(memory: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """What to bind by name so that the graph writes into that memory."""
    return {f"new_precedence.{layer}": rows for layer, rows in enumerate(memory)}


def empty_cache(description: DecoderDescription, heads: int, rows: int | None = None) -> Cache:
    """Zeros for a state's cache, [layers, 2, heads, slots, channels], or for `rows` of them, [layers, 2, rows, ...].

    The system hands the memory out as it is written to, in small pages: with large ones, which numpy asks for, the
    first token of a stream would take most of it at once, as every layer and head begins at another place.
    """
    d = description
    batch = () if rows is None else (rows,)
    shape = (d.num_layers, 2, *batch, heads, d.keep_window_size + MAX_CHUNK, d.channels)
    dtype = np.dtype(d.cache_type)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    if sys.platform == "linux":
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
