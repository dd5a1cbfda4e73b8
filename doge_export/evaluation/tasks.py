"""The columns of a model card's row, and the harness's tasks behind them.

There are two settings:

- `card` measures as the cards of Doge and of SmolLM2 do. MMLU takes the likelihood of each answer's words (cloze),
  without examples. BBH has three examples and a short answer. Prompts are chats where the model has a template.
- `harness` measures as lm-evaluation-harness does under the same names. MMLU takes the likelihood of letters. BBH has a
  chain of thought. Prompts are plain text.

Prompts, metrics and examples are the harness's own; with local data only the source of the records differs. One task is
ours: `mmlu_cloze` has the prompt of both cards' evaluation (huggingface/smollm, text/evaluation/smollm2/tasks.py, and
SmallDoges/small-doge, evaluation/instruct/tasks.py).
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
from .evaluated_model import EvaluatedModel
from .local_data import READERS, Splits
from .options import MAX_GEN_TOKS

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


@dataclass(frozen=True)
class Column:
    """One number of the row.

    Attributes:
        name: its name in --tasks.
        tasks: names of harness tasks or groups.
        metric: its name in the harness; acc_norm divides log-likelihoods by the characters of the choice.
        examples: "fixed" where their number cannot be chosen, or the split that any number is taken from. Local files
            have the split "dev"; only the hub has "train".
        filter: the harness's filter of the answers; "none" takes them unchanged.
        average: whether the number is the mean of all items, or of the tasks' means.
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
    """The harness's tasks by name, ready to be evaluated, and the names of each column's tasks.

    Args:
        names: columns, some of TASKS.
        settings: one of SETTINGS.
        data_dir: a folder of local files; None takes the records from the hub.
        num_fewshot: examples before each item; None leaves the number to the tasks.

    Raises:
        OptionError: a column has no local file, or its number of examples cannot be chosen.
        EvaluationError: records or data of NLTK are missing or damaged.
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
    except OSError as error:  # base of the errors that datasets and huggingface_hub raise without a network
        raise EvaluationError(
            f"the records cannot be read from the hub ({one_line(error)}); "
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
    """Check that NLTK can split sentences, as IFEval's checks do; they would fail after all answers were generated.

    Raises:
        EvaluationError: NLTK's data is missing.
    """
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise EvaluationError(
            "NLTK's data punkt_tab is missing, which IFEval needs; run python -m nltk.downloader punkt_tab once, "
            "or set NLTK_DATA to a folder that holds tokenizers/punkt_tab"
        ) from error


def build_tasks(manager: TaskManager, configs: dict[str, dict[str, Any]]) -> dict[str, Task]:
    """The harness's tasks by name, from configurations by name: its own with overrides, and ours."""
    ours = {name: ConfigurableTask(config=configs.pop(name)) for name in [MMLU_CLOZE] if name in configs}
    theirs = manager.load({"group": GROUP, "task": list(configs.values())})["tasks"] if configs else {}
    return ours | theirs


def require_examples(columns: Sequence[Column], settings: str, data_dir: Path | None) -> None:
    """Check that each column lets the number of examples be chosen.

    Raises:
        OptionError: one does not.
    """
    for column in columns:
        if column.examples == "fixed":
            raise OptionError(
                f"the number of examples of {column.name} is fixed under the settings {settings!r}; "
                "leave out --num-fewshot"
            )
        if column.examples == "train" and data_dir is not None:
            raise OptionError(
                f"examples for {column.name} are missing in local files; leave out --num-fewshot or --data-dir"
            )


def require_room(tasks: Mapping[str, Task], window: int) -> None:
    """Check that a window of `window` tokens has room for a prompt beside the longest answer of each task.

    Raises:
        EvaluationError: it has no room for one of the tasks.
    """
    for name, task in tasks.items():
        if task.OUTPUT_TYPE == "generate_until":
            longest = task.config.generation_kwargs.get("max_gen_toks", MAX_GEN_TOKS)
            if longest >= window:
                raise EvaluationError(
                    f"the answers of {name} have up to {longest} tokens; they must have fewer than the model's window, "
                    f"{window}; leave that task out"
                )


def require_room_for_choices(evaluated: EvaluatedModel, requests: Sequence[Instance]) -> None:
    """Check that each choice leaves room for its question in the model's window.

    Raises:
        EvaluationError: one leaves none.
    """
    window = evaluated.scorer.longest
    for request in requests:
        choice = request.args[1]
        # a text has at most as many tokens as bytes, so most choices need not be encoded
        if len(choice.encode()) >= window and (tokens := len(evaluated.encode(choice))) >= window:
            raise EvaluationError(
                f"{request.task_name} has a choice of {tokens} tokens; it must have fewer than {window}, "
                "the tokens that the model sees at once; leave that task out"
            )


def set_examples(task: Task, num_fewshot: int | None) -> None:
    """Set a task's number of examples and the seed that draws them, as the harness's simple_evaluate does."""
    if num_fewshot is not None or task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=1234)  # the harness's default


def leaf_tasks(manager: TaskManager, name: str) -> Iterator[str]:
    """Names of the tasks in a group or tag of the harness, or the name of a task itself."""
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
    """The configuration of a task. With a folder of local files, the task reads its records from there."""
    config = dict(MMLU_CLOZE_TASK) if name == MMLU_CLOZE else {"task": name}
    if data_dir is None:
        return config
    subset = None if name == MMLU_CLOZE else manager.task_index[name].cfg.get("dataset_name")
    kind = next(kind for kind in READERS if name.startswith(kind))
    # local files have the evaluated split and the examples of MMLU, so other splits are taken out
    local = {"custom_dataset": partial(read_local, kind, data_dir, subset), "dataset_kwargs": None}
    absent: dict[str, Any] = {"training_split": None} | ({"validation_split": None} if kind.startswith("arc") else {})
    return config | local | absent


def read_local(kind: str, data_dir: Path, subset: str | None, **metadata: Any) -> Splits:
    """The records of a task. The harness calls it with the task's metadata, which is not needed."""
    return READERS[kind](data_dir, subset)


def spread_sample(lengths: Mapping[str, int], limit: int | None) -> dict[str, list[int]]:
    """Indices of the sampled items of each task: at most `limit`, at equal distances over all tasks in a row.

    Several sets are sorted by subject or source, so the first items would be those of a single one.

    lengths: items of each task by its name. limit: None takes all items.
    """
    total = sum(lengths.values())
    chosen = range(total) if limit is None or limit >= total else [index * total // limit for index in range(limit)]
    samples: dict[str, list[int]] = {}
    start = 0
    for name, length in lengths.items():
        samples[name] = [index - start for index in chosen if start <= index < start + length]
        start += length
    return samples
