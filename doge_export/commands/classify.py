"""doge-classify: the label of each line, with its score.

doge-classify FOLDER questions.txt
cat questions.txt | doge-classify FOLDER --json > labels.jsonl
doge-classify REWARD_FOLDER conversations.jsonl --json-input

A line of the output belongs to a line of the input, in its order. Errors go to standard error, after the output of the
lines before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import click

from ..errors import DogeError, OptionError
from ..runtime.classifier import MULTI_LABEL, REGRESSION, Classification, Classifier, fitting_rows
from ..runtime.loading import load
from ..runtime.model import Model
from . import Command
from .missing_export import ExportedFolder

STANDARD = "-"
LINES = 256  # that are classified together


@click.command(cls=Command)
@click.argument("folder", type=ExportedFolder())
@click.argument("file", type=click.File("rb", lazy=False), default=STANDARD)
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
    file: BinaryIO,
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
    classifier = model.classifier  # refuses a folder that writes text before a line is read
    if not as_json:
        check_plain(classifier)
    rows, error = read_rows(model, file, json_input, truncate), None
    together = 1 if file.isatty() else LINES
    while error is None:
        read, error = until_error(rows, together)
        if not read and error is None:
            return
        for (text, _), found in zip(read, classifier.classify([row for _, row in read]), strict=True):
            click.echo(as_json_line(text, found) if as_json else as_row(found))
    raise error


def check_plain(classifier: Classifier) -> None:
    """Refuse labels that a row of plain output could not be read back from.

    Raises:
        OptionError: one has a tab or a line end, or a comma where rows have several labels.
    """
    several = classifier.problem_type in (MULTI_LABEL, REGRESSION) and len(classifier.labels) > 1
    marks = {"a tab": "\t", "a line end": "\n\r"} | ({"a comma": ","} if several else {})
    for label in classifier.labels:
        for words, mark in marks.items():
            if set(mark) & set(label):
                raise OptionError(f"label {label!r} has {words}, which plain rows are split at; give --json")


Row = tuple[Any, list[int]]  # a text or a conversation, and its token ids


def read_rows(model: Model, file: Iterable[bytes], json_input: bool, truncate: bool) -> Iterator[Row]:
    """The lines of a file with their token ids.

    Raises:
        OptionError: one is not UTF-8, has no token or too many; it is named.
    """
    longest, words = model.classifier.graph.description.longest, ("line", "--truncate")
    for number, line in enumerate(file, 1):
        try:
            decoded = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise OptionError(f"line {number} is not in UTF-8 ({error.reason}); convert FILE first") from error
        text = text_of(decoded, number, json_input)
        (row,) = fitting_rows([text], model.token_row, longest, truncate, first=number, words=words)
        yield text, row


def until_error(rows: Iterator[Row], count: int) -> tuple[list[Row], DogeError | None]:
    """At most `count` rows, and the error that ended them early, so that those before it can be written."""
    read: list[Row] = []
    try:
        for row in islice(rows, count):
            read.append(row)  # one by one, to keep those before an error
    except DogeError as error:
        return read, error
    return read, None


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
