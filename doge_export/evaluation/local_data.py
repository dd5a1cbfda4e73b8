"""Evaluation sets from local files, in the columns that the harness's own tasks read from the hub.

Each function takes the folder and, where a set has subsets, the name of one. It raises the errors of `read_rows`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import datasets

from doge_common.errors import one_line

from ..errors import EvaluationError
from .records import Row, read_rows

Splits = dict[str, datasets.Dataset]


def ifeval(folder: Path, subset: str | None) -> Splits:
    """IFEval, in its published columns."""
    return {"train": dataset(read_rows(folder, "ifeval"))}


def piqa(folder: Path, subset: str | None) -> Splits:
    """PIQA, in its published columns."""
    return {"validation": dataset(read_rows(folder, "piqa"))}


def arc_easy(folder: Path, subset: str | None) -> Splits:
    """ARC-Easy; see `arc`."""
    return arc(folder, "arc_easy")


def arc_challenge(folder: Path, subset: str | None) -> Splits:
    """ARC-Challenge; see `arc`."""
    return arc(folder, "arc_challenge")


def arc(folder: Path, name: str) -> Splits:
    """One of the two sets of ARC. The file's query begins with "Question: ", a word that the harness writes itself."""
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
    """HellaSwag. The file's ctx is "activity: context"; the harness joins that from three columns.

    The harness capitalises one of the three, ctx_b: the beginning of a sentence that the endings complete. It is found
    here as the words behind the last full stop. 3,241 of the validation set's 10,042 items have it.
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
    """One of the 27 tasks of BBH."""
    return {"test": dataset(of_subset(read_rows(folder, "bbh"), "task", subset, folder / "bbh"))}


def mmlu(folder: Path, subset: str | None) -> Splits:
    """One of the 57 subjects of MMLU, or all of them in the file's order."""
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
    """The rows as a dataset in memory. A field that only some rows have is None in the others.

    Raises:
        EvaluationError: a field holds values of several kinds.
    """
    try:
        return datasets.Dataset.from_list(rows)
    except (ValueError, TypeError) as error:  # the bases of pyarrow's errors
        reason = one_line(error)
        raise EvaluationError(
            f"the records do not fit together ({reason}); give each field values of one kind"
        ) from error


def of_subset(rows: list[Row], field: str, subset: str | None, path: Path) -> list[Row]:
    """The rows whose `field` is `subset`; all rows where `subset` is None.

    Raises:
        EvaluationError: there are none.
    """
    found = [row for row in rows if subset is None or row[field] == subset]
    if not found:
        raise EvaluationError(f"items of {field} {subset!r} are missing in {path}.jsonl; get a complete file")
    return found
