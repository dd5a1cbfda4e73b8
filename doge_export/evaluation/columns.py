"""The columns of a model card's row and any other task of the harness, with the harness's tasks behind them.

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

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import OptionError
from .local_tasks import MMLU_CLOZE


@dataclass(frozen=True)
class Aggregate:
    """One number of a group of the harness.

    Attributes:
        metric: its name in the harness.
        filters: the harness's filters of the answers, a number for each; None takes every filter that its tasks have.
        average: as in `Column`.
    """

    metric: str
    filters: tuple[str, ...] | None
    average: Literal["items", "tasks"]


@dataclass(frozen=True)
class Column:
    """One number of the row, or all numbers of another task or group of the harness.

    Attributes:
        name: its name in --tasks, or that of a task or group in it.
        tasks: names of harness tasks or groups.
        metric: its name in the harness; acc_norm divides log-likelihoods by the characters of the choice. None takes
            every metric that the harness reports, and of a group its aggregates.
        examples: "fixed" where their number cannot be chosen, or the split that any number is taken from. Local files
            have the split "dev"; only the hub has "train". None where the harness's task decides.
        filter: the harness's filter of the answers; "none" takes them unchanged.
        average: whether the number is the mean of all items, or of the tasks' means.
        aggregates: numbers of a group; empty for others.
    """

    name: str
    tasks: tuple[str, ...]
    metric: str | None
    examples: Literal["fixed", "dev", "train"] | None = "fixed"
    filter: str = "none"
    average: Literal["items", "tasks"] = "items"
    aggregates: tuple[Aggregate, ...] = ()


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
