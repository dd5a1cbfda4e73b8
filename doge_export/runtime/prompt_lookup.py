"""Prompt lookup: guess the next tokens from the stream's earlier ones.

The method is that of https://github.com/apoorvumang/prompt-lookup-decoding. Where the last few tokens stand earlier in
the stream, the tokens behind them there are a good guess in summaries, edits and code.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """Guesses for one answer, as long as right ones pay for wrong ones; see `drafts.Guesser`."""

    def __init__(self, num_tokens: int, past_ids: Sequence[int] = ()) -> None:
        """num_tokens: most guesses to check in one step. past_ids: the tokens of the stream so far, to guess from."""
        self._num_tokens = num_tokens
        self._index, self._past_ids = NgramIndex(), past_ids
        self._credit = FIRST_CREDIT

    def extend(self, token_ids: Sequence[int], room: int) -> None:
        """Index the stream's tokens while there is room for drafts: no more of them than the window has places."""
        if room:
            self._index.extend([*self._past_ids, *token_ids])
        else:
            self._index = NgramIndex()
        self._past_ids = ()

    def guess(self, state: State, token_id: int, room: int) -> list[int]:
        """Tokens that followed the last ones before."""
        guesses = self._index.guess(min(self._num_tokens, room)) if self._credit >= 0 else []
        if not guesses:
            self._credit = min(self._credit + INCOME, MOST_CREDIT)
        return guesses

    def judge(self, right: int, drafted: int) -> None:
        """Book the check and its right guesses."""
        self._credit = min(self._credit - COST + right, MOST_CREDIT)
