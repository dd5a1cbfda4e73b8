"""Records of evaluation sets in local files. Each record is checked before a model is asked anything.

A file is called `NAME.jsonl` or `NAME.jsonl.xz` and holds one JSON object in each line. `FIELDS` has names and fields.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import EvaluationError, OptionError

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of value that a field may hold.

    Attributes:
        words: its description, for messages.
        holds: whether a value is of the kind.
    """

    words: str
    holds: Callable[[object], bool]


def _is_text(value: object) -> bool:
    """Whether a value is a text that can be asked: not empty, and without a lone surrogate, which JSON can write."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_list_of(value: object, least: int, holds: Callable[[object], bool]) -> bool:
    return isinstance(value, list) and len(value) >= least and all(holds(item) for item in value)


TEXT = Kind("a text", _is_text)
NUMBER = Kind("a whole number", _is_number)
TEXTS = Kind("a list of texts", lambda value: _is_list_of(value, 1, _is_text))
CHOICES = Kind("a list of two or more texts", lambda value: _is_list_of(value, 2, _is_text))
OBJECTS = Kind("a list of objects", lambda value: _is_list_of(value, 1, lambda item: isinstance(item, dict)))

FIELDS: dict[str, dict[str, Kind]] = {
    "ifeval": {"key": NUMBER, "prompt": TEXT, "instruction_id_list": TEXTS, "kwargs": OBJECTS},
    "piqa": {"goal": TEXT, "sol1": TEXT, "sol2": TEXT, "label": NUMBER},
    "arc_easy": {"query": TEXT, "choices": CHOICES, "gold": NUMBER},
    "arc_challenge": {"query": TEXT, "choices": CHOICES, "gold": NUMBER},
    "hellaswag": {"ctx": TEXT, "endings": CHOICES, "label": NUMBER},
    "bbh": {"task": TEXT, "input": TEXT, "target": TEXT},
    "mmlu_test": {"subject": TEXT, "question": TEXT, "choices": CHOICES, "answer": NUMBER},
    "mmlu_dev": {"subject": TEXT, "question": TEXT, "choices": CHOICES, "answer": NUMBER},
}
# For each file: the field with the index of the right choice, from 0, and the fields, or the one list, of the choices.
ANSWERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "piqa": ("label", ("sol1", "sol2")),
    "arc_easy": ("gold", ("choices",)),
    "arc_challenge": ("gold", ("choices",)),
    "hellaswag": ("label", ("endings",)),
    "mmlu_test": ("answer", ("choices",)),
    "mmlu_dev": ("answer", ("choices",)),
}
LETTERS = 4  # choices of an item of MMLU; the harness's prompt names them A to D


@cache
def read_rows(folder: Path, name: str) -> list[Row]:
    """The checked records of a file.

    Raises:
        OptionError: there is no such file.
        EvaluationError: it cannot be read, or a line holds something else.
    """
    path = find_file(folder, name)
    try:
        with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
            rows = [checked_row(line, name, f"{path}, line {number}") for number, line in enumerate(file, 1)]
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read ({error}); get the file again") from error
    if not rows:
        raise EvaluationError(f"{path} is empty; get the file again")
    return rows


def find_file(folder: Path, name: str) -> Path:
    """The path of NAME.jsonl or NAME.jsonl.xz.

    Raises:
        OptionError: there is neither.
    """
    for suffix in (".jsonl", ".jsonl.xz"):
        path = folder / (name + suffix)
        if path.is_file():
            return path
    raise OptionError(f"{name}.jsonl or {name}.jsonl.xz is missing in {folder}; put one there or leave out --data-dir")


def checked_row(line: str, name: str, place: str) -> Row:
    """The fields of one line of the file `name`.

    place: the line's file and number, for messages.

    Raises:
        EvaluationError: the line is no JSON object, or one of its fields holds something else.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # no JSON, or too deep for Python's reader
        raise EvaluationError(f"{place} is not JSON ({error}); it must be one object") from error
    if not isinstance(row, dict):
        raise EvaluationError(f"{place} is a {type(row).__name__}; it must be one object")
    for field, kind in FIELDS[name].items():
        if not kind.holds(row.get(field)):
            given = repr(row[field]) if field in row else "missing"
            raise EvaluationError(f"{place}: {field} is {given}; it must be {kind.words}")
    if name in ANSWERS:
        check_answer(row, name, place)
    if name == "ifeval":
        check_instructions(row, place)
    return {field: row[field] for field in FIELDS[name]}


def check_answer(row: Row, name: str, place: str) -> None:
    """Check that the right choice is one of the choices; otherwise every answer would be scored as wrong.

    Raises:
        EvaluationError: it is not.
    """
    field, holders = ANSWERS[name]
    choices = len(row[holders[0]]) if len(holders) == 1 else len(holders)
    if name.startswith("mmlu") and choices != LETTERS:
        raise EvaluationError(f"{place}: choices has {choices} texts; it must have {LETTERS}")
    if not 0 <= row[field] < choices:
        raise EvaluationError(f"{place}: {field} is {row[field]}; it must be from 0 to {choices - 1}")


def check_instructions(row: Row, place: str) -> None:
    """Check that the harness can check the instructions; otherwise it would fail after all answers were generated.

    Raises:
        EvaluationError: it cannot.
    """
    ids: list[str] = row["instruction_id_list"]
    arguments: list[Mapping[str, Any]] = row["kwargs"]
    if len(ids) != len(arguments):
        raise EvaluationError(
            f"{place}: kwargs has {len(arguments)} objects; it must have {len(ids)}, one for each instruction"
        )
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT  # noqa: PLC0415  needs NLTK's data

    for instruction, given in zip(ids, arguments, strict=True):
        if instruction not in INSTRUCTION_DICT:
            raise EvaluationError(
                f"{place}: instruction_id_list has {instruction!r}; it must hold only instructions of the harness"
            )
        used = {name: value for name, value in given.items() if value}  # the harness leaves these out too
        try:
            INSTRUCTION_DICT[instruction](instruction).build_description(**used)
        except (TypeError, ValueError, KeyError) as error:  # raised by its instructions
            raise EvaluationError(
                f"{place}: kwargs of {instruction} is {used}; it must be arguments that it takes ({error})"
            ) from error
