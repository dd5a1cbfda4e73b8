"""The costs of checks, learned from their times, and the number of guesses that pays."""

from __future__ import annotations

import pytest

from doge_export.runtime.check_costs import FIRST_SLOPE, FORGETTING, CheckCosts, best_count
from doge_export.runtime.description import DRAFT_TOKENS


def test_costs_before_any_time_was_noted_rise_with_the_guesses() -> None:
    costs = CheckCosts().by_guesses
    assert len(costs) == DRAFT_TOKENS
    assert costs[0] == 1
    assert costs[7] == pytest.approx(1 + 7 * FIRST_SLOPE)


def timed(*times: tuple[int, float]) -> CheckCosts:
    """Costs after some times, in seconds by the number of guesses, and a first check that does not count."""
    costs = CheckCosts()
    for guesses, seconds in [(7, 100.0), *times]:
        costs.note(guesses, seconds)
    return costs


def test_the_least_times_count_in_steps() -> None:
    costs = timed((0, 0.01), (7, 0.04), (7, 0.025), (0, 0.02), (7, 0.04)).by_guesses
    assert costs[7] == pytest.approx(2.5, rel=2 * FORGETTING)


def test_before_any_step_and_behind_a_first_check_nothing_is_known() -> None:
    assert timed().by_guesses == timed((7, 0.025)).by_guesses == CheckCosts().by_guesses


def test_a_processor_that_slows_down_is_noticed() -> None:
    fast, slow = [(0, 0.01), (7, 0.02)], [(0, 0.01), (7, 0.03)]
    assert timed(*fast * 100, *slow * 30).by_guesses[7] == pytest.approx(3.0)


def test_fewer_guesses_cost_no_more_than_many() -> None:
    costs = timed((0, 0.01), (3, 0.05)).by_guesses
    assert costs[3] == costs[4] == pytest.approx(1 + 4 * FIRST_SLOPE)


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


def test_guesses_that_hardly_pay_are_left_where_more_is_asked() -> None:
    assert [best_count([0.5], [1.0, 1.4], least_rate) for least_rate in (1.0, 1.1)] == [1, 0]
