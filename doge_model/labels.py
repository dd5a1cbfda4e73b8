"""The labels of a classifier: names in the order of its rows, and the kind of problem that they are of.

    problem_type                    labels of a text               scores
    single_label_classification     exactly one                    softmax
    multi_label_classification      any number                     sigmoid, each by itself
    regression                      numbers, such as a reward      the logits themselves

The fields are transformers': `id2label`, `label2id` and `problem_type`. Where a file states no problem_type, one label
means regression and several mean single_label_classification, as in transformers' loss with whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from doge_common.errors import CheckpointError

from .configuration import DogeConfig

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)
UNNAMED = 2  # labels that transformers takes for granted where config.json names none


def give_labels(config: DogeConfig, names: Sequence[str], problem_type: str | None) -> None:
    """Give a configuration its labels, in place.

    Raises:
        CheckpointError: there is none, two are equal, or the problem type is unknown.
    """
    if not names:
        raise CheckpointError("id2label is empty; it must name at least one label")
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise CheckpointError(f"id2label has {twice!r} twice; each label must have a name of its own")
    if problem_type not in (None, *PROBLEM_TYPES):
        raise CheckpointError(
            f"problem_type is {problem_type!r}; it must be one of {', '.join(PROBLEM_TYPES)}, or null"
        )
    if len(names) == 1 and problem_type == SINGLE_LABEL:
        raise CheckpointError(
            f"problem_type is {problem_type!r} with one label, whose score would always be 1; it must be {REGRESSION!r}"
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = problem_type or (REGRESSION if len(names) == 1 else SINGLE_LABEL)


def label_names(fields: Mapping[str, Any], rows: int) -> list[str]:
    """The labels that the fields of a config.json name, one for each of so many rows of score.weight.

    Raises:
        CheckpointError: they are not one for each row, or id2label and label2id contradict each other.
    """
    stated = fields.get("id2label")
    if stated is None:
        count = fields.get("num_labels", UNNAMED)
        stated = {str(index): f"LABEL_{index}" for index in range(count if isinstance(count, int) else UNNAMED)}
    if not isinstance(stated, dict) or not all(isinstance(name, str) for name in stated.values()):
        raise CheckpointError(f"config field id2label is {str(stated)[:80]}; it must be an object of names by number")
    if len(stated) != rows:
        raise CheckpointError(
            f"config field id2label has {len(stated)} labels; it must have {rows}, the rows of tensor score.weight"
        )
    if set(stated) != {str(index) for index in range(rows)}:
        raise CheckpointError(
            f"config field id2label has the keys {', '.join(stated)[:80]}; they must be 0 to {rows - 1}"
        )
    names = [stated[str(index)] for index in range(rows)]
    back = fields.get("label2id")
    if isinstance(back, dict) and back != {name: index for index, name in enumerate(names)}:
        raise CheckpointError(f"config field label2id is {str(back)[:80]}; it must be the inverse of id2label")
    return names
