"""A stream of tokens: its position, the keys and values that are kept of it, and the way back."""

from __future__ import annotations

import math
import mmap
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import RewindError
from .cache import MAX_CHUNK, Cache, Rows, empty_rows
from .claim import Claim
from .description import PACKED_NUMBERS, DecoderDescription
from .eviction import Candidates, FullWindow, Keys, bonuses
from .seen_tokens import SeenTokens
from .token_history import TokenHistory

# tokens of a chunk of the standard graphs once keys are evicted: their attention writes scores, and is fastest while
# these fit a processor's cache. Our own operators, whose rows are bytes, write none.
MASKED_CHUNK = 128

Memory = tuple[Cache, FullWindow | None]  # the cache, and its bookkeeping once the window is full


class Arrival(NamedTuple):
    """Tokens whose rows a graph has written. Their bookkeeping can be done once or again, with one result.

    token_ids: int64 [S]. position: of the first. candidates: the cached keys that may be evicted; None in a window that
    is not full. precedence: of the new keys, float32 [layers, heads, S]; None there too. counted: int64 [1], tokens of
    the stream, written last of all by an operator that does the bookkeeping of keys itself; else None.
    """

    token_ids: NDArray[np.int64]
    position: int
    candidates: Candidates | None
    precedence: NDArray[np.float32] | None
    counted: NDArray[np.int64] | None = None

    @property
    def is_there(self) -> bool:
        """Whether the rows are written."""
        return self.counted is None or bool(self.counted[0] == self.position + len(self.token_ids))


def full_window(keys: Keys, description: DecoderDescription) -> FullWindow:
    """The bookkeeping of these keys by the rule of a decoder."""
    return FullWindow(keys, description.keep_sinks, description.keep_bonus > 0, description.keep_recent)


class State:
    """One stream, to be used by one thread at a time.

    Attributes:
        description: of the decoder it belongs to.
        metadata: text by name that `save` writes and loading brings back; the program's own, copied by `copy`.
        history: the tokens in their order, where somebody wants them; None too once the window has overflowed.
        claim: entered by whoever uses the state; StateError for a second thread.

    An exception between any two instructions, Ctrl-C included, leaves a state that holds the first `position` tokens
    of those it was to be fed.
    """

    def __init__(self, description: DecoderDescription, cache: Cache | None = None) -> None:
        """cache: memory to live in; its own by default."""
        self.description = description
        self.metadata: dict[str, str] = {}
        self.history: TokenHistory | None = None
        self.claim = Claim("the state is in use by another thread; give each thread a copy() of its own")
        # One attribute, so that no exception can come between another cache and its bookkeeping.
        self._memory: Memory = (cache or Cache(description), None)
        self._position = 0
        self._arrival: Arrival | None = None
        self._bookkeeping = threading.RLock()  # any thread may ask for the position
        self._unfed: tuple[int, int | None] = (0, None)  # the position it was noted at, and the token
        self._seen = SeenTokens(description.vocab_size)

    @property
    def position(self) -> int:
        """Tokens fed so far."""
        if self._arrival is not None:
            self._finish()
        return self._position

    @property
    def cache(self) -> Rows:
        """[layers, 2 (key, value), heads, slots, row_width] of the description's row_dtype.

        While the stream is no longer than the window, slot i holds position i. Once it is longer, the kept keys stand
        in any order, each mask head with its own.
        """
        return self._memory[0].rows

    @property
    def precedence(self) -> NDArray[np.float32] | None:
        """Of the keys in slots, float32 [layers, num_recurrent_heads, slots]; None where the cache holds it."""
        return self._memory[0].precedence

    def rows(self) -> Rows:
        """The cache as a batch of this one stream: [layers, 2, 1, heads, slots, row_width]."""
        return self.cache[:, :, None]

    @property
    def nbytes(self) -> int:
        """Bytes the state takes at most, however long the stream gets: cache, order of the keys, seen tokens.

        The system hands the memory out as the stream fills its window.
        """
        d = self.description
        order = d.num_layers * d.num_recurrent_heads * d.keep_window_size * 12
        return self._memory[0].nbytes + order + self._seen.first.nbytes

    @property
    def nbytes_now(self) -> int:
        """Bytes that the tokens so far have taken, in whole pages of memory; never less."""
        return self.nbytes_at(self.position)

    def nbytes_at(self, position: int) -> int:
        """The same of a copy that holds so many tokens."""
        rows = self._memory[0].rows
        used = min(position, self.description.keep_window_size) * rows.shape[-1] * rows.itemsize
        pages = math.prod(rows.shape[:3]) * (used // mmap.PAGESIZE + 2)  # a run of rows may begin amid a page
        order = self.nbytes - self._memory[0].nbytes - self._seen.first.nbytes if self.overflowed else 0
        precedence = 0 if self.precedence is None else self.precedence.nbytes
        return int(min(pages * mmap.PAGESIZE, rows.nbytes)) + precedence + order + self._seen.first.nbytes

    @property
    def overflowed(self) -> bool:
        """Whether the stream is longer than the window, so that keys are evicted and `truncate` has no way back."""
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
        """The different tokens fed so far, those of evicted keys included: int64 [n], in ascending order."""
        return self._seen.before(self.position)

    def copy(self, into: Rows | None = None, position: int | None = None) -> State:
        """An independent state: the way to branch, or to come back.

        into: memory to live in, of the shape of `cache`; its own by default.
        position: tokens that the copy holds, as if it were then truncated to them; all by default.

        Raises:
            RewindError: those of `truncate`.
            StateError: another thread uses the state.
        """
        with self.claim:
            if position is not None:
                self._check_way_back(position)
            held = self.position if position is None else position
            used = min(held, self.description.keep_window_size)
            cache, window = self._memory
            other = State(self.description, cache.copy(used, into))
            other._memory = (other._memory[0], None if window is None else window.copy())
            other._position = held
            other._unfed = self._unfed if position is None else (held, None)
            other._seen = self._seen.up_to(held)
            other.metadata = dict(self.metadata)
            other.history = None if self.history is None else self.history.up_to(held)
            return other

    __copy__ = copy  # a shallow one would share the memory that both write to

    def truncate(self, position: int) -> None:
        """Forget every token from `position` on, an unfed one included.

        Raises:
            RewindError: there are fewer tokens, or the window has overflowed and earlier keys may be evicted.
            StateError: another thread uses the state.
        """
        with self.claim:
            self.settle()
            self._check_way_back(position)
            self._unfed = (position, None)
            self._seen = self._seen.up_to(position)
            self.history = None if self.history is None else self.history.up_to(position)
            self._position = position

    def _check_way_back(self, position: int) -> None:
        if not 0 <= position <= self.position:
            raise RewindError(f"cannot go back to position {position}: the state is at {self.position}")
        if position < self.position and self.overflowed:
            raise RewindError(
                f"cannot go back to position {position}: the window of {self.description.keep_window_size} tokens "
                "has overflowed; return to a copy() of the state"
            )

    def fill_window(self, order: NDArray[np.int64]) -> None:
        """Fill the window with the keys in slots `order`, int64 [keep_window_size], as if they had been fed.

        Comparisons over a full window begin so; feeding as many tokens would take minutes.
        """
        cache, count = self._memory[0], len(order)
        cache.rows[..., :count, :] = cache.rows[..., order, :]
        if cache.precedence is not None:
            cache.precedence[..., :count] = cache.precedence[..., order]
        self._position = count

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the state to a safetensors file, with `metadata` and an unfed token; complete, or not at all.

        Raises:
            StateError: the file exists and `overwrite` is False, it cannot be written, or another
                thread uses the state.
        """
        from .state_file import StateFile  # noqa: PLC0415  # safetensors and hashlib: 10 ms of each start

        with self.claim:
            position, (cache, window) = self.position, self._memory
            seen, used = self.seen_tokens(), min(position, self.description.keep_window_size)
            precedence = None
            if cache.precedence is not None:
                precedence = cache.precedence[..., :used] if window is None else window.keys.precedence
            StateFile(
                position=position,
                unfed_token=self.unfed_token,
                metadata=self.metadata,
                cache=cache.rows[..., :used, :],
                precedence=precedence,
                key_positions=None if window is None else window.keys.positions,
                seen_tokens=seen,
                first_positions=self._seen.first[seen],
            ).write(path, self.description, overwrite)

    @classmethod
    def load(cls, path: str | Path, description: DecoderDescription) -> State:
        """The state in a file, which goes on bit by bit as the saved one would.

        Raises:
            StateError: the file is missing, damaged, of another format version, or from another model.
        """
        from .state_file import StateFile  # noqa: PLC0415  # as in save

        file = StateFile.read(path, description)
        cache, window, used = Cache(description), None, file.cache.shape[3]
        if file.key_positions is not None:
            cache = Cache(description, empty_rows(description, description.num_recurrent_heads))
        cache.rows[..., :used, :] = file.cache
        if cache.precedence is not None and file.precedence is not None:
            cache.precedence[..., :used] = file.precedence
        if file.key_positions is not None:
            precedence = cache.precedence_of(slice(0, description.keep_window_size))
            keys = Keys(precedence.copy(), file.key_positions.copy())
            window = full_window(keys, description)
        state = cls(description)
        state._memory = (cache, window)
        state._position = file.position
        state._unfed = (file.position, file.unfed_token)
        state._seen.first[file.seen_tokens] = file.first_positions
        state.metadata = file.metadata
        return state

    def room_for_chunk(self) -> int:
        """Tokens that the next chunk may have: a chunk must not cross the moment the window fills."""
        before_full = self.description.keep_window_size - self.position
        if before_full > 0:
            return min(MAX_CHUNK, before_full)
        return MAX_CHUNK if self.description.cache_type in PACKED_NUMBERS else MASKED_CHUNK

    def full_window(self) -> FullWindow:
        """The bookkeeping of a window that is full; made, with the cache it needs, for the first token beyond it."""
        cache, window = self._memory
        if window is None:
            cache = cache.per_mask_head()
            precedence = cache.precedence_of(slice(0, self.description.keep_window_size)).copy()
            positions = np.broadcast_to(np.arange(self.description.keep_window_size), precedence.shape).copy()
            window = full_window(Keys(precedence, positions), self.description)
            self._memory = (cache, window)
        return window

    def take_precedence(self, rows: NDArray[np.float32]) -> None:
        """Keep a graph's word on the rows it has just written: float32 [layers, S, heads], before `take_in`.

        Nothing to do where the cache itself holds precedence.
        """
        precedence = self.precedence
        if precedence is not None:
            start = self.description.keep_window_size if self.overflowed else self.position
            by_head = rows.swapaxes(1, 2)
            bonus = self.description.keep_bonus
            precedence[..., start : start + rows.shape[1]] = bonuses(by_head, bonus) if bonus else by_head

    def take_in(self, token_ids: NDArray[np.int64], candidates: Candidates | None = None) -> None:
        """Note that a graph has written the rows of int64 [S] tokens: the position moves on.

        candidates: those of a full window, behind which the rows then stand.
        """
        precedence = None
        if candidates is not None:
            start = self.description.keep_window_size
            precedence = self._memory[0].precedence_of(slice(start, start + len(token_ids)))
        self._arrival = Arrival(token_ids, self._position, candidates, precedence)
        self._finish()

    def expect(self, token_ids: NDArray[np.int64], counted: NDArray[np.int64]) -> None:
        """Note that an operator will write the rows of int64 [S] tokens, and then the stream's length to `counted`.

        counted: int64 [1], the position until then.
        """
        self._arrival = Arrival(token_ids, self._position, None, None, counted)

    def arrive(self) -> None:
        """The operator has ended: the position moves on over the expected tokens."""
        self._finish()

    def settle(self) -> None:
        """Take in the tokens that an interrupted run has written, or forget that they were expected."""
        self._finish()
        self._arrival = None

    def _finish(self) -> None:
        """Do the bookkeeping of the last arrival; after an exception in the midst of it `position` does it again."""
        with self._bookkeeping:
            arrival = self._arrival
            if arrival is None or not arrival.is_there:
                return
            token_ids, position, candidates, precedence, _ = arrival
            positions = np.arange(position, position + len(token_ids))
            if candidates is not None and precedence is not None:
                new = Keys(precedence, np.broadcast_to(positions, precedence.shape))
                self.full_window().admit(self.cache, candidates, new)
            self._seen.note(token_ids, positions)
            if self.history is not None:
                self.history.note(token_ids, position)
                self.history = None if self.overflowed else self.history
            self._position = position + len(token_ids)
            self._arrival = None
