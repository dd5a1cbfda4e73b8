"""How well an exported classifier keeps the labels of the PyTorch model in float32, and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from doge_model.labels import REGRESSION, SINGLE_LABEL

from ..runtime.label_graph import LabelGraph
from ..texts.labelled import Texts
from .agreement import TINY, rms
from .classifier_verification import Logits, torch_rows

if TYPE_CHECKING:
    from doge_model import ClassifierCheckpoint

Truth = NDArray[np.float64]  # [texts, labels], by `doge_export.texts.labelled.truth_of`
ROUNDS = 3  # of the speed, whose median counts


@dataclass(frozen=True)
class ClassifierQuality:
    """An export beside the PyTorch model in float32.

    Attributes:
        text: where the texts are from.
        texts: their number.
        tokens: of all of them.
        cut: texts that were longer than the model takes, and lost their end before both read them.
        same_labels: share of texts to which both give the same labels; None for a regression.
        spread_error: root mean square difference of the logits, as a share of how far PyTorch's texts lie apart.
        accuracy_fp32, accuracy: of the PyTorch model and of the export; None for a regression, and where the right
            labels are not known. Of several labels all must be right at once.
        accuracy_error: standard error of the second.
        rmse_fp32, rmse: of a regression, the root mean square error of both in place of the accuracy.
        texts_per_s: of the export, where it was made.
        threads: that it took.
        kernels: who computed.
    """

    text: str
    texts: int
    tokens: int
    cut: int
    same_labels: float | None
    spread_error: float
    accuracy_fp32: float | None
    accuracy: float | None
    accuracy_error: float | None
    rmse_fp32: float | None
    rmse: float | None
    texts_per_s: float
    threads: int
    kernels: str


def measure_classifier(
    checkpoint: ClassifierCheckpoint, graph: LabelGraph, texts: Texts, progress: Callable[[str], object]
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
        cut=texts.cut,
        same_labels=same_labels(reference, logits, problem),
        spread_error=rms(reference.astype(np.float64) - logits) / max(rms(spread), TINY),
        accuracy_fp32=accuracy_of(reference, texts.labels, problem),
        accuracy=accuracy,
        accuracy_error=None if accuracy is None else float(np.sqrt(accuracy * (1 - accuracy) / len(texts.rows))),
        rmse_fp32=rmse_of(reference, texts.labels, problem),
        rmse=rmse_of(logits, texts.labels, problem),
        texts_per_s=len(texts.rows) / float(np.median(seconds)),
        threads=graph.threads,
        kernels=graph.kernels,
    )


def same_labels(reference: Logits, logits: Logits, problem: str) -> float | None:
    """Share of texts to which two sets of logits give the same labels; None for a regression."""
    if problem == REGRESSION:
        return None
    if problem == SINGLE_LABEL:
        return float((reference.argmax(axis=1) == logits.argmax(axis=1)).mean())
    return float(((reference > 0) == (logits > 0)).all(axis=1).mean())


def accuracy_of(logits: Logits, labels: Truth | None, problem: str) -> float | None:
    """Share of texts whose labels are the right ones; None where those are not known, and for a regression."""
    if labels is None or problem == REGRESSION:
        return None
    if problem == SINGLE_LABEL:
        return float((logits.argmax(axis=1) == labels.argmax(axis=1)).mean())
    return float(((logits > 0) == (labels > 0)).all(axis=1).mean())


def rmse_of(logits: Logits, labels: Truth | None, problem: str) -> float | None:
    """Root mean square error of a regression; None where the right numbers are not known, and for other problems."""
    return None if labels is None or problem != REGRESSION else rms(logits - labels)
