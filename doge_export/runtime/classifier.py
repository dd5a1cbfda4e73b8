"""Texts to labels with their scores, and rewards, by an exported classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, PackageError
from .batch import Batch
from .generation_options import read_json_object
from .label_graph import LabelGraph, open_classifier
from .state import State

CONFIG_FILE = "config.json"
MULTI_LABEL, REGRESSION = "multi_label_classification", "regression"  # other problem types have one label a text
LIKELY = 0.5  # from this score on a label is one of several


@dataclass(frozen=True)
class Classification:
    """The labels of a text.

    Attributes:
        labels: the likeliest one; of several labels all with a score of at least 0.5; of a regression all.
        scores: of every label, in the model's order: probabilities, or a regression's numbers.
    """

    labels: tuple[str, ...]
    scores: dict[str, float]

    @property
    def label(self) -> str:
        """The label with the largest score."""
        return max(self.scores, key=self.scores.__getitem__)

    @property
    def score(self) -> float:
        """The largest score: a reward model's only one is the reward."""
        return self.scores[self.label]


class Classifier:
    """A classifier's graph with the names of its labels."""

    def __init__(self, folder: Path, threads: int | None = None, operators: bool | None = None) -> None:
        """Open an exported folder; operators: as `open_classifier` has them.

        Raises:
            PackageError: it is damaged, or config.json names other labels than the graph has.
            OptionError: an impossible number of threads, or operators that are not there.
        """
        self.graph = open_classifier(folder, threads, operators)
        fields = read_json_object(folder / CONFIG_FILE)
        self.labels = named_labels(fields, self.graph.description.num_labels, folder / CONFIG_FILE)
        self.problem_type = str(fields.get("problem_type"))

    def classify(self, rows: Sequence[Sequence[int]]) -> list[Classification]:
        """The labels of rows of token ids."""
        return [self.classification(row) for row in self.graph.logits(rows)]

    def classification(self, logits: NDArray[np.float32]) -> Classification:
        """The labels that logits float32 [labels] stand for."""
        scores = dict(zip(self.labels, scores_of(logits, self.problem_type).tolist(), strict=True))
        if self.problem_type == REGRESSION:
            return Classification(tuple(self.labels), scores)
        if self.problem_type == MULTI_LABEL:
            return Classification(tuple(name for name, score in scores.items() if score >= LIKELY), scores)
        return Classification((self.labels[int(logits.argmax())],), scores)


def scores_of(logits: NDArray[np.float32], problem_type: str) -> NDArray[np.float64]:
    """Softmax, the sigmoid of each, or the numbers themselves: float32 [..., labels] -> float64, the same shape."""
    x = logits.astype(np.float64)
    if problem_type == REGRESSION:
        return x
    if problem_type == MULTI_LABEL:
        return np.exp(-np.logaddexp(0.0, -x))
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def named_labels(fields: dict[str, Any], count: int, path: Path) -> list[str]:
    """The labels that config.json names, in the order of the logits.

    Where it names none they have transformers' usual names, which it leaves out of the file.

    Raises:
        PackageError: they are not as many as the graph has.
    """
    stated = fields.get("id2label", {str(index): f"LABEL_{index}" for index in range(count)})
    names = [stated.get(str(index)) for index in range(count)] if isinstance(stated, dict) else []
    if not isinstance(stated, dict) or len(stated) != count or len({str(name) for name in names}) != count:
        found = len(stated) if isinstance(stated, dict) else "no"
        raise PackageError(
            f"{path} has {found} labels in id2label; it must have {count} different ones, numbered from 0, as the graph"
        )
    return [str(name) for name in names]


class NoDecoder:
    """Stands where a model has its decoder; whatever needs one ends in a sentence."""

    cuts_freely = False

    def __init__(self, name: str, graph: LabelGraph) -> None:
        """Stand in the decoder's place of a classifier with this name and graph."""
        self.vocab_size, self.keep_window_size = graph.description.vocab_size, graph.description.keep_window_size
        self.kernels = graph.kernels
        self._name = name

    def _refuse(self) -> NoReturn:
        raise OptionError(f"{self._name} is a classifier, which writes no text; call classify, or run doge-classify")

    def new_state(self) -> State:
        """Refused."""
        self._refuse()

    def new_batch(self, size: int) -> Batch:
        """Refused."""
        self._refuse()

    def load_state(self, path: str | Path) -> State:
        """Refused."""
        self._refuse()

    def check_state(self, state: State) -> None:
        """Refused."""
        self._refuse()

    def forward(
        self, state: State, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] | int = "last"
    ) -> NDArray[np.float32]:
        """Refused."""
        self._refuse()

    def room_for_draft(self, state: State) -> int:
        """Refused."""
        self._refuse()

    def check_draft(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Refused."""
        self._refuse()


def fitting_rows(
    texts: Sequence[Any],
    read: Callable[[Any], list[int]],
    longest: int,
    truncate: bool,
    *,
    first: int = 1,
    words: tuple[str, str] = ("text", "truncate=True"),
) -> list[list[int]]:
    """Texts as rows of token ids.

    Args:
        texts: in any form that `read` takes.
        read: gives the token ids of one.
        longest: tokens that one may have; 0 for any number.
        truncate: whether longer ones are cut at their end.
        first: number of the first one.
        words: for a text and for the option, in messages.

    Raises:
        OptionError: a text has no token, or more than fit; its number is named.
    """
    rows, (thing, option) = [], words
    for number, text in enumerate(texts, first):
        ids = read(text)
        if not ids:
            raise OptionError(f"{thing} {number} has no token; give at least one character")
        if longest and len(ids) > longest and not truncate:
            raise OptionError(
                f"{thing} {number} has {len(ids)} tokens; it must have at most {longest}: shorten it, or give {option}"
            )
        rows.append(ids[:longest] if longest else ids)
    return rows
