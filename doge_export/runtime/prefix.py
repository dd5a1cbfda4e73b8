"""One stream that knows its tokens and is moved from sequence to sequence: a shared beginning is computed once.

A conversation renders its past anew, an evaluation sorts its requests, a server is sent whole conversations. All need
the same move: back to the last token that two sequences have in common, and on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .generation import TokenDecoder
from .state import State

Tokens = Sequence[int] | NDArray[np.int64]


def shared_length(first: Tokens, second: Tokens) -> int:
    """The number of tokens that two sequences have in common from their start on."""
    length = min(len(first), len(second))
    differing = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(differing[0]) if len(differing) else length


class SharedPrefix:
    """A state and the tokens of its stream.

    Once a state's window has overflowed it cannot go back. `remember` keeps a copy to return to; without one that is
    early enough, the stream begins anew and its tokens are fed again.

    Attributes:
        state: the stream. Whoever feeds it tokens that are not known here may do so: they are taken back.
        tokens: the known tokens; of these the state holds the first `state.position`.
        tokens_fed: by this object, in all.
        remembered: the copy that `remember` made, if there is one.
    """

    def __init__(self, decoder: TokenDecoder, state: State | None = None, tokens: Sequence[int] = ()) -> None:
        """state: a stream of these tokens to go on with; a new one by default."""
        self._decoder = decoder
        self.state = decoder.new_state() if state is None else state
        self.tokens = list(tokens)
        self.tokens_fed = 0
        self.remembered: State | None = None
        self._rows: list[NDArray[np.float32]] = []  # logits [vocab] of the last len(_rows) of tokens

    def shared(self, tokens: Sequence[int]) -> int:
        """The number of tokens that the state has in common with a sequence."""
        return shared_length(self.tokens[: self.state.position], tokens)

    def hold_only(self, tokens: Sequence[int]) -> None:
        """Take the state back to the beginning it shares with a sequence, or further where keys of it are evicted."""
        shared = self.shared(tokens)
        if shared < self.state.position and self.state.overflowed:
            state, self.remembered = self.remembered, None
            if state is None or (state.overflowed and state.position > shared):
                state = self._decoder.new_state()
            self.state = state
        held, first_row = min(shared, self.state.position), len(self.tokens) - len(self._rows)
        self.state.truncate(held)
        self.tokens, self._rows = self.tokens[:held], self._rows[: max(0, held - first_row)]

    def remember(self) -> None:
        """Keep a copy of the state as it is, for `hold_only` to return to."""
        self.remembered = self.state.copy()

    def forget(self) -> None:
        """Give that copy up."""
        self.remembered = None

    def feed(self, tokens: Sequence[int], count: int = 1) -> list[NDArray[np.float32]]:
        """Feed at least one token behind those the state holds; logits of the last `count`, float32 [vocab] each."""
        rows = self._decoder.forward(self.state, np.asarray(tokens, dtype=np.int64), count)
        self.tokens += tokens
        self.tokens_fed += len(tokens)
        self._rows = list(rows.copy())
        return self._rows

    def logits(self, tokens: Sequence[int], count: int) -> list[NDArray[np.float32]]:
        """Logits after each of the last `count` tokens of a sequence: `count` rows, float32 [vocab].

        Sequences are best given in sorted order: then each begins with as much of the one before as any.
        """
        wanted, first_row = len(tokens) - count, len(self.tokens) - len(self._rows)
        self.hold_only(tokens if first_row <= wanted else tokens[:wanted])
        held = self.state.position
        rows = self._rows[wanted - first_row :] if held > wanted else []
        if held < len(tokens):
            rows = rows + self.feed(tokens[held:], min(count, len(tokens) - held))
        self._rows = rows
        return rows

    def before_last(self, tokens: Sequence[int]) -> list[int]:
        """Move the state along a sequence, at most up to its last token; the tokens still to be fed, at least one.

        Whoever calls this feeds them to `state`.
        """
        self.hold_only(tokens[:-1])
        rest = list(tokens[self.state.position :])
        self.tokens, self._rows = list(tokens), []
        self.tokens_fed += len(rest)
        return rest
