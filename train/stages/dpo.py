"""Direct preference optimisation: chosen answers become likelier than rejected ones.

python -m train.dpo --config train/recipes/doge-tiny/dpo.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import set_seed
from trl import DPOConfig

from doge_common.errors import OptionError

from ..adapters import AdapterArguments, adapter_config
from ..arguments import StageConfig
from ..data import DataArguments, load_mixture
from ..stage import load_model, make_trainer, run, train
from ..templates import check_template
from ..trainers import DogeDPOTrainer


@dataclass
class PreferenceConfig(StageConfig, DPOConfig):
    """DPOConfig with the arguments of stages; batch_tokens counts a pair of answers as one sequence."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0:
            raise OptionError(f"beta is {self.beta}; it must be above 0, as below it rejected answers are preferred")


def dpo(arguments: AdapterArguments, data: DataArguments, config: PreferenceConfig) -> None:
    """Train a checkpoint, or an adapter on it, with preferences; the result lies in output_dir.

    The reference of an adapter is the base with the adapter off.

    Raises:
        CheckpointError: the checkpoint is missing or does not fit.
        DataError: a record does not fit, or a source is missing.
        OptionError: an option does not fit, or there is no chat template.
    """
    set_seed(config.seed)
    model, tokenizer = load_model(arguments)
    check_template(tokenizer, arguments.model_name_or_path)
    reference = None
    if not (arguments.use_peft or config.precompute_ref_log_probs):
        reference, _ = load_model(arguments)  # TRL would load transformers' own Doge by its name
    train_dataset, eval_dataset = load_mixture(data, "preference", config.seed)
    trainer = make_trainer(
        DogeDPOTrainer,
        model=model,
        ref_model=reference,
        args=config,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=adapter_config(arguments, model, config.keep_llama),
    )
    train(trainer)


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(dpo, AdapterArguments, DataArguments, PreferenceConfig, args=args)
