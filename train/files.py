"""Local data files, read record by record, each with its line or row.

A .jsonl file has one JSON value a line, .parquet one record a row, .txt documents between separators. .jsonl and .txt
may be compressed as .xz or .gz. Blank lines of .jsonl and empty documents of .txt are no records.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import DataError


@dataclass(frozen=True)
class Unreadable:
    """The place of a record that cannot be read, with the reason."""

    reason: str


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line; a file that is there is whole."""
    unfinished = path.with_name(f"{path.name}.partial")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_file(path: Path, separator: str) -> Iterator[tuple[str, Any]]:
    """Every record with its place, such as ("line 3", {...}); a line that is no JSON is an `Unreadable`.

    Args:
        path: the file.
        separator: the text between two documents of a text file.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif ".jsonl" in path.suffixes:
            yield from _jsonl(path)
        else:
            yield from _text(path, separator)
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}") from error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1000):
            for record in batch.to_pylist():
                row += 1
                yield f"row {row}", record


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            yield f"line {number}", _json(line)


def _json(line: bytes) -> Any:
    """The value in a line, or an `Unreadable` with the fault."""
    try:
        value = json.loads(line)
        if b"\\u" in line:  # an escape may be half of a character, which no tokenizer takes
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # no JSON, or JSON that Python does not read
        return Unreadable(f"the line is not valid JSON: {error}")
    return value


def _text(path: Path, separator: str) -> Iterator[tuple[str, Any]]:
    with _open(path) as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: the text is not valid UTF-8: {error.reason}") from error
    line = 1
    for document in text.split(separator):
        stripped = document.strip("\n")
        if stripped.strip():
            start = line + len(document) - len(document.lstrip("\n"))
            yield f"line {start}", stripped
        line += document.count("\n") + separator.count("\n")


def _open(path: Path) -> Any:
    if path.suffix == ".xz":
        return lzma.open(path)
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
