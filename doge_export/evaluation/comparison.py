"""Two reports side by side, and the differences that exceed their standard error.

Where both models were asked the same items, the error is that of the differences item by item. It is smaller than that
of either score, because both models find the same items hard. Otherwise the two errors are added in squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import EvaluationError
from .options import TASKS
from .perplexity import Perplexity, WindowScore, ratio_stderr
from .report import EvaluationReport, Score, Settings, add_errors, average

Unit = Literal["share", "number", "nats", "bits"]


@dataclass(frozen=True)
class Difference:
    """One measure of two models, B minus A.

    Attributes:
        name: name of the measure.
        unit: "share" of 1, "number" of the harness, "nats" per token or "bits" per byte.
        a, b: the two values.
        difference: b - a.
        stderr: standard error of the difference; None where it is not known.
        paired: whether both models were asked the same items.
        items: number of compared items.
        changed: number of items with another value; None where they were not paired.
    """

    name: str
    unit: Unit
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
        """The comparison with the standard error, in words."""
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
    """The differences of B from A, for every measure that both reports have.

    Raises:
        EvaluationError: of `check_comparable`, or two columns have different metrics.
    """
    check_comparable(a, b)
    others = {score.title: score for score in b.scores}
    found = [compare_scores(score, others[score.title]) for score in a.scores if score.title in others]
    if a.perplexity is not None and b.perplexity is not None:
        found.append(compare_perplexity(a.perplexity, b.perplexity))
    return tuple(found)


class Measured(Protocol):
    """Measures that are finished, an `EvaluationReport`, or still to come, an `Evaluation`."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def settings(self) -> Settings:
        """Settings of the evaluation."""

    @property
    def measures(self) -> frozenset[str]:
        """Names of the measures; see `EvaluationReport.measures`."""


def check_comparable(a: Measured, b: Measured) -> None:
    """Check that two models can be compared.

    Raises:
        EvaluationError: they have no measure in common, or were asked in different ways.
    """
    common = a.measures & b.measures
    asked = [prompt_words(settings) for settings in (a.settings, b.settings)]
    if common - {"perplexity"} and asked[0] != asked[1]:
        raise EvaluationError(
            f"{a.model} is evaluated with {asked[0]} and {b.model} with {asked[1]}; evaluate both in the same way"
        )
    if "perplexity" in common and a.settings.text != b.settings.text:
        raise EvaluationError("the two perplexities are of different texts; measure one of them again")
    if not common:
        raise EvaluationError(f"{a.model} and {b.model} have no measure in common; evaluate both on the same tasks")


def prompt_words(settings: Settings) -> str:
    """The settings that decide a model's prompts, in words."""
    return (
        f"settings {settings.settings}, {'a' if settings.chat_template else 'no'} chat template and "
        f"{'the usual number of' if settings.num_fewshot is None else settings.num_fewshot} examples"
    )


def compare_scores(a: Score, b: Score) -> Difference:
    """The difference of one score. Numbers of the harness that are no mean have no items to be paired."""
    if a.metric != b.metric:
        raise EvaluationError(f"{a.task} was measured as {a.metric} and as {b.metric}; evaluate one of them again")
    unit: Unit = "share" if a.task in TASKS else "number"
    values = (a.value, b.value, b.value - a.value)
    if not a.answers or record_hashes(a) != record_hashes(b):
        stderr = add_errors([a.stderr, b.stderr])
        return Difference(a.title, unit, *values, stderr, False, min(a.items, b.items), None)
    gaps = {key: b.answers[key][1] - a.answers[key][1] for key in a.answers}
    changed = sum(gap != 0 for gap in gaps.values())
    return Difference(a.title, unit, *values, average(gaps, a.average)[1], True, len(gaps), changed)


def record_hashes(score: Score) -> dict[str, str]:
    """Hash of every evaluated record, by task/item."""
    return {key: record_hash for key, (record_hash, _) in score.answers.items()}


def compare_perplexity(a: Perplexity, b: Perplexity) -> Difference:
    """The difference of the mean negative log-likelihood per token, or, with different tokens, of the bits per byte."""
    pairs = list(zip(a.windows, b.windows, strict=False))
    if len(a.windows) != len(b.windows) or any((x.start, x.tokens) != (y.start, y.tokens) for x, y in pairs):
        assert a.bits_per_byte is not None and b.bits_per_byte is not None
        bits = (a.bits_per_byte, b.bits_per_byte, b.bits_per_byte - a.bits_per_byte)
        return Difference("bits per byte", "bits", *bits, None, False, len(pairs), None)
    gaps = [WindowScore(x.start, x.tokens, y.negative_log_likelihood - x.negative_log_likelihood) for x, y in pairs]
    changed = sum(gap.negative_log_likelihood != 0 for gap in gaps)
    log_a, log_b = math.log(a.per_token), math.log(b.per_token)
    nats = (log_a, log_b, log_b - log_a)
    return Difference("log perplexity", "nats", *nats, ratio_stderr(gaps), True, len(gaps), changed)
