"""Files of answers: JSON lines that are written as answers come, and Parquet files that are put together from them."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from doge_common.errors import one_line

from ..errors import OptionError
from .rows import FURTHER_COLUMNS, QUESTION_COLUMNS, Row, RowError
from .sources import is_parquet, parquet_batches, pyarrow_for

HALF_CHARACTER = re.compile("[\ud800-\udfff]")
ROWS_OF_A_GROUP = 65536  # of a Parquet file that is written


def json_line(row: Row) -> bytes:
    """A row as a line of JSON in UTF-8. Dates, decimals and bytes of a Parquet file become text.

    JSON has no number for NaN and infinity: they become null, and text such as "-Infinity".
    """
    return json_text(row).encode() + b"\n"


def json_text(value: Any) -> str:
    """A value as JSON, as `json_line` writes it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_json)
    except OptionError:
        raise
    except ValueError:  # a number that JSON has not
        text = json.dumps(_finite(value), ensure_ascii=False, default=_as_json)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which JSON can only write as an escape
        return json.dumps(json.loads(text))
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else json.dumps(value)
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return {name: _finite(item) for name, item in value.items()} if isinstance(value, dict) else value


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, decimal.Decimal | datetime.timedelta | uuid.UUID):
        return str(value)
    raise OptionError(f"a column holds a {type(value).__name__}, which JSON has not; give an --output that is .parquet")


@contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Within the block, a fault of writing names this file; that of a write or flush has no name of its own."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


class LineFile:
    """A file of JSON lines that outlives a kill: each line is with the operating system before the next is made."""

    def __init__(self, path: Path) -> None:
        """Open or make the file; a last line without end, which a kill left, is removed."""
        self._path = path
        self._file: IO[bytes] = path.open("a+b")
        self.lines = self._count_whole_lines()

    def add(self, row: Row) -> None:
        """Write a line."""
        with faults_named(self._path):
            self._file.write(json_line(row))
            self._file.flush()
        self.lines += 1

    def close(self) -> None:
        """Close the file, when it is on the disk."""
        with faults_named(self._path), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def _count_whole_lines(self) -> int:
        count = end = 0
        self._file.seek(0)
        for line in self._file:
            if line.endswith(b"\n"):
                count, end = count + 1, end + len(line)
        self._file.truncate(end)
        return count


def write_parquet(source: Path, rows: list[Row | RowError], answers: Path, output: Path, text_column: str) -> None:
    """Put the rows of a source and the lines of their answers together as a Parquet file.

    rows: those of a source that is no Parquet file. The file is there whole, or not at all.
    """
    pyarrow_for(output)
    import pyarrow as pa  # noqa: PLC0415 - of an extra

    batches = (
        parquet_batches(source, ROWS_OF_A_GROUP) if is_parquet(source) else iter(table_of(rows, output).to_batches())
    )
    columns = [(name, pa.string()) for name in (text_column, *FURTHER_COLUMNS)]
    unfinished = output.with_name(f"{output.name}.tmp")
    try:
        _write_table(batches, answers, unfinished, columns, source)
        os.replace(unfinished, output)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_table(
    batches: Iterable[Any], answers: Path, unfinished: Path, columns: list[tuple[str, Any]], source: Path
) -> None:
    import pyarrow as pa  # noqa: PLC0415 - of an extra
    from pyarrow import parquet  # noqa: PLC0415 - of an extra

    writer = None
    with answers.open("rb") as lines:
        for batch in batches:
            found = [json.loads(line) for line in islice(lines, batch.num_rows)]
            table = pa.Table.from_batches([batch])
            for name, kind in columns:
                table = table.append_column(name, pa.array([answer[name] for answer in found], kind))
            writer = writer or parquet.ParquetWriter(unfinished, table.schema)
            writer.write_table(table)
    if writer is None:
        schema = parquet.read_schema(source) if is_parquet(source) else pa.schema([])
        writer = parquet.ParquetWriter(unfinished, pa.schema([*schema, *(pa.field(*column) for column in columns)]))
    writer.close()


def table_of(rows: Iterable[Row | RowError], output: Path) -> Any:
    """Rows as pyarrow's Table, those that are none as empty ones; OptionError where their columns have no one type.

    Prompts or messages that have no one type become text, lest one bad row end the run: see `_question_text`.
    """
    pyarrow = pyarrow_for(output)
    whole = [row.columns if isinstance(row, RowError) else row for row in rows]
    names = list(dict.fromkeys(name for row in whole for name in row))
    if not names:  # a table without columns forgets its rows, unless it had a column before
        return pyarrow.table({"none": pyarrow.nulls(len(whole))}).select([])
    columns = {}
    for name in names:
        values = [row.get(name) for row in whole]
        try:
            columns[name] = _array(name, values)
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError) as error:
            if name not in QUESTION_COLUMNS:
                raise OptionError(
                    f"the rows do not fit into a Parquet file, for the column {name[:64]!r} has no type of it "
                    f"({one_line(error)}); give an --output that is .jsonl"
                ) from error
            columns[name] = pyarrow.array([_question_text(name, value) for value in values], pyarrow.string())
    return pyarrow.table(columns)


def _array(name: str, values: list[Any]) -> Any:
    """Values as an array of a type that a Parquet file can have; pyarrow's exceptions where there is none."""
    import pyarrow as pa  # noqa: PLC0415 - of an extra
    from pyarrow import parquet  # noqa: PLC0415 - of an extra

    array = pa.array(values)
    parquet.write_table(pa.table({name: array[:0]}), pa.BufferOutputStream())  # objects without any key fail here
    return array


def _question_text(name: str, value: Any) -> str | None:
    """A prompt as it is where that is whole text; any other, and messages, as JSON."""
    if value is None:
        return None
    is_text = name == "prompt" and isinstance(value, str) and not HALF_CHARACTER.search(value)
    return value if is_text else json_text(value)
