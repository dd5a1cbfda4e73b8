"""Evaluate one model: tasks of the harness, perplexity of a text, and the speed, as one report.

All that can be refused is refused by `prepare`, before the model is asked anything.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EvaluationError, OptionError
from .evaluated_model import Subject, load_subject, speed_prompt
from .journal import Journal, JournaledScorer
from .options import TASKS, EvaluationOptions
from .perplexity import Perplexity, check_text, perplexity
from .report import EvaluationReport, Score, Settings, average, measure_names

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from .tasks import Column

Progress = Callable[[str, int, int], object]  # what is being done, how much of it is finished, how much there is
JOURNAL_FOLDER = ".doge-eval"


def silent(step: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Evaluation:
    """One model and all that it will be asked; nothing has been asked yet.

    Attributes:
        model: as it was given.
        subject: the loaded model.
        options: what to measure.
        settings: under which.
        text_ids: of the perplexity, int64 [S]; None where none is wanted.
        text_bytes: of the same text.
        tasks: of the harness, by name.
        columns: the tasks that make up each column, in the order of TASKS.
    """

    model: str
    subject: Subject
    options: EvaluationOptions
    settings: Settings
    text_ids: NDArray[np.int64] | None
    text_bytes: int
    tasks: Mapping[str, Task]
    columns: Mapping[Column, Sequence[str]]

    @property
    def measures(self) -> frozenset[str]:
        """What a report of it will have, as `EvaluationReport.measures`."""
        return measure_names([column.name for column in self.columns], self.text_ids is not None)

    def run(self, progress: Progress = silent) -> EvaluationReport:
        """Ask and score.

        Finished requests are kept in the journal's folder, in a file named after the model's hash; a run that is
        interrupted and started again goes on where it stopped.
        """
        with closing(open_journal(self.options.journal, self.subject)) as journal:
            text_score = None
            if self.text_ids is not None:
                text_score = score_text(self, self.text_ids, journal, progress)
            scores: tuple[Score, ...] = ()
            if self.tasks:
                with redirect_stdout(sys.stderr):  # the harness and its tasks print while they work; stdout is for ours
                    scores = score_tasks(self, journal, progress)
        speed = None
        if self.tasks:
            progress("measuring the speed", 0, 0)
            speed = self.subject.decode(speed_prompt(self.subject.encode))
        return EvaluationReport(
            model=self.model,
            kind=self.subject.kind,
            model_hash=self.subject.model_hash,
            settings=self.settings,
            scores=scores,
            perplexity=text_score,
            decode_tokens_per_s=speed,
        )


def prepare(source: str, options: EvaluationOptions, progress: Progress = silent) -> Evaluation:
    """Load a model and all that it is to be asked, and check that it can be.

    Raises:
        PackageError, CheckpointError: there is no such model.
        EvaluationError: data that cannot be had or read, or a model without tokenizer.
        OptionError: an option that the model does not allow.
    """
    progress("reading the model", 0, 0)
    text = None if options.perplexity is None else read_text(options.perplexity)
    subject = load_subject(source, options.threads)
    settings = Settings(
        settings=options.settings,
        limit=options.limit,
        num_fewshot=options.num_fewshot,
        threads=options.threads,
        chat_template=uses_chat_template(options, subject),
        data="hub" if options.data_dir is None else str(options.data_dir),
        lm_eval=version("lm_eval") if options.tasks else None,
        text=None if text is None else hashlib.sha256(text.encode()).hexdigest(),
    )
    text_ids = None
    if text is not None:
        text_ids = np.array(subject.encode(text), np.int64)
        check_text(text_ids, options.window, options.stride, subject.scorer.longest)
    tasks, columns = load_tasks(subject, options, progress)
    text_bytes = 0 if text is None else len(text.encode())
    return Evaluation(source, subject, options, settings, text_ids, text_bytes, tasks, columns)


def uses_chat_template(options: EvaluationOptions, subject: Subject) -> bool:
    """Whether prompts become messages; OptionError where that is asked of a model without template."""
    if options.chat_template is None:
        return options.settings == "card" and subject.has_chat_template
    if options.chat_template and not subject.has_chat_template:
        raise OptionError(f"{subject.name} has no chat template; leave out --chat-template")
    return options.chat_template


def load_tasks(
    subject: Subject, options: EvaluationOptions, progress: Progress
) -> tuple[dict[str, Task], dict[Column, list[str]]]:
    """The harness's tasks and which of them make up each column, in the order of TASKS; none without tasks."""
    if not options.tasks:
        return {}, {}
    from .tasks import load_columns, require_room  # noqa: PLC0415  imports the harness, and perplexity needs none

    progress("reading the tasks", 0, 0)
    names = [name for name in TASKS if name in options.tasks]
    with redirect_stdout(sys.stderr):  # the hub's reader prints
        tasks, columns = load_columns(names, options.settings, options.data_dir, options.num_fewshot)
    require_room(tasks, subject.scorer.longest)
    return tasks, columns


def score_tasks(evaluation: Evaluation, journal: Journal, progress: Progress) -> tuple[Score, ...]:
    """The scores, in the order of TASKS."""
    import lm_eval  # noqa: PLC0415  takes seconds, and perplexity needs no harness

    from .journaled_model import JournaledLM  # noqa: PLC0415  imports the harness
    from .tasks import require_room_for_choices, spread_sample  # noqa: PLC0415  the same

    subject, tasks, columns = evaluation.subject, evaluation.tasks, evaluation.columns
    lengths = {column: {leaf: len(tasks[leaf].eval_docs) for leaf in leaves} for column, leaves in columns.items()}
    samples: dict[str, list[int]] = {}
    for column in columns:
        chosen = spread_sample(lengths[column], evaluation.options.limit)
        samples |= {name: items for name, items in chosen.items() if items}
    results = lm_eval.evaluate(
        JournaledLM(subject.harness(), journal, progress, partial(require_room_for_choices, subject)),
        {"tasks": {name: tasks[name] for name in samples}, "groups": {}, "group_map": {}},
        samples={name: items for name, items in samples.items() if len(items) < len(tasks[name].eval_docs)},
        bootstrap_iters=0,
        apply_chat_template=evaluation.settings.chat_template,
        fewshot_as_multiturn=True,
    )
    return tuple(column_score(column, lengths[column], results) for column in columns)


def open_journal(folder: Path | None, subject: Subject) -> Journal:
    """One file for each model."""
    path = (Path(JOURNAL_FOLDER) if folder is None else folder) / f"{subject.model_hash[:16]}.jsonl"
    return Journal(path, subject.model_hash)


def column_score(column: Column, lengths: Mapping[str, int], results: Mapping[str, Any]) -> Score:
    """The number of a column from the harness's results, which have every item."""
    answers: dict[str, tuple[str, float]] = {}
    for task in lengths:
        samples = [sample for sample in results["samples"].get(task, []) if sample["filter"] == column.filter]
        answers |= {f"{task}/{s['doc_id']}": (s["doc_hash"][:16], float(s[column.metric])) for s in samples}
    if not answers:
        raise EvaluationError(f"the harness gave no {column.metric} for {column.name}; another version may be needed")
    value, stderr = average({key: value for key, (_, value) in answers.items()}, column.average)
    return Score(
        task=column.name,
        metric=column.metric,
        average=column.average,
        value=value,
        stderr=stderr,
        items=len(answers),
        total=sum(lengths.values()),
        details={task: task_details(results["results"][task]) for task in lengths if task in results["results"]},
        answers=answers,
    )


def task_details(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The harness's own numbers, without the errors it was not asked for."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and "_stderr" not in name and name != "sample_len"
    }


def read_text(path: Path) -> str:
    """A text as its bytes say, line endings included; EvaluationError where it is none."""
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read as UTF-8 text ({error}); give a text file") from error


def score_text(
    evaluation: Evaluation, token_ids: NDArray[np.int64], journal: Journal, progress: Progress
) -> Perplexity:
    """Perplexity of the text."""
    finished = 0

    def advance(tokens: int) -> None:
        nonlocal finished
        finished += tokens
        progress("perplexity", finished, len(token_ids) - 1)

    return perplexity(
        JournaledScorer(evaluation.subject.scorer, journal),
        token_ids,
        text_bytes=evaluation.text_bytes,
        window=evaluation.options.window,
        stride=evaluation.options.stride,
        progress=advance,
    )
