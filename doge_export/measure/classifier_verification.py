"""Does the exported classifier compute PyTorch's logits? Texts alone, and in batches padded on either side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from doge_model.labels import REGRESSION

from ..errors import VerificationError
from ..runtime.classifier import scores_of
from ..runtime.classifier_graph import ClassifierGraph
from ..runtime.label_graph import LabelGraph
from ..texts.token_ids import text_ids
from .agreement import TINY, rms
from .verification import TEXT

if TYPE_CHECKING:
    from doge_model import ClassifierCheckpoint, DogeForSequenceClassification

LENGTHS = (96, 1, 2, 40, 7, 64, 17, 5, 31, 96, 3, 52)
BEYOND = 40  # tokens beyond the window of one more text, where the graph takes such
STARTS = (0, 5, 11)  # of such texts, tried in turn
MOST_BEYOND = 4096  # tokens of that text; PyTorch holds a matrix of their square
DECIDED = 2.0  # the reference finds its first label so many times as likely as its second

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class LabelAgreement:
    """How far two sets of logits [texts, labels] are apart.

    Attributes:
        logit_difference: largest |difference|, as a share of the reference's largest |logit|.
        spread_error: root mean square difference, as a share of how far the reference's texts lie from their mean.
        decided_labels: share of texts with the same likeliest label, where the reference finds it twice as likely as
            the second; 1 for a regression.
    """

    logit_difference: float
    spread_error: float
    decided_labels: float

    @classmethod
    def between(cls, reference: Logits, logits: Logits, problem_type: str) -> LabelAgreement:
        """Compare logits with the reference; not-a-number counts as infinitely far."""
        if not np.isfinite(logits).all():
            return cls(np.inf, np.inf, 0.0)
        difference = reference.astype(np.float64) - logits
        spread = reference - reference.mean(axis=0, keepdims=True, dtype=np.float64)
        return cls(
            logit_difference=float(np.abs(difference).max()) / max(float(np.abs(reference).max()), TINY),
            spread_error=rms(difference) / max(rms(spread), TINY),
            decided_labels=decided_labels(reference, logits, problem_type),
        )


def decided_labels(reference: Logits, logits: Logits, problem_type: str) -> float:
    """Of the texts whose label is clear, the share with the same one."""
    if problem_type == REGRESSION or reference.shape[1] < 2:
        return 1.0
    best = np.sort(scores_of(reference, problem_type), axis=1)
    clear = best[:, -1] >= DECIDED * best[:, -2]
    same = reference.argmax(axis=1) == logits.argmax(axis=1)
    return float(same[clear].mean()) if clear.any() else 1.0


@dataclass(frozen=True)
class ClassifierLimits:
    """The worst agreement that counts as a success."""

    logit_difference: float | None = None
    spread_error: float | None = None
    decided_labels: float | None = None

    def misses(self, agreement: LabelAgreement) -> list[str]:
        """Every limit that an agreement breaks, in words."""
        words = []
        if self.logit_difference is not None and agreement.logit_difference > self.logit_difference:
            words.append(f"logit_difference {agreement.logit_difference:.2e} > {self.logit_difference:g}")
        if self.spread_error is not None and agreement.spread_error > self.spread_error:
            words.append(f"spread_error {agreement.spread_error:.2e} > {self.spread_error:g}")
        if self.decided_labels is not None and agreement.decided_labels < self.decided_labels:
            words.append(f"decided_labels {agreement.decided_labels:.3f} < {self.decided_labels:g}")
        return words


# As for decoders (`verification.LIMITS`): the reference has the stored numbers, and blocks have activations of 8 bits.
ROUNDED_ACTIVATIONS = ClassifierLimits(spread_error=0.5, decided_labels=0.9)
LIMITS = {
    "fp32": ClassifierLimits(logit_difference=1e-4, decided_labels=1.0),
    "int8": ROUNDED_ACTIVATIONS,
    "int4": ROUNDED_ACTIVATIONS,
    "fp16": ClassifierLimits(spread_error=0.02, decided_labels=1.0),
}


@dataclass(frozen=True)
class ClassifierVerification:
    """The outcome: agreement by way of feeding.

    Attributes:
        kernels: who computed.
        limits: that every way has to keep.
        texts: their number.
        alone, together: each text by itself, and all by one call.
        padded_right, padded_left: in one batch; None of DogeStep, which nobody gives padding.
        beyond_window: with a text that evicts keys; None where the graph takes no such text.
    """

    kernels: str
    limits: ClassifierLimits
    texts: int
    alone: LabelAgreement
    together: LabelAgreement
    padded_right: LabelAgreement | None
    padded_left: LabelAgreement | None
    beyond_window: LabelAgreement | None

    @property
    def ways(self) -> dict[str, LabelAgreement]:
        """The ways within the window that there are."""
        padded = {"padded on the right": self.padded_right, "padded on the left": self.padded_left}
        there = {name: way for name, way in padded.items() if way is not None}
        return {"alone": self.alone, "together": self.together} | there

    @property
    def worst_difference(self) -> float:
        """The largest logit difference over the ways within the window."""
        return max(way.logit_difference for way in self.ways.values())

    def require(self) -> None:
        """Raise VerificationError naming every limit that was missed."""
        ways = self.ways
        if self.beyond_window is not None:
            ways["beyond the window"] = self.beyond_window
        misses = [f"{name}: {miss}" for name, way in ways.items() for miss in self.limits.misses(way)]
        if misses:
            raise VerificationError(f"the exported classifier disagrees with the PyTorch model: {'; '.join(misses)}")


def verify_classifier(checkpoint: ClassifierCheckpoint, graph: LabelGraph, weights: str) -> ClassifierVerification:
    """Compare a graph with the checkpoint that it was made from, on built-in texts of unequal lengths."""
    model, problem = checkpoint.model, checkpoint.model.config.problem_type
    rows = verification_rows(checkpoint)
    reference = torch_rows(model, rows)
    width = max(map(len, rows)) + 8  # more padding than any row needs

    def agreement(found: Logits) -> LabelAgreement:
        return LabelAgreement.between(reference, found, problem)

    portable = graph if isinstance(graph, ClassifierGraph) else None
    return ClassifierVerification(
        kernels=graph.kernels,
        limits=LIMITS[weights],
        texts=len(rows),
        alone=agreement(np.concatenate([graph.logits([row]) for row in rows])),
        together=agreement(graph.logits(rows)),
        padded_right=None if portable is None else agreement(portable.run(rows, width=width)),
        padded_left=None if portable is None else agreement(portable.run(rows, left=True, width=width)),
        beyond_window=beyond_window(model, graph, rows, LIMITS[weights]),
    )


def verification_rows(checkpoint: ClassifierCheckpoint) -> list[list[int]]:
    """Rows of LENGTHS: pieces of text and random tokens in turn, random ones alone without a tokenizer."""
    config, rng = checkpoint.model.config, np.random.default_rng(0)
    longest, tokens = min(max(LENGTHS), config.keep_window_size), np.empty(0, np.int64)
    if checkpoint.tokenizer is not None:
        tokens = text_ids(checkpoint, TEXT)
    rows = []
    for index, length in enumerate(min(length, longest) for length in LENGTHS):
        if index % 2 == 0 and len(tokens) > length:
            start = int(rng.integers(len(tokens) - length))
            rows.append(tokens[start : start + length].tolist())
        else:
            rows.append(rng.integers(config.vocab_size, size=length).tolist())
    return rows


def torch_rows(model: DogeForSequenceClassification, rows: Sequence[Sequence[int]]) -> Logits:
    """PyTorch's logits of rows of token ids, each alone: float32 [rows, labels]."""
    with torch.inference_mode():
        found = [model(torch.tensor([list(row)])).logits[0].float().numpy() for row in rows]
    return np.stack(found)


def beyond_window(
    model: DogeForSequenceClassification,
    graph: LabelGraph,
    rows: Sequence[Sequence[int]],
    limits: ClassifierLimits,
) -> LabelAgreement | None:
    """Agreement beside a text that evicts keys: the rows, one behind the other, until it is longer than the window.

    Two keys whose precedence differs by rounding alone may be evicted in either order, as in `verify_full_window`. A
    wrong export differs in every text, so the best of a few counts.
    """
    length = model.config.keep_window_size + BEYOND
    if graph.description.longest or length > MOST_BEYOND:
        return None
    line, tried = [token for row in rows for token in row], list[LabelAgreement]()
    for start in STARTS:
        batch = [(line[start:] + list(line) * (length // len(line) + 1))[:length], *rows[:3]]
        found = graph.run(batch, left=True) if isinstance(graph, ClassifierGraph) else graph.logits(batch)
        tried.append(LabelAgreement.between(torch_rows(model, batch), found, model.config.problem_type))
        if not limits.misses(tried[-1]):
            break
    return min(tried, key=lambda agreement: agreement.logit_difference)
