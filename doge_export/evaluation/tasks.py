"""The columns of a model card's row, and the harness's tasks behind them.

Two kinds of settings. `card` is what the cards of Doge and of SmolLM2 report: MMLU by the likelihood of the answers
themselves (cloze) without examples, BBH with three examples and a short answer, the chat template where the model has
one. `harness` is what lm-evaluation-harness runs under the same names: MMLU by letters, BBH with a chain of thought, no
chat template.

Prompts, metrics and few-shot examples are the harness's own; with local data only the source of the records differs.
The one task of ours is `mmlu_cloze`, the prompt of both cards' evaluation (huggingface/smollm,
text/evaluation/smollm2/tasks.py, and SmallDoges/small-doge, evaluation/instruct/tasks.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import nltk
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager

from doge_model.errors import one_line

from ..errors import EvaluationError, OptionError
from .evaluated_model import Subject
from .local_data import READERS, Splits

MMLU_CLOZE = "mmlu_cloze"
MMLU_CLOZE_TASK: dict[str, Any] = {
    "task": MMLU_CLOZE,
    "dataset_path": "cais/mmlu",
    "dataset_name": "all",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "The following are questions about {{subject|replace('_', ' ')}}.\nQuestion: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
    "metadata": {"version": 1.0},
}
GROUP = "doge-eval"
MAX_GEN_TOKS = 256  # of the harness's models, where a task names no limit


@dataclass(frozen=True)
class Column:
    """One number of the row.

    Attributes:
        name: as in --tasks.
        tasks: names of harness tasks or groups.
        metric: as the harness calls it; acc_norm divides log-likelihoods by the characters of the choice.
        filter: of the answers; "none" takes them as they are.
        examples: "fixed" in number, or as many as one likes of a split: "dev", which local files have too, or "train",
            which only the hub has.
        average: over all items, or over the tasks' own averages.
    """

    name: str
    tasks: tuple[str, ...]
    metric: str
    examples: Literal["fixed", "dev", "train"] = "fixed"
    filter: str = "none"
    average: Literal["items", "tasks"] = "items"


SAME = [
    Column("ifeval", ("ifeval",), "prompt_level_strict_acc"),
    Column("arc", ("arc_easy", "arc_challenge"), "acc_norm", "train", average="tasks"),
    Column("piqa", ("piqa",), "acc_norm", "train"),
    Column("hellaswag", ("hellaswag",), "acc_norm", "train"),
]
CARD = [Column("mmlu", (MMLU_CLOZE,), "acc_norm"), Column("bbh", ("bbh_fewshot",), "exact_match"), *SAME]
HARNESS = [Column("mmlu", ("mmlu",), "acc", "dev"), Column("bbh", ("bbh",), "exact_match", filter="get-answer"), *SAME]
COLUMNS: dict[str, dict[str, Column]] = {
    "card": {column.name: column for column in CARD},
    "harness": {column.name: column for column in HARNESS},
}


def load_columns(
    names: Sequence[str], settings: str, data_dir: Path | None, num_fewshot: int | None
) -> tuple[dict[str, Task], dict[Column, list[str]]]:
    """The harness's tasks, ready to be evaluated, and which of them make up each column.

    data_dir: of local files; None takes the records from the hub. num_fewshot: None leaves it to the tasks.

    Raises:
        OptionError: a column without local file, or without that many examples.
        EvaluationError: records, or data of NLTK, that cannot be had or read.
    """
    if "ifeval" in names:
        require_sentences()
    manager = task_manager()
    columns = [COLUMNS[settings][name] for name in names]
    if num_fewshot is not None:
        require_examples(columns, settings, data_dir)
    leaves = {column: [leaf for task in column.tasks for leaf in leaf_tasks(manager, task)] for column in columns}
    configs = {leaf: task_config(manager, leaf, data_dir) for names_ in leaves.values() for leaf in names_}
    try:
        tasks = build_tasks(manager, configs)
    except OSError as error:  # what datasets and huggingface_hub raise for want of a network derives from it
        raise EvaluationError(
            f"the records cannot be had from the hub ({one_line(error)}); "
            "go online once, or give --data-dir with local files"
        ) from error
    for task in tasks.values():
        set_examples(task, num_fewshot)
    return tasks, leaves


@cache
def task_manager() -> TaskManager:
    """The harness's index of its tasks, which takes seconds to build."""
    return TaskManager()


def require_sentences() -> None:
    """EvaluationError where NLTK lacks what IFEval's checks cut sentences with; they would fail after the answers."""
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise EvaluationError(
            "IFEval needs NLTK's data punkt_tab: run python -m nltk.downloader punkt_tab once, "
            "or set NLTK_DATA to a folder that holds tokenizers/punkt_tab"
        ) from error


def build_tasks(manager: TaskManager, configs: dict[str, dict[str, Any]]) -> dict[str, Task]:
    """The harness's tasks: its own with overrides, and ours."""
    ours = {name: ConfigurableTask(config=configs.pop(name)) for name in [MMLU_CLOZE] if name in configs}
    theirs = manager.load({"group": GROUP, "task": list(configs.values())})["tasks"] if configs else {}
    return ours | theirs


def require_examples(columns: Sequence[Column], settings: str, data_dir: Path | None) -> None:
    """OptionError for a column whose number of examples cannot be chosen."""
    for column in columns:
        if column.examples == "fixed":
            raise OptionError(
                f"{column.name} under the settings {settings!r} has a fixed number of examples; leave out --num-fewshot"
            )
        if column.examples == "train" and data_dir is not None:
            raise OptionError(f"local files have no examples for {column.name}; leave out --num-fewshot or --data-dir")


def require_room(tasks: Mapping[str, Task], window: int) -> None:
    """EvaluationError for a task whose answers may be so long that no prompt fits a window of so many tokens."""
    for name, task in tasks.items():
        if task.OUTPUT_TYPE == "generate_until":
            longest = task.config.generation_kwargs.get("max_gen_toks", MAX_GEN_TOKS)
            if longest >= window:
                raise EvaluationError(
                    f"{name} asks for up to {longest} tokens, but the model sees {window} at once; leave that task out"
                )


def require_room_for_choices(subject: Subject, requests: Sequence[Instance]) -> None:
    """EvaluationError for a task with a choice that leaves its question no room in the model's window."""
    window = subject.scorer.longest
    for request in requests:
        choice = request.args[1]
        # tokens are at most as many as bytes, so most need not be counted
        if len(choice.encode()) >= window and (tokens := len(subject.encode(choice))) >= window:
            raise EvaluationError(
                f"{request.task_name} has a choice of {tokens} tokens, but the model sees {window} at once; "
                "leave that task out"
            )


def set_examples(task: Task, num_fewshot: int | None) -> None:
    """What the harness's simple_evaluate does before it evaluates: a number of examples, a seed."""
    if num_fewshot is not None or task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=1234)  # the harness's default


def leaf_tasks(manager: TaskManager, name: str) -> Iterator[str]:
    """The tasks of a group or tag of the harness, by name."""
    if name == MMLU_CLOZE:
        yield name
        return
    entry = manager.task_index[name]
    members = entry.cfg["task"] if entry.cfg is not None else sorted(entry.tags)
    if isinstance(members, str):
        yield members
        return
    for member in members:
        yield from leaf_tasks(manager, member)


def task_config(manager: TaskManager, name: str, data_dir: Path | None) -> dict[str, Any]:
    """A task by name, with its records from local files where a folder of them is given."""
    config = dict(MMLU_CLOZE_TASK) if name == MMLU_CLOZE else {"task": name}
    if data_dir is None:
        return config
    subset = None if name == MMLU_CLOZE else manager.task_index[name].cfg.get("dataset_name")
    kind = next(kind for kind in READERS if name.startswith(kind))
    # of the splits there are the one that is evaluated, and the examples of MMLU
    local = {"custom_dataset": partial(read_local, kind, data_dir, subset), "dataset_kwargs": None}
    absent: dict[str, Any] = {"training_split": None} | ({"validation_split": None} if kind.startswith("arc") else {})
    return config | local | absent


def read_local(kind: str, data_dir: Path, subset: str | None, **metadata: Any) -> Splits:
    """What the harness calls for a task's records; it hands over the task's metadata."""
    return READERS[kind](data_dir, subset)


def spread_sample(lengths: Mapping[str, int], limit: int | None) -> dict[str, list[int]]:
    """Which items of which task to take: at most `limit`, at equal distances over all tasks one behind the other.

    The first items would be those of one subject or source, as several sets are in that order.
    """
    total = sum(lengths.values())
    chosen = range(total) if limit is None or limit >= total else [index * total // limit for index in range(limit)]
    samples: dict[str, list[int]] = {}
    start = 0
    for name, length in lengths.items():
        samples[name] = [index - start for index in chosen if start <= index < start + length]
        start += length
    return samples
