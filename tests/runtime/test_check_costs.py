"""The costs of checks, learned from their times, and the number of guesses that pays."""

from __future__ import annotations

import pytest

from doge_export.runtime.check_costs import FIRST_SLOPE, LEARNING, OUTLIER, CheckCosts, best_count
from doge_export.runtime.description import DRAFT_TOKENS


def test_costs_before_any_time_was_noted_rise_with_the_guesses() -> None:
    costs = CheckCosts().by_guesses
    assert len(costs) == DRAFT_TOKENS
    assert costs[0] == 1
    assert costs[7] == pytest.approx(1 + 7 * FIRST_SLOPE)


def test_times_of_checks_count_in_steps_and_come_to_be_believed() -> None:
    costs = CheckCosts()
    costs.note(7, 1.0)  # before any step: nothing to compare with
    costs.note(0, 0.01)
    for _ in range(100):
        costs.note(7, 0.025)
    assert costs.by_guesses[7] == pytest.approx(2.5, abs=0.01)
    for _ in range(100):
        costs.note(0, 0.02)
        costs.note(7, 0.025)
    assert costs.by_guesses[7] == pytest.approx(1.25, abs=0.01)


def test_an_interrupted_check_counts_as_an_outlier_once() -> None:
    costs = CheckCosts()
    before = costs.by_guesses[7]
    costs.note(0, 0.01)
    costs.note(7, 100.0)
    assert costs.by_guesses[7] == pytest.approx(before * (1 + (OUTLIER - 1) * LEARNING))


def test_fewer_guesses_cost_no_more_than_many() -> None:
    costs = CheckCosts()
    costs.note(0, 0.01)
    for _ in range(100):
        costs.note(3, 0.05)
    assert costs.by_guesses[3] == costs.by_guesses[4] == pytest.approx(1 + 4 * FIRST_SLOPE)


@pytest.mark.parametrize(
    ("chances", "costs", "count"),
    [
        ([], [1.0], 0),
        ([0.9, 0.9], [1.0, 1.0, 1.0], 2),
        ([0.5, 0.5], [1.0, 1.5, 1.5], 2),  # 1.5 tokens for 1.5 do not pay, 1.75 do
        ([0.5, 0.1], [1.0, 1.2, 1.4], 1),
        ([0.1, 0.9], [1.0, 1.2, 1.2], 0),
        ([1.0] * 7, [1.0, *[8.0] * 7], 0),  # as many tokens as steps
    ],
)
def test_the_number_of_guesses_gives_the_most_tokens_for_their_cost(
    chances: list[float], costs: list[float], count: int
) -> None:
    assert best_count(chances, costs) == count
