"""The results of an evaluation: the row of a model card with standard errors and every item, as JSON and as a table."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ..errors import EvaluationError, OptionError
from .options import TASKS
from .perplexity import Perplexity, WindowScore

FORMAT_VERSION = 1
TITLES = {
    "ifeval": "IFEval (prompt strict)",
    "mmlu": "MMLU",
    "bbh": "BBH",
    "arc": "ARC",
    "piqa": "PIQA",
    "hellaswag": "HellaSwag",
}


@dataclass(frozen=True)
class Score:
    """One column of the row, or one number of another task or group of the harness.

    Attributes:
        task: one of TASKS, or the name of a task or group of the harness.
        metric: its name in the harness, behind a comma followed by the filter of the answers if there is one.
        average: "items" for the mean of all items, "tasks" for the mean of the tasks' means, "harness" for another
            number of the harness.
        value: the score: of a column from 0 to 1, of others in the harness's unit.
        stderr: standard error of the value; None for a single item, and where the harness's number is no mean.
        items, total: number of evaluated items, and of all items in the set.
        details: the harness's own report of each of its tasks: {task: {metric: value}}.
        answers: every item: {task/item: (hash of the record, value of the metric)}; empty where it is no mean.
    """

    task: str
    metric: str
    average: str
    value: float
    stderr: float | None
    items: int
    total: int
    details: dict[str, dict[str, float]]
    answers: dict[str, tuple[str, float]]

    @property
    def title(self) -> str:
        """Its name for the user: that of the column, or of the task and the metric."""
        return TITLES.get(self.task) or f"{self.task} {self.metric}"

    @property
    def words(self) -> str:
        """Its value for the user: a column's in percent, others as the harness writes them."""
        items = f"{self.items} of {self.total} items"
        if self.task in TITLES:
            return f"{percent(self.value, self.stderr)}  ({self.metric}, {items})"
        error = "" if self.stderr is None else f" ±{self.stderr:.4f}"
        return f"{self.value:.4f}{error}  ({items})"


@dataclass(frozen=True)
class Settings:
    """The settings of an evaluation.

    Attributes:
        settings, limit, num_fewshot, threads: those of `EvaluationOptions`.
        chat_template: whether prompts were chats.
        data: "hub", or the folder of local files.
        lm_eval: the harness's version; None where no task ran.
        text: hash of the text whose perplexity was measured; None without one.
    """

    settings: str
    limit: int | None
    num_fewshot: int | None
    threads: int | None
    chat_template: bool
    data: str
    lm_eval: str | None
    text: str | None


def measure_names(columns: Iterable[str], of_a_text: bool) -> frozenset[str]:
    """Names of the measures: the columns, and "perplexity" if a text is measured."""
    return frozenset(columns) | ({"perplexity"} if of_a_text else set())


@dataclass(frozen=True)
class EvaluationReport:
    """The results of one model.

    Attributes:
        model: the folder, file or name that the user gave.
        kind: "onnxruntime" or "torch".
        model_hash: hash over weights, graphs and tokenizer.
        settings: the settings of the evaluation.
        scores: the columns in the order of TASKS, then other tasks of the harness.
        perplexity: None where it was not measured.
        decode_tokens_per_s: decoding rate of one greedy stream, as `measure.speed` defines it; None where no task ran.
            It is the median of 3 rounds of 64 prompt tokens and 128 new ones.
    """

    model: str
    kind: str
    model_hash: str
    settings: Settings
    scores: tuple[Score, ...]
    perplexity: Perplexity | None
    decode_tokens_per_s: float | None

    @property
    def measures(self) -> frozenset[str]:
        """Names of its measures: some of TASKS, tasks and groups of the harness, and "perplexity"."""
        return measure_names([score.task for score in self.scores], self.perplexity is not None)

    def to_json(self, with_items: bool) -> str:
        """The results as a JSON object. `with_items` adds answers and windows, which a comparison in pairs needs."""
        values = {"format_version": FORMAT_VERSION} | dataclasses.asdict(self)
        if not with_items:
            for score in values["scores"]:
                del score["answers"]
            if values["perplexity"] is not None:
                del values["perplexity"]["windows"]
        return json.dumps(values, indent=None if with_items else 2)

    @classmethod
    def from_file(cls, path: Path) -> EvaluationReport:
        """Read a file that `--out` wrote.

        Raises:
            OptionError: there is no such file.
            EvaluationError: it holds something else.
        """
        if not path.is_file():
            raise OptionError(f"the file {path} is missing; give one that --out wrote, or a model")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format_version") != FORMAT_VERSION:
                raise EvaluationError(f"{path} was written by another version of doge-eval; evaluate the model again")
            values["settings"] = Settings(**values["settings"])
            values["scores"] = tuple(Score(**score) for score in values["scores"])
            if values["perplexity"] is not None:
                windows = tuple(WindowScore(**window) for window in values["perplexity"].pop("windows"))
                values["perplexity"] = Perplexity(**values["perplexity"], windows=windows)
            return cls(**values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise EvaluationError(
                f"results of doge-eval are missing in {path}; give a file that --out wrote"
            ) from error

    def rows(self) -> dict[str, str]:
        """The results for the user: of each measure its title, and its value with the standard error."""
        found = {score.title: score.words for score in self.scores}
        if self.decode_tokens_per_s is not None:
            found["tokens/s"] = f"{self.decode_tokens_per_s:.0f}"
        if self.perplexity is not None:
            found["perplexity"] = perplexity_words(self.perplexity)
        return found

    def card_row(self) -> str | None:
        """The row of the Doge model card in Markdown, with a dash where nothing was measured; None without a column."""
        values = {score.task: f"{100 * score.value:.1f}" for score in self.scores if score.task in TASKS}
        if not values:
            return None
        speed = "-" if self.decode_tokens_per_s is None else f"{self.decode_tokens_per_s:.0f}"
        cells = [Path(self.model).name, *[values.get(task, "-") for task in TASKS], speed]
        return f"| {' | '.join(cells)} |"


CARD_HEADER = f"| model | {' | '.join(TITLES[task] for task in TASKS)} | tokens/s |"


def percent(value: float, stderr: float | None) -> str:
    """A share of 1 in percent, with its standard error."""
    return f"{100 * value:5.2f} ±{100 * stderr:5.2f}" if stderr is not None else f"{100 * value:5.2f}"


def perplexity_words(found: Perplexity) -> str:
    """One line about a perplexity. Its error is the perplexity times the error of its logarithm."""
    error = "" if found.stderr is None else f" ±{found.per_token * found.stderr:.3f}"
    by_byte = "" if found.bits_per_byte is None else f", {found.bits_per_byte:.4f} bits per byte"
    return (
        f"{found.per_token:.3f}{error} per token{by_byte}  "
        f"({found.tokens} tokens, window {found.window}, stride {found.stride})"
    )


def average(values: Mapping[str, float], over: str) -> tuple[float, float | None]:
    """A mean and its standard error.

    values: value of each item, by task/item. over: "items" for the mean of all, "tasks" for that of the tasks' means.
    """
    if over == "items":
        return mean_and_stderr(list(values.values()))
    tasks = [
        mean_and_stderr([values[key] for key in keys])
        for _, keys in groupby(sorted(values), key=lambda key: key.rsplit("/", 1)[0])
    ]
    return math.fsum(mean for mean, _ in tasks) / len(tasks), add_errors([error for _, error in tasks], len(tasks))


def add_errors(errors: Sequence[float | None], by: int = 1) -> float | None:
    """Standard error of a sum of independent numbers, divided by `by`; None where the error of one is not known."""
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / by if len(known) == len(errors) else None


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean of independent values, and its standard error; None for the error of a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
