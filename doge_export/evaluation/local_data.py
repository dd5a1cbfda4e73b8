"""Evaluation sets in local files, given to the harness in the columns its own tasks read from the hub.

One JSON object a line, `NAME.jsonl` or `NAME.jsonl.xz`; `FIELDS` says which files and fields there are.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import datasets

from ..errors import EvaluationError, OptionError

Row = dict[str, Any]
Splits = dict[str, datasets.Dataset]

# file: its fields and their types
FIELDS: dict[str, dict[str, type]] = {
    "ifeval": {"key": int, "prompt": str, "instruction_id_list": list, "kwargs": list},
    "piqa": {"goal": str, "sol1": str, "sol2": str, "label": int},
    "arc_easy": {"query": str, "choices": list, "gold": int},
    "arc_challenge": {"query": str, "choices": list, "gold": int},
    "hellaswag": {"ctx": str, "endings": list, "label": int},
    "bbh": {"task": str, "input": str, "target": str},
    "mmlu_test": {"subject": str, "question": str, "choices": list, "answer": int},
    "mmlu_dev": {"subject": str, "question": str, "choices": list, "answer": int},
}


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
    """In memory; fields that only some rows have are None in the others."""
    return datasets.Dataset.from_list(rows)


def of_subset(rows: list[Row], field: str, subset: str | None, path: Path) -> list[Row]:
    """The rows with that value in the field; EvaluationError when there are none."""
    found = [row for row in rows if subset is None or row[field] == subset]
    if not found:
        raise EvaluationError(f"{path}.jsonl has no items of {field} {subset!r}; get a complete file")
    return found


@cache
def read_rows(folder: Path, name: str) -> list[Row]:
    """The records of a file, checked against FIELDS.

    Raises:
        OptionError: there is no such file.
        EvaluationError: it cannot be read, or a line is not what it should be.
    """
    path = find_file(folder, name)
    try:
        with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
            rows = [checked_row(line, FIELDS[name], f"{path}, line {number}") for number, line in enumerate(file, 1)]
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read ({error}); get the file again") from error
    if not rows:
        raise EvaluationError(f"{path} is empty; get the file again")
    return rows


def find_file(folder: Path, name: str) -> Path:
    """NAME.jsonl or NAME.jsonl.xz; OptionError where there is neither."""
    for suffix in (".jsonl", ".jsonl.xz"):
        path = folder / (name + suffix)
        if path.is_file():
            return path
    raise OptionError(f"{folder} has neither {name}.jsonl nor {name}.jsonl.xz; put it there or leave out --data-dir")


def checked_row(line: str, fields: Mapping[str, type], place: str) -> Row:
    """The record in a line; EvaluationError where it is none, or lacks a field."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{place} is not JSON ({error}); every line holds one object") from error
    if not isinstance(row, dict):
        raise EvaluationError(f"{place} holds a {type(row).__name__}; every line holds one object")
    for name, kind in fields.items():
        if not isinstance(row.get(name), kind):
            given = repr(row[name]) if name in row else "missing"
            raise EvaluationError(f"{place}: {name} is {given}, but must be a {kind.__name__}")
    return row
