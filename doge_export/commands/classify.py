"""doge-classify: the label of each line, with its score.

doge-classify FOLDER questions.txt
cat questions.txt | doge-classify FOLDER --json > labels.jsonl
doge-classify REWARD_FOLDER conversations.jsonl --json-input

A line of the output belongs to a line of the input, in its order. Errors go to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import click

from ..errors import OptionError
from ..runtime.classifier import Classification, fitting_rows
from ..runtime.loading import load
from ..runtime.model import Model
from . import Command
from .missing_export import ExportedFolder

STANDARD = "-"
LINES = 256  # that are classified together


@click.command(cls=Command)
@click.argument("folder", type=ExportedFolder())
@click.argument("file", type=click.File("r", encoding="utf-8", lazy=False), default=STANDARD)
@click.option("--json", "as_json", is_flag=True, help="Write JSON lines with the scores of all labels.")
@click.option(
    "--json-input",
    is_flag=True,
    help="Lines are JSON: a text, or an object with text or messages. Needed for texts with line ends.",
)
@click.option("--truncate", is_flag=True, help="Cut texts that are too long, instead of refusing them.")
@click.option("--threads", type=int, metavar="N", help="Threads of the computation.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub repository.")
def main(
    folder: Path,
    file: TextIO,
    as_json: bool,
    json_input: bool,
    truncate: bool,
    threads: int | None,
    revision: str | None,
) -> None:
    """Write the label of each line of FILE, or of standard input, by the classifier in FOLDER.

    A line of the output has the label, a tab and its score; of several labels all that hold, with commas between.
    """
    model = load(folder, threads=threads, revision=revision)
    _ = model.classifier  # refuse a folder that writes text before a line is read
    together = 1 if file.isatty() else LINES
    number = 0
    while lines := list(islice(read_lines(file), together)):
        texts = [text_of(line, number + place, json_input) for place, line in enumerate(lines, 1)]
        for text, found in zip(texts, classified(model, texts, number, truncate), strict=True):
            click.echo(as_json_line(text, found) if as_json else as_row(found))
        number += len(lines)


def read_lines(file: TextIO) -> Iterator[str]:
    """The lines that follow, without their ends.

    Raises:
        OptionError: one is not UTF-8.
    """
    try:
        for line in file:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise OptionError(f"FILE is not in UTF-8 ({error.reason}); convert it first") from error


def text_of(line: str, number: int, json_input: bool) -> Any:
    """The text or the conversation in a line.

    Raises:
        OptionError: there is none.
    """
    if not line.strip():
        raise OptionError(f"line {number} is empty; each line must hold a text")
    if not json_input:
        return line
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"line {number} is no JSON: {error}; leave --json-input out for plain lines") from error
    if isinstance(value, dict):
        value = value.get("text", value.get("messages"))
    conversation = isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)
    if not conversation and not (isinstance(value, str) and value):
        raise OptionError(f"line {number} has no text; it must be a text, or an object with text or messages")
    return value


def classified(model: Model, texts: Sequence[Any], before: int, truncate: bool) -> list[Classification]:
    """The labels of texts; before: lines before the first.

    Raises:
        OptionError: a text has no token, or too many; its line is named.
    """
    longest, words = model.classifier.graph.description.longest, ("line", "--truncate")
    rows = fitting_rows(texts, model.token_row, longest, truncate, first=before + 1, words=words)
    return model.classifier.classify(rows)


def as_row(found: Classification) -> str:
    """Label, tab, score; of several labels all that hold."""
    scores = ",".join(f"{found.scores[label]:.6g}" for label in found.labels)
    return f"{','.join(found.labels)}\t{scores}"


def as_json_line(text: Any, found: Classification) -> str:
    """The text with its labels and all scores."""
    name = "text" if isinstance(text, str) else "messages"
    values = {name: text, "labels": found.labels, "scores": found.scores}
    return json.dumps(values, ensure_ascii=False)


if __name__ == "__main__":
    main()
