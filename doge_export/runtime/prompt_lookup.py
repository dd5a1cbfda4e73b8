"""Prompt lookup: guess the next tokens from the stream's earlier ones.

The method is that of https://github.com/apoorvumang/prompt-lookup-decoding. Where the last few tokens stand earlier in
the stream, the tokens behind them there are a good guess in summaries, edits and code.

The longest run that stood there before is followed, and as long as its followers come, they are followed further. The
number of guesses makes the most of the costs of checks and of the share of right ones, by the length of the run. Both
are learned, the shares at each token of the answer, whether it was guessed in a check or not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from .check_costs import CheckCosts, best_count
from .state import State

NGRAM = 3  # longest run that is looked for; longer ones point to the same place nearly always
REACH = 16  # tokens behind the last right guess where an answer that left its source comes back to it first
FIRST_SHARES = (0.1, 0.35, 0.65, 0.9)  # of right guesses behind runs of 1, 2, 3 and more tokens, before any was made
LEARNING = 1 / 8  # weight of one guess in its share
# Tokens a step that a check must promise: single steps behind checks take longer, and shares are unsure.
LEAST_RATE = 1.1


class Match(NamedTuple):
    """A place of the stream whose token is expected next.

    Attributes:
        place: index of that token.
        length: tokens before it that the stream ends in too.
    """

    place: int
    length: int


class NgramIndex:
    """The tokens of a stream, and the places behind each run of up to NGRAM of them.

    Attributes:
        tokens: all of them.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._places: dict[tuple[int, ...], list[int]] = {}

    def append(self, token_id: int) -> None:
        """The stream goes on: the runs that ended before this token have a follower now."""
        end = len(self.tokens)
        for length in range(1, min(NGRAM, end) + 1):
            self._places.setdefault(tuple(self.tokens[end - length :]), []).append(end)
        self.tokens.append(token_id)

    def find(self, copied: int) -> Match | None:
        """The place behind the longest run that the stream ends in and that stood there before; see `nearest`."""
        for length in range(min(NGRAM, len(self.tokens)), 0, -1):
            places = self._places.get(tuple(self.tokens[-length:]))
            if places:
                return Match(nearest(places, copied), length)
        return None


class PromptLookup:
    """Guesses for one answer, where right ones are likely enough to pay; see `drafts.Guesser`."""

    def __init__(self, num_tokens: int, past_ids: Sequence[int] = (), costs: CheckCosts | None = None) -> None:
        """num_tokens: most guesses to check in one step. past_ids: the tokens of the stream so far, to guess from.

        costs: of checks, as far as they are known.
        """
        self._num_tokens, self._past_ids = num_tokens, past_ids
        self._costs = costs or CheckCosts()
        self._shares = list(FIRST_SHARES)
        self._match: Match | None = None
        self._forget()

    def extend(self, token_ids: Sequence[int], room: int) -> None:
        """Know the stream's tokens while there is room for drafts: no more of them than the window has places.

        A single token is one of the answer, or as good as one, and shows whether the expected one was right.
        """
        if not room:
            self._forget()
        elif len(token_ids) == 1 and not self._past_ids:
            self._follow(token_ids[0])
        else:
            for token_id in (*self._past_ids, *token_ids):
                self._index.append(token_id)
            self._match = self._index.find(self._copied)
        self._past_ids = ()

    def guess(self, state: State, token_id: int, room: int) -> list[int]:
        """Tokens that followed the last ones before."""
        if self._match is None:
            return []
        place, length = self._match
        guesses = following(self._index.tokens, place, min(self._num_tokens, room))
        chances = [self._shares[share_of(length + right)] for right in range(len(guesses))]
        return guesses[: best_count(chances, self._costs.by_guesses, LEAST_RATE)]

    def judge(self, right: int, drafted: int) -> None:
        """The tokens that come have told it."""

    def _forget(self) -> None:
        self._index, self._copied, self._match = NgramIndex(), -REACH, None

    def _follow(self, token_id: int) -> None:
        """Learn from a token, and expect the one behind it."""
        match, tokens = self._match, self._index.tokens
        right = match is not None and tokens[match.place] == token_id
        self._index.append(token_id)
        if match is not None:
            share = share_of(match.length)
            self._shares[share] += (right - self._shares[share]) * LEARNING
        if match is not None and right:
            self._copied = match.place + 1
            self._match = Match(self._copied, match.length + 1)
        else:
            self._match = self._index.find(self._copied)


def following(tokens: Sequence[int], place: int, count: int) -> list[int]:
    """The `count` tokens from a place on, and where they end, those that would follow if it went on so."""
    period = len(tokens) - place
    return [tokens[place + i % period] for i in range(count)]


def nearest(places: Sequence[int], copied: int) -> int:
    """The first of some ascending places within REACH behind the last right guess, or else the latest."""
    first = bisect_left(places, copied)
    return places[first] if first < len(places) and places[first] < copied + REACH else places[-1]


def share_of(length: int) -> int:
    """The index of the share of right guesses behind a run of so many tokens."""
    return min(length, len(FIRST_SHARES)) - 1
