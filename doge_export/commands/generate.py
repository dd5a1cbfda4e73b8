"""doge-generate: answers to a file of prompts.

doge-generate FOLDER prompts.jsonl --output answers.jsonl
doge-generate FOLDER prompts.parquet --output answers.parquet --json-schema person.json
cat prompts.jsonl | doge-generate FOLDER > answers.jsonl

A row has a `prompt` or `messages`, and keeps all of its columns. Progress and errors go to standard error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import OptionError
from ..jobs.job import FileJob
from ..jobs.rows import TEXT_COLUMN
from ..jobs.sources import STANDARD
from ..runtime.loading import load
from ..talk.notes import complain, note, noted_warnings
from ..talk.terminal import stdin_is_terminal
from . import Command, terminated_like_interrupted
from .missing_export import ExportedFolder, found_or_made
from .sampling import sampling_options, sampling_overrides

MOST_COMPLAINTS = 10  # rows without answer that are named one by one


@click.command(cls=Command)
@click.argument("folder", type=ExportedFolder())
@click.argument("prompts", type=click.Path(path_type=Path), default=STANDARD)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=STANDARD,
    metavar="FILE",
    help="Where answers go: JSON lines, or a Parquet file if it is .parquet (default: standard output).",
)
@click.option("--text-column", default=TEXT_COLUMN, show_default=True, metavar="NAME", help="Column of the answers.")
@sampling_options
@click.option("--stop", multiple=True, metavar="TEXT", help="Ends an answer; may be given several times.")
@click.option("--threads", type=int, metavar="N", help="Threads of the computation.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub repository.")
@click.option("--adapter", metavar="NAME", help="Answer with this adapter of the folder.")
def main(
    folder: Path,
    prompts: Path,
    output: Path,
    text_column: str,
    stop: tuple[str, ...],
    threads: int | None,
    revision: str | None,
    adapter: str | None,
    **sampling: Any,
) -> None:
    """Answer every row of PROMPTS, a file of JSON lines or a Parquet file, or else JSON lines on standard input.

    Answers come in the order of the rows, in a column `text`; several are computed together. A row that cannot be
    answered has the reason in `error`. After a kill or Ctrl-C the same command goes on where it stopped. Row i, from 0,
    draws with the seed + i.
    """
    overrides = sampling_overrides(**sampling)
    if stop:
        overrides["stop"] = stop
    if prompts == STANDARD and stdin_is_terminal():
        raise OptionError("PROMPTS is missing; give a file of JSON lines or a Parquet file")
    job = FileJob(prompts, output, text_column)
    folder = found_or_made(folder)
    with noted_warnings(), terminated_like_interrupted():
        model = load(folder, threads=threads, revision=revision)
        model = model if adapter is None else model.with_adapter(adapter)
        options = model.options(**overrides)
        with Reporter(output) as reporter:
            job.run(model, options, reporter.on_row)


class Reporter:
    """Tells of the progress on standard error: a bar in a terminal, and a line at the end."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("rows", total=None)
        self._done = self._before = self._failed = 0
        self._begun = False

    def on_row(self, done: int, total: int | None, error: str | None) -> None:
        """So many rows are done, the last of them with this error or none."""
        if not self._begun:
            self._begun, self._before = True, done
            if done:
                note(f"Going on after {done} rows.")
        self._done = done
        self._progress.update(self._task, completed=done, total=total)
        if error is not None:
            self._failed += 1
            if self._failed <= MOST_COMPLAINTS:
                complain(error)

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self._progress.stop()
        failed = f", {self._failed} of them with an error in place of an answer" if self._failed else ""
        if kind is None:
            note(f"Rows done: {self._done - self._before}{failed}.")
        elif self._begun and self._output != STANDARD and not issubclass(kind, OptionError):
            note(f"Stopped after {self._done} rows; the same command goes on there.")


if __name__ == "__main__":
    main()
