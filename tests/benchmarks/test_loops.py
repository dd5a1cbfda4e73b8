"""The benchmark of loops: which answers count as one."""

from __future__ import annotations

import pytest

from benchmarks.quality.loops import QUESTIONS, loops

SENTENCE = [7, 8, 9, 4, 7, 3, 2, 1, 5, 6, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]


@pytest.mark.parametrize(
    "answer", [[1, 2] * 24, [*range(9), *[5] * 48], SENTENCE * 3, [3, *SENTENCE * 4, *SENTENCE[:7]]]
)
def test_an_answer_that_ends_in_one_piece_again_and_again_loops(answer: list[int]) -> None:
    assert loops(answer)


@pytest.mark.parametrize("answer", [[], [1, 2] * 23, SENTENCE * 2, [*SENTENCE * 4, 99], [*range(400)]])
def test_an_answer_that_goes_on_does_not(answer: list[int]) -> None:
    assert not loops(answer)


def test_there_are_a_hundred_questions_all_different() -> None:
    assert len(set(QUESTIONS.read_text(encoding="utf-8").splitlines())) == 100
