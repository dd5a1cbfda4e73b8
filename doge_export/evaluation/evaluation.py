"""Evaluate one model: tasks of the harness, perplexity of a text, and the speed, as one report."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, redirect_stdout
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError, OptionError
from .journal import Journal, JournaledScorer
from .options import TASKS, EvaluationOptions
from .perplexity import Perplexity, perplexity
from .report import EvaluationReport, Score, Settings, average
from .subject import Subject, load_subject, speed_prompt

if TYPE_CHECKING:
    from .tasks import Column

Progress = Callable[[str, int, int], object]  # what is being done, how much of it is finished, how much there is
JOURNAL_FOLDER = ".doge-eval"


def evaluate(
    source: str, options: EvaluationOptions, progress: Progress = lambda step, done, total: None
) -> EvaluationReport:
    """Evaluate an exported folder or a PyTorch checkpoint.

    Finished requests are kept in the journal's folder, in a file named after the model's hash; a run that is
    interrupted and started again goes on where it stopped.

    Raises:
        PackageError, CheckpointError: there is no such model.
        EvaluationError: data that cannot be had or read, or a model without tokenizer.
        OptionError: an option that the model does not allow.
    """
    progress("reading the model", 0, 0)
    text = None if options.perplexity is None else read_text(options.perplexity)
    subject = load_subject(source, options.threads)
    chat_template = uses_chat_template(options, subject)
    settings = Settings(
        settings=options.settings,
        limit=options.limit,
        num_fewshot=options.num_fewshot,
        threads=options.threads,
        chat_template=chat_template,
        data="hub" if options.data_dir is None else str(options.data_dir),
        lm_eval=version("lm_eval") if options.tasks else None,
        text=None if text is None else hashlib.sha256(text.encode()).hexdigest(),
    )
    text_score = None if text is None else evaluate_perplexity(subject, text, options, progress)
    scores: tuple[Score, ...] = ()
    speed = None
    if options.tasks:
        with redirect_stdout(sys.stderr):  # the harness and its tasks print while they work; stdout is for ours
            scores = evaluate_tasks(subject, options, chat_template, progress)
        progress("measuring the speed", 0, 0)
        speed = subject.decode(speed_prompt(subject.encode))
    return EvaluationReport(
        model=source,
        kind=subject.kind,
        model_hash=subject.model_hash,
        settings=settings,
        scores=scores,
        perplexity=text_score,
        decode_tokens_per_s=speed,
    )


def uses_chat_template(options: EvaluationOptions, subject: Subject) -> bool:
    """Whether prompts become messages; OptionError where that is asked of a model without template."""
    if options.chat_template is None:
        return options.settings == "card" and subject.has_chat_template
    if options.chat_template and not subject.has_chat_template:
        raise OptionError(f"{subject.name} has no chat template; leave out --chat-template")
    return options.chat_template


def evaluate_tasks(
    subject: Subject, options: EvaluationOptions, chat_template: bool, progress: Progress
) -> tuple[Score, ...]:
    """The scores, in the order of TASKS."""
    import lm_eval  # noqa: PLC0415  takes seconds, and perplexity needs no harness

    from .journaled_model import JournaledLM  # noqa: PLC0415  imports the harness
    from .tasks import load_columns, require_room, require_room_for_choices, spread_sample  # noqa: PLC0415  the same

    progress("reading the tasks", 0, 0)
    names = [name for name in TASKS if name in options.tasks]
    tasks, columns = load_columns(names, options.settings, options.data_dir, options.num_fewshot)
    require_room(tasks, subject.scorer.longest)
    lengths = {column: {leaf: len(tasks[leaf].eval_docs) for leaf in leaves} for column, leaves in columns.items()}
    samples: dict[str, list[int]] = {}
    for column in columns:
        samples |= {name: chosen for name, chosen in spread_sample(lengths[column], options.limit).items() if chosen}
    with closing(Journal(journal_path(options.journal, subject), subject.model_hash)) as journal:
        results = lm_eval.evaluate(
            JournaledLM(subject.harness(), journal, progress, partial(require_room_for_choices, subject)),
            {"tasks": {name: tasks[name] for name in samples}, "groups": {}, "group_map": {}},
            samples={name: chosen for name, chosen in samples.items() if len(chosen) < len(tasks[name].eval_docs)},
            bootstrap_iters=0,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=True,
        )
    return tuple(column_score(column, lengths[column], results) for column in columns)


def journal_path(folder: Path | None, subject: Subject) -> Path:
    """One file for each model."""
    return (Path(JOURNAL_FOLDER) if folder is None else folder) / f"{subject.model_hash[:16]}.jsonl"


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


def evaluate_perplexity(subject: Subject, text: str, options: EvaluationOptions, progress: Progress) -> Perplexity:
    """Perplexity of a text."""
    ids = subject.encode(text)
    finished = 0

    def advance(tokens: int) -> None:
        nonlocal finished
        finished += tokens
        progress("perplexity", finished, len(ids) - 1)

    with closing(Journal(journal_path(options.journal, subject), subject.model_hash)) as journal:
        return perplexity(
            JournaledScorer(subject.scorer, journal),
            ids,
            text_bytes=len(text.encode()),
            window=options.window,
            stride=options.stride,
            progress=advance,
        )
