"""Files of answers: JSON lines that are written as answers come, and Parquet files that are put together from them."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..errors import OptionError
from .rows import FURTHER_COLUMNS, Row, RowError
from .sources import is_parquet, parquet_batches, pyarrow_for

ROWS_OF_A_GROUP = 65536  # of a Parquet file that is written


def json_line(row: Row) -> bytes:
    """A row as a line of JSON in UTF-8. Dates, decimals and bytes of a Parquet file become text."""
    text = json.dumps(row, ensure_ascii=False, default=_as_json)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which JSON can only write as an escape
        return json.dumps(row, default=_as_json).encode() + b"\n"


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
    """Rows as pyarrow's Table, those that are none as empty ones; OptionError where their columns have no one type."""
    pyarrow = pyarrow_for(output)
    whole = [row.columns if isinstance(row, RowError) else row for row in rows]
    names = list(dict.fromkeys(name for row in whole for name in row))
    if not names:  # a table without columns forgets its rows, unless it had a column before
        return pyarrow.table({"none": pyarrow.nulls(len(whole))}).select([])
    try:
        return pyarrow.table({name: pyarrow.array([row.get(name) for row in whole]) for name in names})
    except pyarrow.ArrowException as error:
        raise OptionError(
            f"the rows do not fit into a Parquet file ({error}); give an --output that is .jsonl"
        ) from error
