"""Rows: a prompt or messages in, the answer in further columns out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import OptionError
from ..runtime.generation_options import GenerationOptions
from ..runtime.model import Model
from ..runtime.prompts import are_messages
from ..runtime.streaming import GenerationResult

Row = dict[str, Any]
TEXT_COLUMN = "text"
QUESTION_COLUMNS = ("prompt", "messages")
FURTHER_COLUMNS = ("finish_reason", "error")  # beside the answer's text, in this order


class RowError(OptionError):
    """A row that gets no answer, such as a line that is no JSON.

    Attributes:
        columns: of the row, those that its answer can stand beside.
    """

    def __init__(self, message: str, columns: Row | None = None) -> None:
        """columns: none by default."""
        super().__init__(message)
        self.columns: Row = columns or {}


def question_of(row: Mapping[str, Any]) -> Any:
    """The prompt or the messages of a row, as Python's own types; OptionError where it has none, or both."""
    try:
        given = {name: plain(row.get(name)) for name in QUESTION_COLUMNS}
    except RecursionError as error:
        raise OptionError(
            "its prompt or its messages are nested too deeply; give text, token ids or messages"
        ) from error
    questions = [value for value in given.values() if value is not None]
    if len(questions) != 1:
        fault = "both prompt and messages" if questions else "neither prompt nor messages"
        raise OptionError(f"it has {fault}; give one of them")
    messages = given["messages"]
    if messages is not None and not are_messages(messages):
        raise OptionError("messages is no list of messages; give each as an object with role and content")
    return questions[0]


def plain(value: Any) -> Any:
    """A value as numpy, pandas and Arrow hold it, as Python's own; a field that one message lacks is left out."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and math.isnan(value):
        return None  # pandas has no other way to say that there is none
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items() if item is not None}
    return value


def answered_in_order(
    model: Model, rows: Iterable[Row | RowError], options: GenerationOptions, first: int = 0, seeds_differ: bool = True
) -> Iterator[tuple[Row | RowError, GenerationResult | OptionError]]:
    """Each row with its answer or the reason for none, in the order of the rows; several are computed together.

    first: number of the first row. seeds_differ: whether row i draws by the seed + i.
    """
    waiting: dict[int, Row | RowError] = {}
    done: dict[int, GenerationResult | OptionError] = {}  # at most each_answer.MOST_AHEAD, however long one takes

    def questions() -> Iterator[tuple[Any, GenerationOptions] | OptionError]:
        for number, row in enumerate(rows):
            waiting[number] = row
            own = options
            if options.seed is not None and seeds_differ:
                own = replace(options, seed=options.seed + first + number)
            try:
                if isinstance(row, RowError):
                    raise row
                yield question_of(row), own
            except OptionError as error:
                yield error

    following = 0
    for number, outcome in model.answer_each(questions()):
        done[number] = outcome
        while following in done:
            yield waiting.pop(following), done.pop(following)
            following += 1


def answer_columns(outcome: GenerationResult | OptionError, text_column: str) -> Row:
    """The columns that an answer adds to its row; a row without answer has the reason in `error`.

    All are text, and none is missing: an engine gives a column that is all missing at first no type of text.
    """
    if isinstance(outcome, OptionError):
        values = ("", "error", str(outcome))
    else:
        values = (outcome.text, outcome.finish_reason, "")
    return dict(zip((text_column, *FURTHER_COLUMNS), values, strict=True))


def check_columns(columns: Sequence[str], text_column: str) -> None:
    """Raise for columns that an answer's would take the place of."""
    if not text_column:
        raise OptionError("the text column has an empty name; give it a name of its own")
    if text_column in (*QUESTION_COLUMNS, *FURTHER_COLUMNS):
        raise OptionError(f"the text column is {text_column!r}, the name of another column; give it a name of its own")
    for name in (text_column, *FURTHER_COLUMNS):
        if name in columns:
            raise OptionError(
                f"the rows have a column {name!r} already, which the answers would overwrite; "
                f"{_remedy(name, text_column)}"
            )


def row_beside_answer(row: Row, text_column: str) -> Row | RowError:
    """The row; where its answer would overwrite a column of it, the error that keeps the other columns."""
    taken = [name for name in (text_column, *FURTHER_COLUMNS) if name in row]
    if not taken:
        return row
    return RowError(
        f"it has a column {taken[0]!r}, which its answer overwrites; {_remedy(taken[0], text_column)}",
        {name: value for name, value in row.items() if name not in taken},
    )


def _remedy(taken: str, text_column: str) -> str:
    return "name another as the text column" if taken == text_column else "rename it"
