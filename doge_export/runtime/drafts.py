"""Drafts: guess the next tokens, check them in one step, keep the right ones. No answer changes.

The decoder checks a draft bit by bit as single steps would (`Decoder.check_draft`). A token is taken only if it is
chosen anyhow, so guesses change no answer, greedy or sampled; they make it sooner or later. Some processors' kernels
multiply several rows otherwise than one. So the first draft is computed both ways, and where they differ there are no
more drafts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .check_costs import CheckCosts
from .generation import TokenDecoder
from .state import State


class Guesser(Protocol):
    """Guesses the next tokens of one answer."""

    def extend(self, token_ids: Sequence[int], room: int) -> None:
        """Know the tokens that are fed next; room: guesses that a check could take behind them."""

    def guess(self, state: State, token_id: int, room: int) -> list[int]:
        """At most `room` guesses behind the token that is fed next to `state`; none where guessing does not pay."""

    def judge(self, right: int, drafted: int) -> None:
        """Learn that of so many guesses the first `right` were right."""


class CheckedGuesses:
    """Feeds tokens to a decoder like its `forward`, but checks guesses along with them and keeps the right ones.

    Attributes:
        drafted_tokens, accepted_tokens: guesses checked, and those that were right.
    """

    def __init__(self, decoder: TokenDecoder, guessers: Sequence[Guesser], costs: CheckCosts | None = None) -> None:
        """guessers: the first that has a guess is taken. costs: learned from every step and check."""
        self._decoder, self._guessers = decoder, guessers
        self._costs = costs or CheckCosts()
        self._guesser: Guesser | None = None  # whose guesses are checked
        self._checked: list[int] = []  # guesses that were checked and may still come
        self._rows: list[NDArray[np.float32]] = []  # logits after each of them
        self._drafted = 0  # guesses of that check
        self.drafted_tokens = self.accepted_tokens = 0

    def next_logits(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed int64 [S] tokens; logits after the last one, float32 [vocab], valid until the next call."""
        room = self._decoder.room_for_draft(state)
        for guesser in self._guessers:
            guesser.extend(token_ids.tolist(), room)
        if self._checked and token_ids.tolist() == self._checked[:1]:
            state.take_in(token_ids)
            self.accepted_tokens += 1
            del self._checked[0]
            return self._rows.pop(0)
        self._settle()
        if len(token_ids) == 1 and room:
            for guesser in self._guessers:
                guesses = guesser.guess(state, int(token_ids[0]), room)
                if guesses:
                    self._guesser = guesser
                    return self._check(state, token_ids, guesses)
        start = time.perf_counter()
        logits: NDArray[np.float32] = self._decoder.forward(state, token_ids)[-1]
        if len(token_ids) == 1:
            self._costs.note(0, time.perf_counter() - start)
        return logits

    def _settle(self) -> None:
        """Tell the guesser the number of its right guesses: those that are left were wrong."""
        if self._guesser is not None:
            self._guesser.judge(self._drafted - len(self._checked), self._drafted)
        self._guesser, self._checked, self._rows = None, [], []

    def _check(self, state: State, token_ids: NDArray[np.int64], guesses: list[int]) -> NDArray[np.float32]:
        start = time.perf_counter()
        rows = self._decoder.check_draft(state, np.append(token_ids, guesses))
        self._costs.note(len(guesses), time.perf_counter() - start)
        state.take_in(token_ids)
        self.drafted_tokens += len(guesses)
        self._checked, self._drafted, self._rows = guesses, len(guesses), list(rows[1:])
        first: NDArray[np.float32] = rows[0]
        return first
