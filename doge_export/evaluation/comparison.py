"""Two reports side by side: which differences exceed their standard error.

Where both were asked the same items, the error is that of the differences item by item, which is smaller, as both find
the same items hard; otherwise the two errors are added in squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from ..errors import EvaluationError
from .perplexity import Perplexity, WindowScore, ratio_stderr
from .report import TITLES, EvaluationReport, Score, Settings, add_errors, average


@dataclass(frozen=True)
class Difference:
    """B minus A.

    Attributes:
        name: of the measure.
        a, b: the two values, shares of 1 or nats per token.
        difference: b - a.
        stderr: of the difference; None where it is not known.
        paired: whether it was taken over the same items.
        items: compared.
        changed: items with another value; None where they were not paired.
    """

    name: str
    a: float
    b: float
    difference: float
    stderr: float | None
    paired: bool
    items: int
    changed: int | None

    @property
    def exceeds(self) -> bool:
        """Whether the difference is larger than its standard error."""
        return self.stderr is not None and abs(self.difference) > self.stderr

    @property
    def verdict(self) -> str:
        """In words."""
        if self.difference == 0:
            return "equal"
        if self.stderr is None:
            return "error not known"
        if not self.exceeds:
            return "within the standard error"
        if self.stderr == 0:
            return "the same everywhere"
        times = abs(self.difference) / self.stderr
        return f"exceeds the standard error ({times:.1f} times)"


def compare(a: EvaluationReport, b: EvaluationReport) -> tuple[Difference, ...]:
    """Every measure that both reports have.

    Raises EvaluationError as `check_comparable`.
    """
    check_comparable(a, b)
    others = {score.task: score for score in b.scores}
    found = [compare_scores(score, others[score.task]) for score in a.scores if score.task in others]
    if a.perplexity is not None and b.perplexity is not None:
        found.append(compare_perplexity(a.perplexity, b.perplexity))
    return tuple(found)


class Measured(Protocol):
    """What was measured or will be: an `EvaluationReport`, or an `Evaluation`."""

    @property
    def model(self) -> str:
        """Its name."""

    @property
    def settings(self) -> Settings:
        """Under which it is asked."""

    @property
    def measures(self) -> frozenset[str]:
        """Names of the columns, and "perplexity"."""


def check_comparable(a: Measured, b: Measured) -> None:
    """EvaluationError where two have no measure in common, or were asked under other settings."""
    common = a.measures & b.measures
    asked = [prompts(settings) for settings in (a.settings, b.settings)]
    if common - {"perplexity"} and asked[0] != asked[1]:
        raise EvaluationError(
            f"{a.model} is evaluated with {asked[0]} and {b.model} with {asked[1]}; evaluate both in the same way"
        )
    if "perplexity" in common and a.settings.text != b.settings.text:
        raise EvaluationError("the two perplexities are of different texts; measure one of them again")
    if not common:
        raise EvaluationError(f"{a.model} and {b.model} have no measure in common; evaluate both on the same tasks")


def prompts(settings: Settings) -> str:
    """What decides what a model is asked, in words."""
    return (
        f"settings {settings.settings}, {'a' if settings.chat_template else 'no'} chat template and "
        f"{'the usual number of' if settings.num_fewshot is None else settings.num_fewshot} examples"
    )


def compare_scores(a: Score, b: Score) -> Difference:
    """One column of the two."""
    if a.metric != b.metric:
        raise EvaluationError(f"{a.task} was measured as {a.metric} and as {b.metric}; evaluate one of them again")
    difference, name = b.value - a.value, TITLES[a.task]
    if {key: hashed for key, (hashed, _) in a.answers.items()} != {
        key: hashed for key, (hashed, _) in b.answers.items()
    }:
        stderr = add_errors([a.stderr, b.stderr])
        return Difference(name, a.value, b.value, difference, stderr, False, min(a.items, b.items), None)
    gaps = {key: b.answers[key][1] - a.answers[key][1] for key in a.answers}
    changed = sum(gap != 0 for gap in gaps.values())
    return Difference(name, a.value, b.value, difference, average(gaps, a.average)[1], True, len(gaps), changed)


def compare_perplexity(a: Perplexity, b: Perplexity) -> Difference:
    """Mean negative log-likelihood per token window by window, or, with other tokens, bits per byte."""
    pairs = list(zip(a.windows, b.windows, strict=False))
    if len(a.windows) != len(b.windows) or any((x.start, x.tokens) != (y.start, y.tokens) for x, y in pairs):
        assert a.bits_per_byte is not None and b.bits_per_byte is not None
        difference = b.bits_per_byte - a.bits_per_byte
        return Difference("bits per byte", a.bits_per_byte, b.bits_per_byte, difference, None, False, len(pairs), None)
    gaps = [WindowScore(x.start, x.tokens, y.negative_log_likelihood - x.negative_log_likelihood) for x, y in pairs]
    changed = sum(gap.negative_log_likelihood != 0 for gap in gaps)
    logs = [math.log(found.per_token) for found in (a, b)]
    return Difference(
        "log perplexity", logs[0], logs[1], logs[1] - logs[0], ratio_stderr(gaps), True, len(gaps), changed
    )
