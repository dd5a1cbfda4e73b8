"""Evaluation sets in local files, given to the harness in the columns its own tasks read from the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import datasets

from doge_model.errors import one_line

from ..errors import EvaluationError
from .records import Row, read_rows

Splits = dict[str, datasets.Dataset]


def ifeval(folder: Path, subset: str | None) -> Splits:
    """As published."""
    return {"train": dataset(read_rows(folder, "ifeval"))}


def piqa(folder: Path, subset: str | None) -> Splits:
    """As published."""
    return {"validation": dataset(read_rows(folder, "piqa"))}


def arc_easy(folder: Path, subset: str | None) -> Splits:
    """As `arc`."""
    return arc(folder, "arc_easy")


def arc_challenge(folder: Path, subset: str | None) -> Splits:
    """As `arc`."""
    return arc(folder, "arc_challenge")


def arc(folder: Path, name: str) -> Splits:
    """The file's query is "Question: ..."; the harness writes that word itself."""
    rows = [
        {
            "question": row["query"].removeprefix("Question: "),
            "choices": {"text": row["choices"], "label": [str(number) for number in range(len(row["choices"]))]},
            "answerKey": str(row["gold"]),
        }
        for row in read_rows(folder, name)
    ]
    return {"test": dataset(rows)}


def hellaswag(folder: Path, subset: str | None) -> Splits:
    """The file's ctx is "activity: context"; the harness joins it from three columns, of which it capitalises one.

    That one, ctx_b, is the beginning of a sentence that the endings complete: what follows the last full stop, where
    the context does not end in one. Of the validation set's 10,042 items 3,241 have it.
    """
    rows = []
    for row in read_rows(folder, "hellaswag"):
        activity, _, context = row["ctx"].partition(": ")
        begun = re.search(r"(?<=[.!?]) +([^.!?]*)$", context.rstrip())
        split = begun.start() if begun else len(context)
        columns = {"activity_label": activity, "ctx_a": context[:split], "ctx_b": context[split:].strip()}
        rows.append(columns | {"endings": row["endings"], "label": str(row["label"])})
    return {"validation": dataset(rows)}


def bbh(folder: Path, subset: str | None) -> Splits:
    """One of the 27 tasks."""
    return {"test": dataset(of_subset(read_rows(folder, "bbh"), "task", subset, folder / "bbh"))}


def mmlu(folder: Path, subset: str | None) -> Splits:
    """One of the 57 subjects, or all of them in the file's order."""
    files = {"test": "mmlu_test", "dev": "mmlu_dev"}
    return {
        split: dataset(of_subset(read_rows(folder, name), "subject", subset, folder / name))
        for split, name in files.items()
    }


READERS: dict[str, Callable[[Path, str | None], Splits]] = {
    "ifeval": ifeval,
    "piqa": piqa,
    "arc_easy": arc_easy,
    "arc_challenge": arc_challenge,
    "hellaswag": hellaswag,
    "bbh": bbh,
    "mmlu": mmlu,
}


def dataset(rows: list[Row]) -> datasets.Dataset:
    """In memory; fields that only some rows have are None in the others. EvaluationError where kinds differ."""
    try:
        return datasets.Dataset.from_list(rows)
    except (ValueError, TypeError) as error:  # pyarrow's are of these kinds
        reason = one_line(error)
        raise EvaluationError(
            f"the records do not fit together ({reason}); give each field values of one kind"
        ) from error


def of_subset(rows: list[Row], field: str, subset: str | None, path: Path) -> list[Row]:
    """The rows with that value in the field; EvaluationError when there are none."""
    found = [row for row in rows if subset is None or row[field] == subset]
    if not found:
        raise EvaluationError(f"{path}.jsonl has no items of {field} {subset!r}; get a complete file")
    return found
