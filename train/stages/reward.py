"""A reward model from preferences: a chosen answer gets a larger number than a rejected one.

python -m train.reward --config train/recipes/doge-tiny/reward.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from accelerate import PartialState
from transformers import set_seed
from trl import RewardConfig

from doge_model.labels import REGRESSION

from ..arguments import ModelArguments, StageConfig
from ..classifiers import load_for_labels, standard_error
from ..data import DataArguments, load_mixture
from ..stage import make_trainer, run, train
from ..templates import check_template
from ..trainers import DogeRewardTrainer

LABEL = "reward"


@dataclass
class RewardModelConfig(StageConfig, RewardConfig):
    """RewardConfig with the arguments of stages; batch_tokens counts a pair of answers as one sequence."""

    router_aux_loss_coef: float | None = field(
        default=None, metadata={"help": "Weight of the load-balancing loss of experts; the model's own otherwise."}
    )


def reward(arguments: ModelArguments, data: DataArguments, config: RewardModelConfig) -> None:
    """Train a reward model from a checkpoint, measure it on held-out pairs, and save it in output_dir.

    Raises:
        CheckpointError: the checkpoint is missing or does not fit.
        DataError: a record does not fit, or a source is missing.
        OptionError: an option does not fit, or there is no chat template.
    """
    set_seed(config.seed)
    records, held_out = load_mixture(data, "preference", config.seed)
    model, tokenizer = load_for_labels(arguments, [LABEL], REGRESSION)
    check_template(tokenizer, arguments.model_name_or_path)
    trainer = make_trainer(
        DogeRewardTrainer,
        model=model,
        args=config,
        train_dataset=records,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )
    train(trainer)
    if held_out is not None:
        found = trainer.evaluate()
        accuracy, pairs = found["eval_accuracy"], len(trainer.eval_dataset)
        error = standard_error(accuracy, pairs)
        PartialState().print(f"{pairs} held-out pairs: accuracy {accuracy:.4f}, accuracy_error {error:.4f}")


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(reward, ModelArguments, DataArguments, RewardModelConfig, args=args)
