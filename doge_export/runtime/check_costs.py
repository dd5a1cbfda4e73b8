"""The costs of checking drafts on the machine at hand, and the number of guesses that makes the most of them."""

from __future__ import annotations

from collections.abc import Sequence

from .description import DRAFT_TOKENS

FIRST_SLOPE = 0.15  # of a single step for each guess, assumed before any check was timed
LEARNING = 1 / 8  # weight of one time
OUTLIER = 2.0  # a time counts as at most so many times the expected one: other work only adds to it


class CheckCosts:
    """The times of checks, learned from all that are made, in single steps.

    Products of several tokens cost little more than of one where memory is the limit, and as much more where the
    processor is. The standard graphs compute a draft in its full length. So nothing but a clock knows the costs.

    Attributes:
        by_guesses: by the number of guesses, from 0, a single step, to DRAFT_TOKENS - 1.
    """

    def __init__(self) -> None:
        self._step: float | None = None  # seconds of a single step, about
        self._timed = [1 + FIRST_SLOPE * guesses for guesses in range(DRAFT_TOKENS)]
        self.by_guesses: Sequence[float] = tuple(self._timed)

    def note(self, guesses: int, seconds: float) -> None:
        """A check of so many guesses took so long, or a single step of none."""
        if self._step is None:
            self._step = seconds if guesses == 0 else None
            return
        if guesses == 0:
            self._step = nearer(self._step, seconds)
            return
        self._timed[guesses] = nearer(self._timed[guesses], seconds / self._step)
        # Fewer guesses cost no more than many: so a time that other work has spoilt is not believed for ever.
        self.by_guesses = tuple(min(self._timed[count:]) if count else 1.0 for count in range(DRAFT_TOKENS))


def nearer(expected: float, found: float) -> float:
    """An expected number, moved towards the one that was found."""
    return expected + (min(found, OUTLIER * expected) - expected) * LEARNING


def best_count(chances: Sequence[float], costs: Sequence[float]) -> int:
    """The number of guesses, from 0 to len(chances), that gives the most tokens for their cost.

    Args:
        chances: that each guess is right where those before it are.
        costs: of each number of guesses with the token before them, from 0 on, in single steps.
    """
    best, best_rate, tokens, all_right = 0, 1.0, 1.0, 1.0
    for count, chance in enumerate(chances, 1):
        all_right *= chance
        tokens += all_right
        rate = tokens / costs[count]
        if rate > best_rate:
            best, best_rate = count, rate
    return best
