"""Evaluate one model: tasks of the harness, perplexity of a text, and the speed, as one report.

`prepare` refuses everything that can be refused, before the model is asked anything.
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
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from doge_common.errors import one_line

from ..errors import EvaluationError, OptionError, PackageError
from ..measure.speed import time_rounds
from ..names import wanted_export
from ..runtime.hub import is_export
from .evaluated_model import EvaluatedModel
from .exported import load_exported
from .journal import Journal, JournaledScorer
from .options import EvaluationOptions
from .perplexity import Perplexity, check_text, perplexity
from .report import EvaluationReport, Score, Settings, measure_names

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from .columns import Column

Progress = Callable[[str, int, int], object]  # called with the current step, its finished part and its whole
JOURNAL_FOLDER = ".doge-eval"
SPEED_PROMPT, SPEED_TOKENS, SPEED_ROUNDS = 64, 128, 3
SPEED_TEXT = "The keeper of the lighthouse wrote a letter to her brother every evening, and he wrote back. "


def silent(step: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Evaluation:
    """One model and everything that it will be asked; nothing has been asked yet.

    Attributes:
        evaluated: the loaded model.
        options: the measures that are wanted.
        settings: the settings that the report will state.
        text_ids: int64 [S] tokens of the text for perplexity; None without one.
        text_bytes: length of that text in UTF-8; 0 without one.
        speed_ids: int64 [SPEED_PROMPT] tokens before the timed ones; None without tasks.
        tasks: tasks of the harness, by name.
        columns: names of the tasks that make up each column: those of the card in the order of TASKS, then others.
    """

    evaluated: EvaluatedModel
    options: EvaluationOptions
    settings: Settings
    text_ids: NDArray[np.int64] | None
    text_bytes: int
    speed_ids: NDArray[np.int64] | None
    tasks: Mapping[str, Task]
    columns: Mapping[Column, Sequence[str]]

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.evaluated.name

    @property
    def measures(self) -> frozenset[str]:
        """Names of the measures that its report will have; see `EvaluationReport.measures`."""
        return measure_names([column.name for column in self.columns], self.text_ids is not None)

    def run(self, progress: Progress = silent) -> EvaluationReport:
        """Ask the model, and score its answers.

        Finished requests are kept in the journal's folder, in a file named after the model's hash. So an interrupted
        run goes on where it stopped when it is started again.

        Raises:
            EvaluationError: the journal cannot be used, a choice is too long, or the harness gave no score.
        """
        with closing(open_journal(self.options.journal, self.evaluated)) as journal:
            text_score = None
            if self.text_ids is not None:
                text_score = score_text(self, self.text_ids, journal, progress)
            scores: tuple[Score, ...] = ()
            if self.tasks:
                with redirect_stdout(sys.stderr):  # the harness and its tasks print, and stdout is for the results
                    scores = score_tasks(self, journal, progress)
        speed = None
        if self.speed_ids is not None:
            progress("measuring the speed", 0, 0)
            rounds = time_rounds(self.evaluated.open_stream, self.speed_ids, SPEED_TOKENS, SPEED_ROUNDS)
            speed = float(np.median([times.decode_tokens_per_s for times in rounds]))
        return EvaluationReport(
            model=self.model,
            kind=self.evaluated.kind,
            model_hash=self.evaluated.model_hash,
            settings=self.settings,
            scores=scores,
            perplexity=text_score,
            decode_tokens_per_s=speed,
        )


def prepare(source: str, options: EvaluationOptions, progress: Progress = silent) -> Evaluation:
    """Load a model and everything that it will be asked, and check that it can be asked.

    Raises:
        PackageError, CheckpointError: there is no such model.
        EvaluationError: data is missing or damaged, or the model has no tokenizer.
        OptionError: the model does not allow one of the options.
    """
    if options.tasks:
        from .tasks import check_tasks  # noqa: PLC0415  imports the harness, and perplexity needs none

        progress("looking for the tasks", 0, 0)
        check_tasks(options)
    progress("reading the model", 0, 0)
    text = None if options.perplexity is None else read_text(options.perplexity)
    evaluated = load_model(source, options.threads, options.adapter)
    settings = Settings(
        settings=options.settings,
        limit=options.limit,
        num_fewshot=options.num_fewshot,
        threads=options.threads,
        chat_template=uses_chat_template(options, evaluated),
        data="hub" if options.data_dir is None else str(options.data_dir),
        lm_eval=version("lm_eval") if options.tasks else None,
        text=None if text is None else hashlib.sha256(text.encode()).hexdigest(),
    )
    text_ids = None
    if text is not None:
        text_ids = np.array(evaluated.encode(text), np.int64)
        check_text(text_ids, options.window, options.stride, evaluated.scorer.longest)
    speed_ids = speed_prompt(evaluated) if options.tasks else None
    tasks, columns = load_tasks(evaluated, options, progress)
    text_bytes = 0 if text is None else len(text.encode())
    return Evaluation(evaluated, options, settings, text_ids, text_bytes, speed_ids, tasks, columns)


def load_model(source: str, threads: int | None, adapter: str | None = None) -> EvaluatedModel:
    """Load an export, a folder or a hub id, or else a checkpoint: these, a .gguf file or the name of the demo.

    Raises:
        PackageError, CheckpointError: it is neither.
        OptionError: an adapter is named that it does not have.
        EvaluationError: the checkpoint has no tokenizer.
    """
    if is_export(source):
        return load_exported(source, threads, adapter)
    wanted = wanted_export(Path(source))
    if wanted is not None and wanted.folder == Path(source):  # an export's name, and no checkpoint
        raise PackageError(wanted.reason)
    if adapter is not None:
        raise OptionError(
            f"adapter is {adapter!r}, but {source} is no exported folder; give one that doge-export wrote with "
            "--adapters, or the adapter's own folder as MODEL"
        )
    from .torch_model import load_torch  # noqa: PLC0415  an exported folder needs no torch

    return load_torch(source, threads)


def uses_chat_template(options: EvaluationOptions, evaluated: EvaluatedModel) -> bool:
    """Whether prompts become chats.

    Raises:
        OptionError: the options want chats, and the model has no template.
    """
    if options.chat_template is None:
        return options.settings == "card" and evaluated.has_chat_template
    if options.chat_template and not evaluated.has_chat_template:
        raise OptionError(f"the chat template of {evaluated.name} is missing; leave out --chat-template")
    return options.chat_template


def speed_prompt(evaluated: EvaluatedModel) -> NDArray[np.int64]:
    """Plain text as int64 [SPEED_PROMPT] tokens.

    Raises:
        EvaluationError: the tokenizer makes too few tokens of a long text.
    """
    ids = evaluated.encode(SPEED_TEXT * 8)[:SPEED_PROMPT]
    if len(ids) < SPEED_PROMPT:
        raise EvaluationError(
            f"the tokenizer of {evaluated.name} makes {len(ids)} tokens of {len(SPEED_TEXT * 8)} characters; "
            f"it must make at least {SPEED_PROMPT}"
        )
    return np.array(ids, np.int64)


def load_tasks(
    evaluated: EvaluatedModel, options: EvaluationOptions, progress: Progress
) -> tuple[dict[str, Task], dict[Column, list[str]]]:
    """The harness's tasks by name, and the names of each column's tasks. May be empty.

    Raises:
        OptionError, EvaluationError: of `tasks.load_columns`.
        EvaluationError: answers of a task leave a prompt no room, or the model has not its generation settings.
    """
    if not options.tasks:
        return {}, {}
    from .room import require_generation_settings, require_room  # noqa: PLC0415  imports the harness, see above
    from .tasks import load_columns  # noqa: PLC0415  the same

    progress("reading the tasks", 0, 0)
    with redirect_stdout(sys.stderr):  # the hub's reader prints
        tasks, columns = load_columns(options, lambda words: progress(words, 0, 0))
    require_room(tasks, evaluated.scorer.longest)
    if evaluated.kind == "onnxruntime":  # PyTorch's generation has every setting
        require_generation_settings(tasks)
    return tasks, columns


def score_tasks(evaluation: Evaluation, journal: Journal, progress: Progress) -> tuple[Score, ...]:
    """The scores of all columns, in their order.

    Raises:
        EvaluationError: a choice leaves its question no room, or the harness gave no score or could not give one.
    """
    import lm_eval  # noqa: PLC0415  takes seconds, and perplexity needs no harness

    from .journaled_model import JournaledLM  # noqa: PLC0415  imports the harness
    from .room import require_room_for_choices  # noqa: PLC0415  the same
    from .scoring import column_scores  # noqa: PLC0415  the same
    from .tasks import spread_sample  # noqa: PLC0415  the same

    evaluated, tasks, columns = evaluation.evaluated, evaluation.tasks, evaluation.columns
    lengths = {column: {leaf: len(tasks[leaf].eval_docs) for leaf in leaves} for column, leaves in columns.items()}
    samples: dict[str, list[int]] = {}
    for column in columns:
        chosen = spread_sample(lengths[column], evaluation.options.limit)
        samples |= {name: items for name, items in chosen.items() if items}
    try:
        results = lm_eval.evaluate(
            JournaledLM(evaluated.harness(), journal, progress, partial(require_room_for_choices, evaluated)),
            {"tasks": {name: tasks[name] for name in samples}, "groups": {}, "group_map": {}},
            samples={name: items for name, items in samples.items() if len(items) < len(tasks[name].eval_docs)},
            bootstrap_iters=0,
            apply_chat_template=evaluation.settings.chat_template,
            fewshot_as_multiturn=True,
        )
    except (OSError, ImportError) as error:  # of a task's own code: it lacks a package, or wants code of the hub
        raise EvaluationError(
            f"the harness could not finish the tasks ({one_line(error)}); see to that and start again, "
            "as finished requests are kept"
        ) from error
    return tuple(score for column in columns for score in column_scores(column, lengths[column], tasks, results))


def open_journal(folder: Path | None, evaluated: EvaluatedModel) -> Journal:
    """The journal of a model, a file of its own in the folder.

    Raises:
        EvaluationError: it cannot be used.
    """
    path = (Path(JOURNAL_FOLDER) if folder is None else folder) / f"{evaluated.model_hash[:16]}.jsonl"
    return Journal(path, evaluated.model_hash)


def read_text(path: Path) -> str:
    """A text file with its line endings unchanged, as its bytes are counted.

    Raises:
        EvaluationError: it cannot be read as UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read as UTF-8 text ({error}); give a text file") from error


def score_text(
    evaluation: Evaluation, token_ids: NDArray[np.int64], journal: Journal, progress: Progress
) -> Perplexity:
    """The perplexity of the text, whose tokens are int64 [S]."""
    finished = 0

    def advance(tokens: int) -> None:
        nonlocal finished
        finished += tokens
        progress("perplexity", finished, len(token_ids) - 1)

    return perplexity(
        JournaledScorer(evaluation.evaluated.scorer, journal),
        token_ids,
        text_bytes=evaluation.text_bytes,
        window=evaluation.options.window,
        stride=evaluation.options.stride,
        progress=advance,
    )
