"""How the checks in other runtimes compare: exactly, but for choices that the rounding of several tokens may turn."""

from __future__ import annotations

from typing import Any

import pytest

from tests.runtimes.rows import same_in_batch, same_within_rounding, until_end

ROW: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "tokens": [5, 6, 7, 2, 9],
    "runners_up": [1, 8, 1, 1, 1],
    "gaps": [9.0, 0.1, 9.0, 9.0, 9.0],
}
ENDS = [2]


def test_tokens_stop_behind_the_first_end() -> None:
    assert until_end([5, 2, 7, 2], ENDS) == [5, 2]
    assert until_end([5, 7], ENDS) == [5, 7]


@pytest.mark.parametrize(
    ("found", "rounding", "same"),
    [
        ([5, 6, 7, 2], 0.0, True),
        ([5, 6, 7], 1.0, False),  # it stopped early
        ([5, 8, 1, 1], 0.06, True),  # the second choice, nearly as likely
        ([5, 8, 1, 1], 0.04, False),  # the second choice, less likely than rounding explains
        ([5, 3, 7, 2], 9.0, False),  # neither choice
    ],
)
def test_only_the_second_of_two_nearly_equal_choices_may_differ(found: list[int], rounding: float, same: bool) -> None:
    assert same_within_rounding(found, ROW | {"rounding": rounding}, ENDS) is same


def test_a_batch_is_exact_where_the_processor_computes_its_rows_as_one() -> None:
    row = ROW | {"rounding": 0.06}
    assert not same_in_batch([[5, 8, 1, 1]], [row | {"batch_is_exact": True}], ENDS, 0)
    assert same_in_batch([[5, 8, 1, 1]], [row | {"batch_is_exact": False}], ENDS, 0)
    assert same_in_batch([[5, 6, 7, 2, 3]], [row | {"batch_is_exact": True}], ENDS, 0)


def test_a_penalised_row_is_compared_up_to_the_padding_token_that_it_answers() -> None:
    row = ROW | {"batch_is_exact": True, "repetition_penalty": 10.0}
    assert same_in_batch([[5, 6, 1, 1]], [row], ENDS, 7)
    assert not same_in_batch([[5, 1, 1, 1]], [row], ENDS, 7)
    assert not same_in_batch([[5, 6, 1, 1]], [row | {"repetition_penalty": 1.0}], ENDS, 7)
