"""One run over a file of prompts, which a kill only interrupts: the same call goes on where it stopped.

While it runs, a file beside the output says by whom, from whom and how it is made. The lines of the output are the
answers of as many of the source's first rows. Those of a Parquet file stand in `NAME.part` until all are there.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..runtime.generation_options import GenerationOptions
from ..runtime.model import Model
from .rows import TEXT_COLUMN, Row, RowError, answer_columns, answered_in_order, check_columns, row_beside_answer
from .sinks import LineFile, faults_named, json_line, table_of, write_parquet
from .sources import STANDARD, check_format, column_names, count_rows, digest, is_parquet, read_rows

OnRow = Callable[[int, int | None, str | None], None]  # is told of rows done, of how many, and of a row's error


@dataclass(frozen=True)
class FileJob:
    """A source of prompts, and the place of their answers; either may be `-`, standard input and output.

    text_column: the name under which answers stand.
    """

    source: Path
    output: Path
    text_column: str = TEXT_COLUMN

    def run(self, model: Model, options: GenerationOptions, on_row: OnRow) -> None:
        """Answer every row that has no answer yet.

        Raises OptionError where the source cannot be read or its columns are taken, and where options allow no answer.
        The same where the output is there already, or was begun by another call.
        """
        model.check_options(options)
        for path in (self.source, self.output):
            check_format(path)
        if self.output != STANDARD and self.output.is_dir():
            raise OptionError(f"the output is {self.output}, a folder; give a file in it")
        if self.source != STANDARD and not self.source.is_file():
            raise OptionError(f"{self.source} is no file; give one of JSON lines or a Parquet file, or - for stdin")
        check_columns(column_names(self.source) if is_parquet(self.source) else (), self.text_column)
        total = count_rows(self.source)
        if self.output == STANDARD:
            for row in self._answers(model, options, self._rows(), 0, total, on_row):
                sys.stdout.buffer.write(json_line(row))
                sys.stdout.buffer.flush()
            return
        with self._claimed(self._description(model, options)):
            self._fill(model, options, total, on_row)

    def _fill(self, model: Model, options: GenerationOptions, total: int | None, on_row: OnRow) -> None:
        to_parquet = is_parquet(self.output)
        rows: Iterable[Row | RowError] = self._rows()
        kept: list[Row | RowError] = []
        if to_parquet and not is_parquet(self.source):
            rows = kept = list(rows)
            table_of(kept, self.output)  # so that rows which do not fit fail now, rather than when all are answered
            total = len(kept)
        lines = LineFile(self._part if to_parquet else self.output)
        try:
            rest = islice(rows, lines.lines, None)
            for row in self._answers(model, options, rest, lines.lines, total, on_row):
                lines.add({name: row[name] for name in self._added} if to_parquet else row)
        finally:
            lines.close()
        if to_parquet:
            with faults_named(self.output):
                write_parquet(self.source, kept, self._part, self.output, self.text_column)

    def _answers(
        self,
        model: Model,
        options: GenerationOptions,
        rows: Iterable[Row | RowError],
        first: int,
        total: int | None,
        on_row: OnRow,
    ) -> Iterator[Row]:
        """The rows from number `first` on, from 0, each with the columns of its answer."""
        done = first
        on_row(done, total, None)
        for row, outcome in answered_in_order(model, rows, options, first):
            done += 1
            columns = row.columns if isinstance(row, RowError) else row
            added = answer_columns(outcome, self.text_column)
            if added["error"]:
                added["error"] = f"row {done}: {added['error']}"
            yield {**columns, **added}
            on_row(done, total, added["error"] or None)

    def _rows(self) -> Iterator[Row | RowError]:
        """All rows of the source; OptionError where the first has a column that answers would overwrite."""
        for number, row in enumerate(read_rows(self.source)):
            if isinstance(row, RowError):
                beside = row_beside_answer(row.columns, self.text_column)
                yield RowError(str(row), beside.columns if isinstance(beside, RowError) else beside)
                continue
            if number == 0:  # the others are likely to have it too
                check_columns(list(row), self.text_column)
            yield row_beside_answer(row, self.text_column)

    @property
    def _added(self) -> tuple[str, ...]:
        return tuple(answer_columns(OptionError(), self.text_column))

    @property
    def _part(self) -> Path:
        """The answers of a Parquet file that is not there yet."""
        return self.output.with_name(f"{self.output.name}.part")

    def _has_rows(self) -> bool:
        """Whether an unfinished output holds an answer."""
        lines = self._part if is_parquet(self.output) else self.output
        return lines.exists() and lines.stat().st_size > 0

    @property
    def _mark(self) -> Path:
        """The file that says how an unfinished output is made."""
        return self.output.with_name(f"{self.output.name}.job")

    def _description(self, model: Model, options: GenerationOptions) -> dict[str, Any]:
        described = {
            "model": model.new_state().description.weights_sha256,
            "options": asdict(options),
            "source": digest(self.source),
            "text_column": self.text_column,
        }
        return dict(json.loads(json.dumps(described)))

    @contextmanager
    def _claimed(self, description: dict[str, Any]) -> Iterator[None]:
        """The output for one process alone; begun by a call of this description, or now."""
        mark = self._mark
        if not mark.exists():
            self._part.unlink(missing_ok=True)  # of an output that was deleted
            if self.output.exists():
                raise OptionError(f"{self.output} exists; give another --output, or delete it")
        if mark.exists() and self.source == STANDARD:
            raise OptionError(f"{self.output} is unfinished, and standard input cannot be read again; delete {mark}")
        try:
            with mark.open("a+", encoding="utf-8") as file:
                if not locked(file.fileno()):
                    raise OptionError(f"another process writes {self.output}; wait for it, or give another --output")
                file.seek(0)
                before = file.read()
                if before.endswith("\n") and self._has_rows():
                    check_description(json.loads(before), description, self.output, mark)
                else:
                    file.truncate(0)
                    file.write(json.dumps(description) + "\n")
                    file.flush()
                yield
                self._part.unlink(missing_ok=True)
                mark.unlink()
        except OSError as error:
            is_full = error.errno == errno.ENOSPC  # another output has no more room, and this one goes on later
            if is_full or error.filename is None or Path(error.filename).parent != mark.parent:
                raise
            fault = f"{error.filename} cannot be written ({error.strerror})"
            raise OptionError(f"{fault}; give another --output") from error


def check_description(before: dict[str, Any], description: dict[str, Any], output: Path, mark: Path) -> None:
    """Raise where an unfinished output was begun by another call."""
    differing = [name for name in description if before.get(name) != description[name]]
    if differing:
        raise OptionError(
            f"{output} is unfinished and was begun with another {' and another '.join(differing)}; repeat that call, "
            f"give another --output, or delete {output} and {mark}"
        )


def locked(descriptor: int) -> bool:
    """Lock an open file until it is closed; False where another process holds it."""
    if sys.platform == "win32":
        return True
    import fcntl  # noqa: PLC0415 - not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
