"""One stream that is moved from sequence to sequence, so that what they begin with in common is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from .generation import StateT, TokenDecoder


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    length = min(len(first), len(second))
    differing = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(differing[0]) if len(differing) else length


class SharedPrefix(Generic[StateT]):
    """A state, the tokens it was fed, and the logits of the last of them.

    Sequences are best given in sorted order: then each begins with as much of the one before as any.
    """

    def __init__(self, decoder: TokenDecoder[StateT]) -> None:
        self.state = decoder.new_state()
        self.tokens_fed = 0  # in all, to see what sharing saves
        self._decoder = decoder
        self._tokens: list[int] = []
        self._rows: list[NDArray[np.float32]] = []  # logits [vocab] of the last len(_rows) of _tokens

    def logits(self, tokens: Sequence[int], count: int) -> list[NDArray[np.float32]]:
        """Logits after each of the last `count` tokens of a sequence: `count` rows, float32 [vocab]."""
        wanted = len(tokens) - count
        shared = self._shared(tokens)
        first_row = len(self._tokens) - len(self._rows)
        if first_row > wanted:
            shared = min(shared, wanted)
        rows = self._rows[wanted - first_row : max(shared, wanted) - first_row] if shared > wanted else []
        self._go_back(shared)
        if shared < len(tokens):
            rows = rows + self._feed(tokens[shared:], min(count, len(tokens) - shared))
        self._rows = rows
        return rows

    def before_last(self, tokens: Sequence[int]) -> list[int]:
        """Move the state along a sequence, at most up to its last token; the tokens still to be fed, at least one.

        Whoever feeds them calls `logits` or this before anything else is fed.
        """
        shared = min(self._shared(tokens), len(tokens) - 1)
        self._go_back(shared)
        self._rows = []
        rest = list(tokens[shared:])
        self._tokens += rest
        self.tokens_fed += len(rest)
        return rest

    def _shared(self, tokens: Sequence[int]) -> int:
        """Tokens that the state has in common with a sequence; a state that has overflowed begins anew."""
        if self.state.overflowed:
            self.state, self._tokens, self._rows = self._decoder.new_state(), [], []
        return common_length(self._tokens, tokens)

    def _go_back(self, position: int) -> None:
        self.state.truncate(position)
        del self._tokens[position:]

    def _feed(self, tokens: Sequence[int], count: int) -> list[NDArray[np.float32]]:
        rows = self._decoder.forward(self.state, np.asarray(tokens, dtype=np.int64), count)
        self._tokens += tokens
        self.tokens_fed += len(tokens)
        return list(rows.copy())
