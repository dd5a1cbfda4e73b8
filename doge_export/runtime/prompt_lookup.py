"""Prompt lookup: guess the next tokens from the stream's earlier ones, and check the guesses in one step.

The method is that of https://github.com/apoorvumang/prompt-lookup-decoding. Where the last few tokens stand earlier in
the stream, the tokens behind them there are a good guess in summaries, edits and code. The decoder checks a draft bit
by bit as single steps would (`Decoder.check_draft`). A token is taken only if it is chosen anyhow, so prompt lookup
changes no answer, greedy or sampled. Some processors' kernels multiply several rows otherwise than one. So the first
draft is computed both ways, and where they differ there are no more drafts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .generation import TokenDecoder
from .state import State

NGRAM = 4  # tokens that must agree; fewer agree by chance too often to pay
FIRST_CREDIT = 2.0  # so that one wrong check does not end the guessing of a whole answer
COST = 2.0  # single steps that a check takes beyond the one it replaces, about (docs/benchmarks.md)
INCOME = 1 / 64  # added to the credit by a single step: wrong guesses may cost a 64th of the time
MOST_CREDIT = 16.0  # so that a long copy does not pay for long stretches of wrong guesses


class NgramIndex:
    """Where each run of NGRAM tokens last stood in a stream, and the tokens behind it."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}  # place of the token behind the run's latest end

    def extend(self, token_ids: Sequence[int]) -> None:
        """The stream goes on."""
        for token_id in token_ids:
            # The run that ends before this token is indexed now that something follows it.
            if len(self._tokens) >= NGRAM:
                self._followers[tuple(self._tokens[-NGRAM:])] = len(self._tokens)
            self._tokens.append(int(token_id))

    def guess(self, count: int) -> list[int]:
        """Up to `count` tokens that followed the stream's last NGRAM tokens when they stood there before."""
        start = self._followers.get(tuple(self._tokens[-NGRAM:]))
        return [] if start is None else self._tokens[start : start + count]


class PromptLookup:
    """Feeds tokens to a decoder like its `forward`, but checks guesses along with them and keeps the right ones.

    Attributes:
        drafted_tokens, accepted_tokens: guesses checked, and those that were right.
    """

    def __init__(self, decoder: TokenDecoder, num_tokens: int, past_ids: Sequence[int] = ()) -> None:
        """num_tokens: most guesses to check in one step. past_ids: the tokens of the stream so far, to guess from."""
        self._decoder, self._num_tokens = decoder, num_tokens
        self._index, self._past_ids = NgramIndex(), past_ids
        self._checked: list[int] = []  # guesses that were checked and may still come
        self._rows: list[NDArray[np.float32]] = []  # logits after each of them
        self._credit = FIRST_CREDIT
        self.drafted_tokens = self.accepted_tokens = 0

    def next_logits(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed int64 [S] tokens; logits after the last one, float32 [vocab], valid until the next call."""
        room = self._decoder.room_for_draft(state)
        self._remember(token_ids.tolist(), room)
        if self._checked and token_ids.tolist() == self._checked[:1]:
            state.take_in(token_ids)
            self.accepted_tokens += 1
            self._credit = min(self._credit + 1, MOST_CREDIT)
            del self._checked[0]
            return self._rows.pop(0)
        self._checked, self._rows = [], []
        if len(token_ids) == 1 and self._credit >= 0:
            guesses = self._index.guess(min(self._num_tokens, room))
            if guesses:
                return self._check(state, token_ids, guesses)
        self._credit = min(self._credit + INCOME, MOST_CREDIT)
        logits: NDArray[np.float32] = self._decoder.forward(state, token_ids)[-1]
        return logits

    def _remember(self, token_ids: list[int], room: int) -> None:
        """Index the stream's tokens while there is room for drafts: no more of them than the window has places."""
        if room:
            self._index.extend([*self._past_ids, *token_ids])
        else:
            self._index = NgramIndex()
        self._past_ids = ()

    def _check(self, state: State, token_ids: NDArray[np.int64], guesses: list[int]) -> NDArray[np.float32]:
        rows = self._decoder.check_draft(state, np.append(token_ids, guesses))
        state.take_in(token_ids)
        self.drafted_tokens += len(guesses)
        self._credit -= COST
        self._checked, self._rows = guesses, list(rows[1:])
        first: NDArray[np.float32] = rows[0]
        return first
