"""Supervised fine-tuning on conversations, with the loss on the answers alone.

python -m train.sft --config train/recipes/doge-tiny/sft.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import set_seed
from trl import SFTConfig

from ..adapters import AdapterArguments, adapter_config
from ..arguments import StageConfig
from ..data import DataArguments, load_mixture
from ..stage import load_model, make_trainer, run, train
from ..templates import check_training_template
from ..trainers import DogeSFTTrainer


@dataclass
class FineTuningConfig(StageConfig, SFTConfig):
    """SFTConfig with the arguments of stages, and the loss on the answers alone."""

    assistant_only_loss: bool = field(default=True, metadata={"help": "Learn the answers, not the questions."})


def sft(arguments: AdapterArguments, data: DataArguments, config: FineTuningConfig) -> None:
    """Fine-tune a checkpoint, or train an adapter on it, with conversations; the result lies in output_dir.

    Raises:
        CheckpointError: the checkpoint is missing or does not fit.
        DataError: a record does not fit, or a source is missing.
        OptionError: an option does not fit, or the chat template does not mark answers.
    """
    set_seed(config.seed)
    model, tokenizer = load_model(arguments)
    name = arguments.model_name_or_path
    template = check_training_template(tokenizer, name, config.chat_template_path, config.assistant_only_loss)
    if template is not None:
        config.chat_template_path = None  # the tokenizer has it, with marks; TRL would read the file once more
    train_dataset, eval_dataset = load_mixture(data, "conversation", config.seed)
    trainer = make_trainer(
        DogeSFTTrainer,
        model=model,
        args=config,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=adapter_config(arguments, model, config.keep_llama),
    )
    trainer.saved_template = template
    train(trainer)


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(sft, AdapterArguments, DataArguments, FineTuningConfig, args=args)
