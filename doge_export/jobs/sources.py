"""Rows of a JSONL file, of a Parquet file, or of standard input."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..extras import needs_extra
from .rows import Row, RowError

STANDARD = Path("-")  # standard input or output
OTHER_FORMATS = (".csv", ".tsv", ".xlsx", ".arrow", ".feather")
ROWS_AT_A_TIME = 256  # of a Parquet file that is answered
DEEPEST = 100  # lists and objects of a row, one in another; far deeper ones overflow the stack of whoever walks them


def check_format(path: Path) -> None:
    """OptionError for a name that promises another format than JSON lines or Parquet."""
    if path.suffix.lower() in OTHER_FORMATS:
        raise OptionError(f"{path} is named as another format; give JSON lines (.jsonl) or a Parquet file (.parquet)")


def is_parquet(path: Path) -> bool:
    """Whether a name is that of a Parquet file; any other holds JSON lines."""
    return path.suffix.lower() == ".parquet"


def read_rows(path: Path) -> Iterator[Row | RowError]:
    """The rows of a file, in order; for a line that is no JSON object, the reason.

    Raises OptionError where the file cannot be read.
    """
    if is_parquet(path):
        for batch in parquet_batches(path):
            yield from batch.to_pylist()
    elif path == STANDARD:
        yield from _rows_of_lines(sys.stdin.buffer)
    else:
        with opened(path) as file:
            yield from _rows_of_lines(file)


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """The file to read; OptionError where that cannot be done."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror}); give another file") from error


def parquet_batches(path: Path, rows: int = ROWS_AT_A_TIME) -> Iterator[Any]:
    """A Parquet file's rows, so many at a time, as pyarrow's RecordBatch; OptionError where it cannot be read."""
    with _opened_parquet(path) as file:
        yield from file.iter_batches(batch_size=rows)


def column_names(path: Path) -> list[str]:
    """The columns of a Parquet file; OptionError where it cannot be read."""
    with _opened_parquet(path) as file:
        return list(file.schema_arrow.names)


@contextmanager
def _opened_parquet(path: Path) -> Iterator[Any]:
    """A Parquet file as pyarrow's ParquetFile; OptionError where it cannot be read."""
    pyarrow = pyarrow_for(path)
    from pyarrow import parquet  # noqa: PLC0415 - of an extra

    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (OSError, pyarrow.ArrowException) as error:
        raise OptionError(f"{path} is no Parquet file that can be read ({error}); give another file") from error


def pyarrow_for(path: Path) -> Any:
    """The package that reads and writes a Parquet file; OptionError where it is missing."""
    with needs_extra("parquet", f"{path}, a Parquet file,", OptionError):
        import pyarrow  # noqa: PLC0415 - of an extra
    return pyarrow


def count_rows(path: Path) -> int | None:
    """The number of a file's rows; None for standard input."""
    if path == STANDARD:
        return None
    if is_parquet(path):
        with _opened_parquet(path) as file:
            return int(file.metadata.num_rows)
    with opened(path) as file:
        return sum(1 for line in file if line.strip())


def digest(path: Path) -> str | None:
    """The SHA-256 of a file; None for standard input."""
    if path == STANDARD:
        return None
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows_of_lines(lines: Iterable[bytes]) -> Iterator[Row | RowError]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _row_of_line(line, number)


def _row_of_line(line: bytes, number: int) -> Row | RowError:
    beyond: list[str] = []

    def read_float(digits: str) -> float | None:
        value = float(digits)
        if math.isfinite(value):
            return value
        beyond.append(digits[:40])
        return None

    try:
        row = json.loads(line.decode("utf-8-sig"), parse_float=read_float)
    except (ValueError, RecursionError) as error:
        return RowError(f"line {number} is no JSON ({error})")
    if not isinstance(row, dict):
        return RowError(f"line {number} is a JSON {type(row).__name__}; it must be an object")
    if line.count(b"[") + line.count(b"{") > DEEPEST and depth(row) > DEEPEST:
        return RowError(f"line {number} has lists and objects {depth(row)} deep; give at most {DEEPEST}")
    if beyond:
        return RowError(f"line {number} has the number {beyond[0]}, which 64 bits cannot hold; write it as text", row)
    return row


def depth(value: Any) -> int:
    """How many lists and objects stand one in another; 0 for any other value. It takes no recursion."""
    count, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        count += 1
        level = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
    return count
