"""The bounds of prompt lookup: the most that a lookup which knew the answer could give."""

from __future__ import annotations

import pytest

from benchmarks.speed.prompt_lookup import bound, copied

FREE = [1.0] * 8  # a check of any number of guesses costs a step


def test_copied_tokens_end_where_they_differ_and_leave_one_behind_them() -> None:
    assert copied([1, 2, 3, 1, 2, 9, 9], place=0, end=3, most=7) == 2
    assert copied([1, 2, 3, 1, 2, 9, 9], place=0, end=3, most=1) == 1
    assert copied([1, 2, 3, 1, 2], place=0, end=3, most=7) == 1
    assert copied([1, 2, 1, 2, 1, 2, 1], place=0, end=2, most=7) == 4  # a copy of the copy


@pytest.mark.parametrize(
    ("run", "ratio"),
    [
        (1, 3 / 1),  # 2 and 3 behind 1, and 4 with them
        (2, 3 / 2),  # a step for 2, and then 3 and 4
        (3, 3 / 3),
    ],
)
def test_a_copy_is_bounded_by_the_tokens_that_must_agree(run: int, ratio: float) -> None:
    assert bound([1, 2, 3, 4], [1, 2, 3, 4], FREE, run) == ratio


def test_guesses_that_cost_more_than_they_give_are_not_made() -> None:
    assert bound([1, 2, 3, 4], [1, 2, 3, 4], [1.0, *[5.0] * 7], 1) == 1.0
    assert bound([1, 2, 3, 4], [1, 2, 3, 4], [1.0, 1.5, 5.0], 1) == 3 / 2.5
