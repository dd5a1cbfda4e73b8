"""The part that stages of classifiers share: labels, metrics, and the model that they start from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, r2_score
from transformers import PreTrainedTokenizerBase

from doge_common.errors import CheckpointError, OptionError
from doge_common.labelled import NUMBERS, SEVERAL, is_number
from doge_model import DogeForSequenceClassification, load_classifier
from doge_model.checkpoint import is_classifier
from doge_model.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL

from .arguments import DTYPES, ModelArguments
from .errors import DataError
from .stage import load_model

SHOWN = 5  # labels that a message names


def problem_of(records: Dataset, stated: str | None) -> str:
    """The problem type that the labels of all records have, or the stated one if they fit it.

    Raises:
        DataError: the records differ in shape, or do not fit the stated type.
    """
    shapes = sorted(set(records["shape"]))
    if len(shapes) > 1 and not (stated == REGRESSION and SEVERAL not in shapes):
        raise DataError(f"some records have {' and others '.join(shapes)}; label must be of one shape in all of them")
    found = {SEVERAL: MULTI_LABEL, NUMBERS: REGRESSION}.get(shapes[0], SINGLE_LABEL)
    if stated is None or stated == found:
        return found
    if stated == REGRESSION and all(is_number(label) for labels in records["labels"] for label in labels):
        check_finite(records)
        return stated
    if stated == MULTI_LABEL and found == SINGLE_LABEL:
        return stated
    raise DataError(f"problem_type is {stated}, but the records have {shapes[0]}; leave it out, or change the labels")


def check_finite(records: Dataset) -> None:
    """Refuse a label such as "nan" or "inf", which `float` reads as a number.

    Raises:
        DataError: there is one; its record is named.
    """
    for text, labels in zip(records["text"], records["labels"], strict=True):
        if not all(math.isfinite(float(label)) for label in labels):
            raise DataError(
                f"the record with the text {text[:40]!r} has the label {', '.join(labels)}; it must be finite"
            )


def names_in(records: Dataset, problem: str) -> list[str]:
    """The labels of all records in order; those of a regression are named by their place.

    Raises:
        DataError: there is one label alone, which leaves nothing to learn, or regressions of unequal width.
    """
    if problem == REGRESSION:
        widths = sorted({len(labels) for labels in records["labels"]})
        if len(widths) > 1:
            raise DataError(f"some records have {widths[0]} numbers and others {widths[1]}; all must have as many")
        return [f"value_{index}" for index in range(widths[0])] if widths[0] > 1 else ["value"]
    names = sorted({label for labels in records["labels"] for label in labels})
    if len(names) < 2 and problem == SINGLE_LABEL:
        raise DataError(f"all records have the label {names[0]!r}; give records of at least two labels")
    if not names:
        raise DataError("no record has a label; give records with at least one")
    return names


def load_for_labels(
    arguments: ModelArguments, names: Sequence[str], problem: str
) -> tuple[DogeForSequenceClassification, PreTrainedTokenizerBase]:
    """A causal checkpoint with a new head for these labels, or a classifier that has them, and the tokenizer.

    Raises:
        CheckpointError: it does not fit.
        DataError: a classifier has other labels than the data.
        OptionError: it has no tokenizer.
    """
    path, revision = arguments.model_name_or_path, arguments.model_revision
    named = None if revision == "main" else revision
    if not is_classifier(path, named):
        causal, tokenizer = load_model(arguments)
        model = DogeForSequenceClassification.from_causal(causal, names, problem)
    else:
        checkpoint = load_classifier(path, revision=named, dtype=DTYPES[arguments.dtype])
        if checkpoint.tokenizer is None:
            raise OptionError(f"{path} has no tokenizer; give it the one that the model was trained with")
        model, tokenizer = checkpoint.model, checkpoint.tokenizer
        model.config._attn_implementation = arguments.attn_implementation
        check_labels(model, names, problem, path)
    set_padding(model, tokenizer, path)
    return model, tokenizer


def check_labels(model: DogeForSequenceClassification, names: Sequence[str], problem: str, path: str) -> None:
    """Refuse labels that a trained classifier does not have.

    Raises:
        DataError: there is one, or the problem is another.
    """
    known = model.config.label2id
    unknown = [name for name in names if name not in known]
    if problem == REGRESSION:
        unknown = [] if len(names) == model.num_labels else list(names)
    if unknown or model.config.problem_type != problem:
        raise DataError(
            f"the data has {problem} with the labels {', '.join(names[:SHOWN])}, but {path} has "
            f"{model.config.problem_type} with {', '.join(list(known)[:SHOWN])}; give a causal model for a new head"
        )


def set_padding(model: DogeForSequenceClassification, tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Give tokenizer and model the same token for padding: the tokenizer's, else the model's, else the end.

    Raises:
        CheckpointError: there is none of them.
    """
    if tokenizer.pad_token is None and model.config.pad_token_id is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise CheckpointError(f"the tokenizer of {path} has neither pad_token nor eos_token; give it one of them")
    model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.padding_side = "right"


def targets(labels: Sequence[str], label2id: dict[str, int], problem: str) -> int | list[float]:
    """The labels of a record as the loss takes them.

    Raises:
        DataError: one of them is unknown.
    """
    if problem == REGRESSION:
        return [float(label) for label in labels]
    unknown = next((label for label in labels if label not in label2id), None)
    if unknown is not None:
        known = ", ".join(list(label2id)[:SHOWN])
        raise DataError(f"label {unknown!r} is in no record to train on; those that are: {known}, ...")
    if problem == SINGLE_LABEL:
        return label2id[labels[0]]
    return [float(name in labels) for name in label2id]


def metrics(logits: NDArray[np.floating[Any]], labels: NDArray[Any], problem: str) -> dict[str, float]:
    """Accuracy with its standard error and macro F1, or the errors of a regression.

    Of several labels all must be right at once.
    """
    if problem == REGRESSION:
        values = labels.reshape(logits.shape)
        found = {"rmse": float(np.sqrt(np.mean((logits - values) ** 2)))}
        return found | ({"r2": float(r2_score(values, logits))} if len(values) > 1 else {})
    said = logits.argmax(axis=1) if problem == SINGLE_LABEL else (logits > 0).astype(int)
    truth = labels.astype(int)
    accuracy = float(accuracy_score(truth, said))
    return {
        "accuracy": accuracy,
        "accuracy_error": standard_error(accuracy, len(truth)),
        "f1": float(f1_score(truth, said, average="macro", zero_division=0.0)),
    }


def standard_error(share: float, count: int) -> float:
    """Of a share among so many independent records."""
    return float(np.sqrt(share * (1 - share) / max(1, count)))


def encode(
    records: Dataset, tokenizer: PreTrainedTokenizerBase, label2id: dict[str, int], problem: str, max_length: int
) -> Dataset:
    """Records as the trainer takes them: input_ids and labels.

    Raises:
        DataError: a label is unknown.
    """
    for labels in records["labels"]:  # `datasets` would hide a refusal in an error of its own
        targets(labels, label2id, problem)

    def as_row(record: dict[str, Any]) -> dict[str, Any]:
        ids = tokenizer(record["text"], truncation=True, max_length=max_length)["input_ids"]
        return {"input_ids": ids, "labels": targets(record["labels"], label2id, problem)}

    encoded = records.map(as_row, remove_columns=records.column_names)
    return encoded.filter(lambda row: len(row["input_ids"]) > 0)


def without_texts_of(records: Dataset | None, trained: Dataset) -> Dataset | None:
    """The records whose text is none of those that are trained on; the number of the others is printed.

    Raises:
        DataError: none is left.
    """
    if records is None:
        return None
    seen = set(trained["text"])
    kept = records.filter(lambda record: record["text"] not in seen)
    if not len(kept):
        raise DataError(
            f"all {len(records)} held-out texts are also trained on; give others as eval_datasets, or hold none out"
        )
    if len(kept) < len(records):
        PartialState().print(f"{len(records) - len(kept)} held-out records are left out: their texts are trained on")
    return kept
