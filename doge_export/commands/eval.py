"""doge-eval: the scores of a model on the tasks of a model card, and its perplexity on a text.

doge-eval smollm2-135m-int8 --tasks piqa,arc --data-dir ./eval
doge-eval smollm2-135m-int8 --tasks gsm8k,arc_easy
doge-eval smollm2-135m --perplexity book.txt
doge-eval --compare smollm2-135m-fp32 smollm2-135m-int8 --tasks piqa
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.status import Status

from doge_export.extras import needs_extra

from ..errors import EvaluationError, OptionError
from ..evaluation.comparison import Difference, check_comparable, compare
from ..evaluation.options import SETTINGS, TASKS, EvaluationOptions
from ..evaluation.report import CARD_HEADER, EvaluationReport
from . import Command, terminated_like_interrupted

if TYPE_CHECKING:
    from ..evaluation.evaluation import Evaluation

SECONDS_BETWEEN_LINES = 60  # lines of progress where there is no terminal


@click.command(cls=Command)
@click.argument("model", required=False)
@click.option(
    "--tasks",
    metavar="A,B,...",
    default="",
    help=f"Some of {','.join(TASKS)}, and any others of lm-evaluation-harness, such as gsm8k.",
)
@click.option("--perplexity", type=click.Path(path_type=Path), metavar="FILE", help="Measure the perplexity of a text.")
@click.option("--compare", nargs=2, metavar="A B", help="Compare two models, or two files that --out wrote.")
@click.option(
    "--settings",
    default=SETTINGS[0],
    metavar="|".join(SETTINGS),
    help="Measure as model cards do (default), or as lm-evaluation-harness does under the same names.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Read the records from local files, not from the hub.",
)
@click.option(
    "--include-path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of further tasks, written in YAML for the harness.",
)
@click.option("--limit", type=int, metavar="N", help="Ask N items of each task, evenly spread over it.")
@click.option("--num-fewshot", type=int, metavar="N", help="Examples before each item, where a task has a choice.")
@click.option(
    "--chat-template/--no-chat-template", default=None, help="Whether prompts are chats (default: by --settings)."
)
@click.option("--window", type=int, metavar="N", help="Tokens that perplexity sees at once (default: up to 2048).")
@click.option("--stride", type=int, metavar="N", help="Tokens from window to window (default: half a window).")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write all results with every item, for --compare."
)
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of finished requests (default: .doge-eval).",
)
@click.option("--threads", type=int, metavar="N", help="Threads of the computation (default: the runtime's choice).")
@click.option("--adapter", metavar="NAME", help="Compute with this adapter of an exported folder.")
def main(
    model: str | None,
    tasks: str,
    perplexity: Path | None,
    compare: tuple[str, str] | None,
    settings: str,
    data_dir: Path | None,
    include_path: Path | None,
    limit: int | None,
    num_fewshot: int | None,
    chat_template: bool | None,
    window: int | None,
    stride: int | None,
    as_json: bool,
    out: Path | None,
    journal: Path | None,
    threads: int | None,
    adapter: str | None,
) -> None:
    """Evaluate MODEL, a folder that doge-export wrote or a PyTorch checkpoint that it takes.

    The tasks are those of EleutherAI's lm-evaluation-harness. An interrupted run goes on where it stopped when it is
    started again in the same folder.
    """
    sources = compare if model is None else (model,)
    if sources is None or (model is not None and compare is not None):
        raise OptionError(
            "MODEL is missing; give it, or --compare A B"
            if sources is None
            else "MODEL and --compare exclude each other; give one of them"
        )
    check_out(out, compare)
    given: dict[str, Any] = {
        "tasks": tuple(name.strip() for name in tasks.split(",") if name.strip()),
        "data_dir": data_dir,
        "include_path": include_path,
        "limit": limit,
        "num_fewshot": num_fewshot,
        "chat_template": chat_template,
        "perplexity": perplexity,
        "window": window,
        "stride": stride,
        "journal": journal,
        "threads": threads,
        "adapter": adapter,
    }
    check_measuring(sources, given)
    options = partial(EvaluationOptions, settings=settings, **given)
    with terminated_like_interrupted(), Reporter() as reporter:
        prepared = [read_or_prepare(source, options, reporter) for source in sources]
        if compare is not None:
            check_comparable(prepared[0], prepared[1])
        reports = [finish(found, reporter) for found in prepared]
    if compare is None:
        print_report(reports[0], as_json)
    else:
        print_comparison(reports[0], reports[1], as_json)
    if out is not None:
        write(out, reports[0].to_json(with_items=True))


def check_out(out: Path | None, compare: tuple[str, str] | None) -> None:
    """Check that --out can be written in the end.

    Raises:
        OptionError: it cannot.
    """
    if out is not None and compare is not None:
        raise OptionError("--out and --compare exclude each other; evaluate each MODEL, then compare the two files")
    if out is not None and not out.absolute().parent.is_dir():
        raise OptionError(f"the folder {out.absolute().parent} is missing; create it first")
    if out is not None and (out.is_dir() or not os.access(out.absolute().parent, os.W_OK)):
        raise OptionError(f"{out} cannot be written; give another --out")


def check_measuring(sources: Sequence[str], given: Mapping[str, object]) -> None:
    """Check that options of a measurement are given only where one is made, so not where all results are in files.

    Raises:
        OptionError: one is given without a measurement.
    """
    unused = [name for name, value in given.items() if value not in (None, ())]
    if unused and all(source.endswith(".json") for source in sources):
        flag = "--" + unused[0].replace("_", "-")
        raise OptionError(f"{flag} does nothing, as {' and '.join(sources)} hold finished results; leave it out")


def read_or_prepare(
    source: str, options: Callable[[], EvaluationOptions], reporter: Reporter
) -> EvaluationReport | Evaluation:
    """The results in a .json file, or a model with everything that it will be asked."""
    if source.endswith(".json"):
        return EvaluationReport.from_file(Path(source))
    return prepare_evaluation(source, options(), reporter)


def prepare_evaluation(source: str, options: EvaluationOptions, reporter: Reporter) -> Evaluation:
    """Prepare an evaluation; see `evaluation.prepare`. Its imports take seconds and need an extra, so they are late.

    Raises:
        EvaluationError: the extra is not installed.
    """
    if options.data_dir is not None:
        os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when datasets is imported; the model may still come from the hub
    os.environ["HF_EVALUATE_OFFLINE"] = "1"  # its metrics are code that it fetches from the hub and runs
    os.environ.setdefault("TQDM_DISABLE", "1")  # hides the harness's bars; `Reporter` shows all progress
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with needs_extra("eval", "evaluating", EvaluationError):
        from ..evaluation.evaluation import prepare

        return prepare(source, options, reporter.show)


def finish(found: EvaluationReport | Evaluation, reporter: Reporter) -> EvaluationReport:
    """The results: finished ones as they are, otherwise those of a model that is asked now."""
    return found if isinstance(found, EvaluationReport) else found.run(reporter.show)


def write(path: Path, text: str) -> None:
    """Write a file, complete or not at all."""
    unfinished = path.with_name(f"{path.name}.partial")
    try:
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise EvaluationError(f"{path} cannot be written ({error}); give another --out") from error


def print_report(report: EvaluationReport, as_json: bool) -> None:
    """Print the results of one model."""
    if as_json:
        click.echo(report.to_json(with_items=False))
        return
    rows = report.rows()
    width = column_width(rows)
    for title, value in rows.items():
        click.echo(f"{title:<{width}}{value}")
    if (row := report.card_row()) is not None:
        rule = "|---" * CARD_HEADER.count(" | ") + "|---|"
        click.echo(f"\n{CARD_HEADER}\n{rule}\n{row}")


def column_width(titles: Iterable[str]) -> int:
    """Width of a column of titles: that of the usual ones, or more for long names of tasks."""
    return max([26, *(len(title) + 2 for title in titles)])


def print_comparison(a: EvaluationReport, b: EvaluationReport, as_json: bool) -> None:
    """Print the differences of B from A."""
    differences = compare(a, b)
    if as_json:
        values = [dataclasses.asdict(found) | {"exceeds": found.exceeds} for found in differences]
        click.echo(json.dumps({"a": a.model, "b": b.model, "differences": values}, indent=2))
        return
    click.echo(f"A {a.model}\nB {b.model}")
    width = column_width(found.name for found in differences)
    for found in differences:
        click.echo(f"{found.name:<{width}}{difference_words(found)}")


def difference_words(found: Difference) -> str:
    """One line about a difference; shares are in percent."""
    scale, digits = (100, 2) if found.unit == "share" else (1, 4)
    error = "" if found.stderr is None else f" ±{scale * found.stderr:.{digits}f}"
    kind = f"{found.changed} of {found.items} items changed" if found.paired else "different items"
    return (
        f"A {scale * found.a:.{digits}f}  B {scale * found.b:.{digits}f}  "
        f"B-A {scale * found.difference:+.{digits}f}{error}  {found.verdict}  ({kind})"
    )


class Reporter:
    """Progress on stderr: one changing line on a terminal, otherwise a line for every step and every minute."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status: Status = self._console.status("starting")
        self._step, self._printed_at = "", 0.0

    def __enter__(self) -> Reporter:
        self._status.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._status.stop()

    def show(self, step: str, done: int, total: int) -> None:
        """Show a step. done, total: its finished part and its whole; 0 and 0 where they are not known."""
        text = f"{step}: {done} of {total}" if total else f"{step} ..."
        self._status.update(text)
        now = time.monotonic()
        if self._console.is_terminal:
            return
        if step != self._step or done == total or now - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._step, self._printed_at = step, now
            self._console.print(text, highlight=False)


if __name__ == "__main__":
    main()
