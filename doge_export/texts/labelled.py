"""The texts on which a classifier is compared with PyTorch: a user's, with or without labels, or pieces of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OptionError
from .token_ids import long_text

if TYPE_CHECKING:
    from doge_model import ClassifierCheckpoint

SUFFIXES = (".txt", ".jsonl")
PIECES, SHORTEST, LONGEST = 64, 8, 128  # of the built-in text, and tokens of a piece


@dataclass(frozen=True)
class Texts:
    """Texts as token ids.

    Attributes:
        name: of the file.
        rows: of token ids.
        labels: numbers of the right labels; None where they are not known.
    """

    name: str
    rows: list[list[int]]
    labels: list[int] | None = None


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
        OptionError: a text is empty, its label unknown, or the file cannot be read.
    """
    if source is None:
        return built_in_pieces(checkpoint, longest)
    if checkpoint.tokenizer is None:
        raise OptionError(f"texts goes with a tokenizer, which {checkpoint.source} lacks; leave texts out")
    records = read_records(Path(source))
    encoded = checkpoint.tokenizer([text for text, _ in records], verbose=False)["input_ids"]
    rows = [list(ids[:longest] if longest else ids) for ids in encoded]
    empty = next((number for number, row in enumerate(rows, 1) if not row), None)
    if empty is not None:
        raise OptionError(f"texts is {source}, whose text {empty} has no token; leave it out")
    names = [label for _, label in records]
    if all(name is None for name in names):
        return Texts(Path(source).name, rows)
    return Texts(Path(source).name, rows, numbered(names, checkpoint.model.config.label2id, source))


def numbered(names: Sequence[str | None], label2id: dict[str, int], source: str) -> list[int]:
    """The numbers of labels.

    Raises:
        OptionError: a text has none, or one that the model does not have.
    """
    for number, name in enumerate(names, 1):
        if name not in label2id:
            raise OptionError(
                f"texts is {source}, whose text {number} has the label {name!r}; it must be one of "
                f"{', '.join(list(label2id)[:8])}, the model's"
            )
    return [label2id[str(name)] for name in names]


def read_records(path: Path) -> list[tuple[str, str | None]]:
    """The texts of a file with their labels, None for those without.

    Raises:
        OptionError: it cannot be read, holds no text, or a line of it is no record.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"texts is {path}, which cannot be read: {error}; give a file in UTF-8") from error
    numbered_lines = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered_lines:
        raise OptionError(f"texts is {path}, which holds no text; give one with some")
    if path.suffix.lower() == ".txt":
        return [(line, None) for _, line in numbered_lines]
    return [record_of(path, number, line) for number, line in numbered_lines]


def record_of(path: Path, number: int, line: str) -> tuple[str, str | None]:
    """The text and the label of a line of JSON."""
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise OptionError(f"texts is {path}, whose line {number} is no JSON: {error}") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise OptionError(f"texts is {path}, whose line {number} has no text; it must have the field text")
    label = record.get("label")
    return text, None if label is None else str(label)


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
