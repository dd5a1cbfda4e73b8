"""The texts on which a classifier is compared with PyTorch: a user's, with or without labels, or pieces of our own.

`doge_common.labelled` reads records, as for `train.classify`. Labels may also be missing from all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from doge_common.errors import DataError
from doge_common.labelled import NUMBERS, ONE, is_number, labels_in, text_in

from ..errors import OptionError
from .token_ids import long_text

if TYPE_CHECKING:
    from doge_model import ClassifierCheckpoint

SUFFIXES = (".txt", ".jsonl")
PIECES, SHORTEST, LONGEST = 64, 8, 128  # of the built-in text, and tokens of a piece
SHOWN = 8  # labels that a message names


@dataclass(frozen=True)
class Texts:
    """Texts as token ids.

    Attributes:
        name: of the file.
        rows: of token ids.
        labels: the right ones, as `truth_of` gives them; None where they are not known.
        cut: the number of texts that were longer than the model takes, and lost their end.
    """

    name: str
    rows: list[list[int]]
    labels: NDArray[np.float64] | None = None
    cut: int = 0


@dataclass(frozen=True)
class Record:
    """A text of a file with its labels and their shape, by `doge_common.labelled`; "" for a text without."""

    number: int
    text: str
    labels: tuple[str, ...] = ()
    shape: str = ""


def check_texts(source: str) -> None:
    """Refuse a file that is missing or of another kind.

    Raises:
        OptionError: it is refused.
    """
    path = Path(source)
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(f"texts is {source}; it must be a .txt file, a text a line, or .jsonl with the field text")
    if not path.is_file():
        raise OptionError(f"texts is {source}, which is missing; give a file of texts")


def evaluation_texts(checkpoint: ClassifierCheckpoint, source: str | None, longest: int) -> Texts:
    """The user's texts, or pieces of the package's text; longest: tokens that one may have, 0 for any number.

    Raises:
        OptionError: a text is empty, its label does not fit, or the file cannot be read.
    """
    if source is None:
        return built_in_pieces(checkpoint, longest)
    if checkpoint.tokenizer is None:
        raise OptionError(f"texts goes with a tokenizer, which {checkpoint.source} lacks; leave texts out")
    records = read_records(Path(source))
    encoded = checkpoint.tokenizer([record.text for record in records], verbose=False)["input_ids"]
    rows = [list(ids[:longest] if longest else ids) for ids in encoded]
    cut = sum(len(ids) > len(row) for ids, row in zip(encoded, rows, strict=True))
    empty = next((record.number for record, row in zip(records, rows, strict=True) if not row), None)
    if empty is not None:
        raise OptionError(f"texts is {source}, whose line {empty} has no token; leave it out")
    if not any(record.shape for record in records):
        return Texts(Path(source).name, rows, cut=cut)
    config = checkpoint.model.config
    return Texts(Path(source).name, rows, truth_of(records, list(config.label2id), config.problem_type, source), cut)


def truth_of(records: Sequence[Record], names: Sequence[str], problem: str, source: str) -> NDArray[np.float64]:
    """The right labels: float64 [records, labels], 1 for those that hold, or the numbers of a regression.

    Raises:
        OptionError: a record has none, or one that the model does not have.
    """
    from doge_model.labels import REGRESSION, SINGLE_LABEL  # noqa: PLC0415 - doge_model imports torch

    rows = []
    for record in records:
        refused = f"texts is {source}, whose line {record.number} has the label {', '.join(record.labels) or None!r}"
        if problem == REGRESSION:
            numbers = [float(label) if is_number(label) else math.nan for label in record.labels]
            if len(numbers) != len(names) or not all(map(math.isfinite, numbers)):
                raise OptionError(f"{refused}; the model's are {len(names)} finite numbers")
            rows.append(numbers)
            continue
        fits = record.shape == ONE or (problem != SINGLE_LABEL and record.shape not in ("", NUMBERS))
        if not fits or not set(record.labels) <= set(names):
            kind = "one" if problem == SINGLE_LABEL else "some"
            raise OptionError(f"{refused}; it must be {kind} of {', '.join(names[:SHOWN])}, the model's")
        rows.append([float(name in record.labels) for name in names])
    return np.array(rows)


def read_records(path: Path) -> list[Record]:
    """The texts of a file with their labels.

    Raises:
        OptionError: it cannot be read, holds no text, or a line of it is no record.
    """
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")  # JSON strings may hold other line ends, as U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"texts is {path}, which cannot be read: {error}; give a file in UTF-8") from error
    numbered = [(number, line.rstrip("\r")) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise OptionError(f"texts is {path}, which holds no text; give one with some")
    if path.suffix.lower() == ".txt":
        return [Record(number, line) for number, line in numbered]
    return [record_of(path, number, line) for number, line in numbered]


def record_of(path: Path, number: int, line: str) -> Record:
    """The text and the labels of a line of JSON."""
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"texts is {path}, whose line {number} is no JSON: {error}; give an object a line") from error
    if not isinstance(record, dict):
        raise OptionError(f"texts is {path}, whose line {number} is no object; it must have the field text")
    try:
        text = text_in(record.get("text"))
        if record.get("label") is None:
            return Record(number, text)
        labels, shape = labels_in(record["label"])
    except DataError as error:
        raise OptionError(f"texts is {path}, whose line {number} does not fit: {error}") from error
    return Record(number, text, tuple(labels), shape)


def built_in_pieces(checkpoint: ClassifierCheckpoint, longest: int) -> Texts:
    """Pieces of unequal lengths of the package's text, or random tokens without a tokenizer."""
    rng = np.random.default_rng(0)
    name, ids = long_text(checkpoint, PIECES * LONGEST)
    most = min(LONGEST, longest or LONGEST)
    lengths = rng.integers(min(SHORTEST, most), most + 1, size=PIECES)
    starts = rng.integers(max(1, len(ids) - most), size=PIECES)
    return Texts(
        f"pieces of {name}", [ids[start : start + n].tolist() for start, n in zip(starts, lengths, strict=True)]
    )
