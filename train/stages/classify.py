"""A classifier of texts: one label, several, or numbers, with accuracy and F1 on held-out records.

python -m train.classify --config train/recipes/doge-tiny/classify.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate import PartialState
from transformers import DataCollatorWithPadding, EvalPrediction, Trainer, TrainingArguments, set_seed

from doge_common.errors import OptionError
from doge_model.labels import PROBLEM_TYPES

from ..arguments import ModelArguments, StageConfig
from ..classifiers import encode, load_for_labels, metrics, names_in, problem_of, without_texts_of
from ..data import DataArguments, load_mixture
from ..stage import make_trainer, run, train
from ..trainers import DogeTraining


@dataclass
class LabelledDataArguments(DataArguments):
    """Sources of labelled texts."""

    text_column: str = field(default="text", metadata={"help": "Column of texts, or of messages: the user's count."})
    label_column: str = field(
        default="label", metadata={"help": "Column of labels: a name, a list of names, or numbers for a regression."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for source in (*self.datasets, *self.eval_datasets):
            source.columns = source.columns or {"text": self.text_column, "label": self.label_column}


@dataclass
class ClassifierConfig(StageConfig, TrainingArguments):
    """TrainingArguments with the arguments of stages."""

    max_length: int = field(default=512, metadata={"help": "Tokens of a text; the rest is cut off."})
    problem_type: str | None = field(
        default=None, metadata={"help": f"One of {', '.join(PROBLEM_TYPES)}; the shape of the labels tells otherwise."}
    )
    router_aux_loss_coef: float | None = field(
        default=None, metadata={"help": "Weight of the load-balancing loss of experts; the model's own otherwise."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.problem_type not in (None, *PROBLEM_TYPES):
            raise OptionError(f"problem_type is {self.problem_type!r}; it must be one of {', '.join(PROBLEM_TYPES)}")


class ClassifierTrainer(DogeTraining, Trainer):
    """transformers' Trainer for a classifier."""

    def __init__(self, model: Any, args: Any, **kwargs: Any) -> None:
        self._metrics: dict[str, dict[str, list[float]]] = {"train": {"aux_loss": []}}  # TRL's trainers bring one
        super().__init__(model, args, **kwargs)


def classify(arguments: ModelArguments, data: LabelledDataArguments, config: ClassifierConfig) -> None:
    """Train a classifier from a checkpoint, measure it on held-out records, and save it in output_dir.

    Raises:
        CheckpointError: the checkpoint is missing or does not fit.
        DataError: a record or a label does not fit, or a source is missing.
        OptionError: an option does not fit.
    """
    set_seed(config.seed)
    if data.streaming:
        raise OptionError("streaming is true; it must be false, as the labels of all records name the head's rows")
    records, held_out = load_mixture(data, "labelled", config.seed)
    problem = problem_of(records, config.problem_type)
    held_out = without_texts_of(held_out, records)
    model, tokenizer = load_for_labels(arguments, names_in(records, problem), problem)
    form = {"tokenizer": tokenizer, "label2id": model.config.label2id, "problem": problem}
    trainer = make_trainer(
        ClassifierTrainer,
        model=model,
        args=config,
        train_dataset=encode(records, max_length=config.max_length, **form),
        eval_dataset=None if held_out is None else encode(held_out, max_length=config.max_length, **form),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda seen: measured(seen, problem),
    )
    train(trainer)
    if held_out is not None:
        found = trainer.evaluate()
        shown = {name.removeprefix("eval_"): value for name, value in found.items() if isinstance(value, float)}
        line = ", ".join(f"{name} {shown[name]:.4f}" for name in MEASURES if name in shown)
        PartialState().print(f"{len(held_out)} held-out records: {line}")


MEASURES = ("accuracy", "accuracy_error", "f1", "rmse", "r2", "loss")


def measured(seen: EvalPrediction, problem: str) -> dict[str, float]:
    """The metrics of an evaluation."""
    return metrics(seen.predictions, seen.label_ids, problem)


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(classify, ModelArguments, LabelledDataArguments, ClassifierConfig, args=args)
