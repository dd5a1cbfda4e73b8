"""The interface of whatever computes a classifier, and the choice: the portable graph, or the operator DogeStep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, PackageError
from .classifier_graph import ClassifierDescription, ClassifierGraph
from .classifier_step import ClassifierStep
from .description import BLOCKS_KEY, CLASSIFIER_STEP_FILE, DATA_FILE, PORTABLE_FILE
from .folder_files import REMEDY, check_data, check_report, metadata_entry
from .operators import kernels_of, operators_library, wanted
from .threads import check_threads, default_threads

FASTER_KERNELS = ("AVX-512",)  # than onnxruntime with whole texts, by benchmarks/speed/classifier.py; others may be


class LabelGraph(Protocol):
    """Computes the logits of texts. Calls from several threads do not disturb each other.

    Attributes:
        kernels: who computes, in a word or two.
        description: of the classifier.
        threads: of the computation.
    """

    kernels: str
    description: ClassifierDescription
    threads: int

    def logits(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The logits of rows of token ids, each of at least one: float32 [rows, labels]."""


def open_classifier(folder: Path, threads: int | None = None, operators: bool | None = None) -> LabelGraph:
    """The graph of our own operator, where the folder has one and it is the faster one; else the portable graph.

    Args:
        folder: one that doge-export wrote.
        threads: of the computation; None takes `default_threads`.
        operators: whether the project's own operator computes it, see `operators_library`. None: where the library is
            there with FASTER_KERNELS, and weights are in blocks of few bits. onnxruntime is faster with float32.

    Raises:
        PackageError: a file is missing, damaged, or of another export.
        OptionError: of `check_threads` and `operators_library`.
    """
    check_threads(threads)
    check_classifier(folder)
    threads = threads or default_threads((folder / DATA_FILE).stat().st_size)
    demanded, step = wanted(operators), folder / CLASSIFIER_STEP_FILE
    if operators and not step.is_file():
        raise OptionError(
            f"{folder} has no {CLASSIFIER_STEP_FILE}, so operators cannot be True; leave it out, or export the "
            "checkpoint again"
        )
    library = None
    if step.is_file() and (demanded or weights_in_blocks(step)):
        library = operators_library(operators)
    if library is not None and not demanded and kernels_of(library) not in FASTER_KERNELS:
        library = None
    return ClassifierGraph(folder, threads) if library is None else ClassifierStep(folder, threads, library)


def weights_in_blocks(step: Path) -> bool:
    """Whether a graph of DogeStep says that its weights are.

    Raises:
        PackageError: it does not say, so its end is missing.
    """
    try:
        return bool(json.loads(metadata_entry(step.read_bytes(), BLOCKS_KEY))["weights_in_blocks"])
    except (ValueError, KeyError) as error:
        raise PackageError(f"{step} is damaged; {REMEDY}") from error


def check_classifier(folder: Path) -> None:
    """Refuse a folder in which a file is missing, or of another export than the portable graph.

    Raises:
        PackageError: there is such a file, which is named.
    """
    if not (folder / DATA_FILE).is_file():
        raise PackageError(f"{folder / DATA_FILE} is missing; {REMEDY}")
    description, step = ClassifierDescription.from_graph(folder / PORTABLE_FILE), folder / CLASSIFIER_STEP_FILE
    check_data(folder, PORTABLE_FILE)
    check_report(folder)
    if not step.is_file():
        return
    if ClassifierDescription.from_graph(step) != description:
        raise PackageError(f"{step} is damaged, or of another export than {PORTABLE_FILE}; {REMEDY}")
    check_data(folder, CLASSIFIER_STEP_FILE)
