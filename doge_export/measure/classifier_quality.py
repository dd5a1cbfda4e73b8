"""How well an exported classifier keeps the labels of the PyTorch model in float32, and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from doge_model.labels import REGRESSION, SINGLE_LABEL

from ..runtime.classifier_graph import ClassifierGraph
from ..texts.labelled import Texts
from .agreement import TINY, rms
from .classifier_verification import Logits, torch_rows

if TYPE_CHECKING:
    from doge_model import ClassifierCheckpoint

ROUNDS = 3  # of the speed, whose median counts


@dataclass(frozen=True)
class ClassifierQuality:
    """An export beside the PyTorch model in float32.

    Attributes:
        text: where the texts are from.
        texts: their number.
        tokens: of all of them.
        same_labels: share of texts to which both give the same labels; None for a regression.
        spread_error: root mean square difference of the logits, as a share of how far PyTorch's texts lie apart.
        accuracy_fp32, accuracy: of the PyTorch model and of the export; None where the right labels are not known.
        accuracy_error: standard error of the second.
        texts_per_s: of the export, where it was made.
        threads: that it took.
    """

    text: str
    texts: int
    tokens: int
    same_labels: float | None
    spread_error: float
    accuracy_fp32: float | None
    accuracy: float | None
    accuracy_error: float | None
    texts_per_s: float
    threads: int


def measure_classifier(
    checkpoint: ClassifierCheckpoint, graph: ClassifierGraph, texts: Texts, progress: Callable[[str], object]
) -> ClassifierQuality:
    """Compare a graph with the checkpoint that it was made from, which still has its own numbers."""
    progress("comparing labels with PyTorch")
    reference, problem = torch_rows(checkpoint.model, texts.rows), checkpoint.model.config.problem_type
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        logits = graph.logits(texts.rows)
        seconds.append(time.perf_counter() - start)
    spread = reference - reference.mean(axis=0, keepdims=True, dtype=np.float64)
    accuracy = accuracy_of(logits, texts.labels, problem)
    return ClassifierQuality(
        text=texts.name,
        texts=len(texts.rows),
        tokens=sum(map(len, texts.rows)),
        same_labels=same_labels(reference, logits, problem),
        spread_error=rms(reference.astype(np.float64) - logits) / max(rms(spread), TINY),
        accuracy_fp32=accuracy_of(reference, texts.labels, problem),
        accuracy=accuracy,
        accuracy_error=None if accuracy is None else float(np.sqrt(accuracy * (1 - accuracy) / len(texts.rows))),
        texts_per_s=len(texts.rows) / float(np.median(seconds)),
        threads=graph.threads,
    )


def same_labels(reference: Logits, logits: Logits, problem: str) -> float | None:
    """Share of texts to which two sets of logits give the same labels; None for a regression."""
    if problem == REGRESSION:
        return None
    if problem == SINGLE_LABEL:
        return float((reference.argmax(axis=1) == logits.argmax(axis=1)).mean())
    return float(((reference > 0) == (logits > 0)).all(axis=1).mean())


def accuracy_of(logits: Logits, labels: list[int] | None, problem: str) -> float | None:
    """Share of texts whose likeliest label is the right one; None where that is not known, or not one."""
    if labels is None or problem != SINGLE_LABEL:
        return None
    return float((logits.argmax(axis=1) == np.array(labels)).mean())
