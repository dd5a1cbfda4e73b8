"""Tasks of the harness that read local files instead of the hub, and one of ours that reads either."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from ..errors import OptionError
from .hub_records import is_local
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
SETS = {  # dataset_path and, where it matters, dataset_name of the harness's tasks, with the reader of the same set
    ("google/IFEval", None): "ifeval",
    ("baber/piqa", None): "piqa",
    ("allenai/ai2_arc", "ARC-Easy"): "arc_easy",
    ("allenai/ai2_arc", "ARC-Challenge"): "arc_challenge",
    ("Rowan/hellaswag", None): "hellaswag",
    ("SaylorTwift/bbh", None): "bbh",
    ("cais/mmlu", None): "mmlu",
}


def reader_of(name: str, config: Mapping[str, Any]) -> str:
    """Name of the reader of a task's set, one of READERS.

    Raises:
        OptionError: there is none.
    """
    path = str(config.get("dataset_path"))
    reader = SETS.get((path, config.get("dataset_name"))) or SETS.get((path, None))
    if reader is None:
        raise OptionError(f"{name} has no form in local files; leave out --data-dir, or give such a task")
    return reader


def require_local_files(name: str, config: Mapping[str, Any], num_fewshot: int | None) -> None:
    """Check that local files have the records of a task, and its examples.

    Raises:
        OptionError: they have not.
    """
    reader = reader_of(name, config)
    examples = config.get("num_fewshot") if num_fewshot is None else num_fewshot
    written_out = "samples" in (config.get("fewshot_config") or {})
    if examples and not written_out and reader != "mmlu":
        raise OptionError(f"examples for {name} are missing in local files; leave out --num-fewshot or --data-dir")


def task_config(manager: TaskManager, name: str, data_dir: Path | None) -> dict[str, Any]:
    """The configuration of a task. With a folder of local files, the task reads its records from there.

    Raises:
        OptionError: local files have no form of its set.
    """
    config = dict(MMLU_CLOZE_TASK) if name == MMLU_CLOZE else {"task": name}
    published = config if name == MMLU_CLOZE else manager.task_index[name].cfg
    if data_dir is None or is_local(published):
        return config
    subset = None if name == MMLU_CLOZE else published.get("dataset_name")
    reader = reader_of(name, published)
    # local files have the evaluated split and the examples of MMLU, so other splits are taken out
    local = {"custom_dataset": partial(read_local, reader, data_dir, subset), "dataset_kwargs": None}
    absent: dict[str, Any] = {"training_split": None} | ({"validation_split": None} if reader.startswith("arc") else {})
    return config | local | absent


def read_local(reader: str, data_dir: Path, subset: str | None, **metadata: Any) -> Splits:
    """The records of a task. The harness calls it with the task's metadata, which is not needed."""
    return READERS[reader](data_dir, subset)
