"""Differences of two reports: paired where the items are the same, each in its own unit."""

from __future__ import annotations

import dataclasses
import math

import pytest

from doge_export.commands.eval import difference_words
from doge_export.evaluation.comparison import compare_perplexity, compare_scores
from doge_export.evaluation.perplexity import Perplexity, perplexity
from doge_export.evaluation.report import Score
from tests.evaluation.test_perplexity import EvenScorer


def measured(choices: int, tokens: int = 21) -> Perplexity:
    return perplexity(EvenScorer(choices), range(tokens), text_bytes=30, window=10, stride=5)


def score(values: list[float], record: str = "r") -> Score:
    answers = {f"piqa/{index}": (f"{record}{index}", value) for index, value in enumerate(values)}
    return Score("piqa", "acc_norm", "items", sum(values) / len(values), 0.3, len(values), len(values), {}, answers)


def test_perplexities_of_the_same_windows_differ_in_nats() -> None:
    found = compare_perplexity(measured(4), measured(8))
    assert (found.name, found.unit, found.paired) == ("log perplexity", "nats", True)
    assert found.difference == pytest.approx(math.log(2))
    assert f"B-A {math.log(2):+.4f} ±0.0000" in difference_words(found)


def test_perplexities_of_different_tokens_differ_in_bits_per_byte() -> None:
    found = compare_perplexity(measured(4), measured(8, tokens=31))
    assert (found.name, found.unit, found.paired) == ("bits per byte", "bits", False)
    assert (found.a, found.b) == pytest.approx((20 * 2 / 30, 30 * 3 / 30))
    assert difference_words(found).startswith("A 1.3333  B 3.0000  B-A +1.6667  error not known")


def test_scores_of_the_same_records_have_the_error_of_their_gaps() -> None:
    found = compare_scores(score([1, 0, 1, 1]), score([1, 1, 1, 1]))
    assert (found.unit, found.paired, found.changed) == ("share", True, 1)
    assert found.stderr == pytest.approx(0.25)  # of 0, 1, 0, 0
    assert difference_words(found).startswith("A 75.00  B 100.00  B-A +25.00 ±25.00  within the standard error")


def test_scores_of_different_records_have_both_errors_in_squares() -> None:
    found = compare_scores(score([1, 0]), dataclasses.replace(score([1, 1], "other"), stderr=0.4))
    assert (found.paired, found.changed) == (False, None)
    assert found.stderr == pytest.approx(0.5)
    assert "(different items)" in difference_words(found)
