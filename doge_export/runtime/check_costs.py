"""The costs of checking drafts on the machine at hand, and the number of guesses that makes the most of them."""

from __future__ import annotations

from collections.abc import Sequence

from .description import DRAFT_TOKENS

FIRST_SLOPE = 0.15  # of a single step for each guess, assumed before a check of so many was timed
FORGETTING = 1 / 64  # by which a least time rises whenever it is not met: streams grow longer, and processors slower


class CheckCosts:
    """The times of checks, learned from all that are made, in single steps.

    Products of several tokens cost little more than of one where memory is the limit, and as much more where the
    processor is. The standard graphs compute a draft in its full length. So nothing but a clock knows the costs. The
    least time counts, as other work only adds to it.
    """

    def __init__(self) -> None:
        self._least: dict[int, float] = {}  # seconds by the number of guesses, 0 of a single step
        self._checked = False

    def note(self, guesses: int, seconds: float) -> None:
        """A check of so many guesses took so long, or a single step of none."""
        if guesses and not self._checked:
            self._checked = True  # the first may have been computed step by step too (`Decoder.check_draft`)
            return
        self._least[guesses] = min(seconds, self._least.get(guesses, seconds) * (1 + FORGETTING))

    @property
    def by_guesses(self) -> Sequence[float]:
        """Costs by the number of guesses, from 0, a single step, to DRAFT_TOKENS - 1; fewer cost no more than many."""
        step, costs, least = self._least.get(0), list[float](), float("inf")
        for guesses in range(DRAFT_TOKENS - 1, 0, -1):
            check = self._least.get(guesses)
            least = min(least, 1 + FIRST_SLOPE * guesses if step is None or check is None else check / step)
            costs.append(least)
        return [1.0, *reversed(costs)]


def best_count(chances: Sequence[float], costs: Sequence[float], least_rate: float = 1.0) -> int:
    """The number of guesses, from 0 to len(chances), that gives the most tokens for their cost.

    Args:
        chances: that each guess is right where those before it are.
        costs: of each number of guesses with the token before them, from 0 on, in single steps.
        least_rate: tokens for the time of a single step that any guesses must beat.
    """
    best, best_rate, tokens, all_right = 0, least_rate, 1.0, 1.0
    for count, chance in enumerate(chances, 1):
        all_right *= chance
        tokens += all_right
        rate = tokens / costs[count]
        if rate > best_rate:
            best, best_rate = count, rate
    return best
