"""Reasoning with verifiable rewards (GRPO): completions that earn more than others to their prompt become likelier.

python -m train.grpo --config train/recipes/doge-sums/grpo.yaml
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase, set_seed
from trl import GRPOConfig

from doge_common.errors import OptionError

from ..adapters import AdapterArguments, adapter_config
from ..arguments import StageConfig
from ..data import DataArguments, load_mixture
from ..errors import DataError
from ..grpo_trainer import DogeGRPOTrainer
from ..reward_functions import reward_functions
from ..rewards import REWARDS, TAGS
from ..stage import load_model, make_trainer, run, train
from ..templates import check_template


@dataclass
class ReasoningConfig(StageConfig, GRPOConfig):
    """GRPOConfig with the arguments of stages; the batch is counted in completions."""

    batch_tokens: int | None = field(default=None, metadata={"help": "Not of this stage: give batch_completions."})
    batch_completions: int | None = field(
        default=None, metadata={"help": "Completions per optimizer step, over all devices, num_generations a prompt."}
    )
    max_prompt_length: int | None = field(
        default=512, metadata={"help": "Tokens of a prompt, with its template; longer ones are left out."}
    )
    reward_funcs: list[str] = field(
        default_factory=lambda: ["accuracy", "format"],
        metadata={"help": f"Rewards that are added up: {', '.join(REWARDS)}, or module.function of your own."},
    )
    use_onnx_rollouts: bool = field(
        default=False, metadata={"help": "Let the runtime of doge_export write the completions: faster on a CPU."}
    )

    def __post_init__(self) -> None:
        if self.batch_tokens is not None:
            raise OptionError("batch_tokens is given; give batch_completions, as completions have no common length")
        if not self.temperature > 0:
            raise OptionError(f"temperature is {self.temperature}; it must be above 0, or all completions are the same")
        if not self.beta >= 0:
            raise OptionError(f"beta is {self.beta}; it must be at least 0")
        if self.sync_ref_model:
            raise OptionError("sync_ref_model is true; it must be false, as the reference of this stage stays")
        if not all(map(math.isfinite, self.reward_weights or ())):
            raise OptionError(f"reward_weights is {self.reward_weights}; each must be a finite number")
        hold_completions(self)
        super().__post_init__()


def hold_completions(config: Any) -> None:
    """Set gradient_accumulation_steps so that a step sees exactly batch_completions completions.

    TRL derives the completions that are written at once from it, so it is set before TRL's own checks.

    Raises:
        OptionError: they do not divide into devices and per-device batches.
    """
    if config.batch_completions is None:
        return
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # of accelerate and torchrun
    at_once = config.per_device_train_batch_size * processes
    steps, rest = divmod(config.batch_completions, max(at_once, 1))
    if rest or not steps:
        raise OptionError(
            f"batch_completions is {config.batch_completions}; it must be a multiple of {at_once}, which {processes} "
            f"device(s) take at once (per_device_train_batch_size is {config.per_device_train_batch_size})"
        )
    config.gradient_accumulation_steps = steps


def grpo(arguments: AdapterArguments, data: DataArguments, config: ReasoningConfig) -> None:
    """Train a checkpoint, or an adapter on it, by the rewards of its own completions; the result lies in output_dir.

    The reference of an adapter is the base with the adapter off.

    Raises:
        CheckpointError: the checkpoint is missing or does not fit.
        DataError: a record does not fit, its key cannot be read, or a source is missing.
        OptionError: an option does not fit, there is no chat template, or a reward returns no number.
    """
    set_seed(config.seed)
    rewards = reward_functions(config.reward_funcs)
    model, tokenizer = load_model(arguments)
    check_template(tokenizer, arguments.model_name_or_path)
    check_tags(tokenizer, config.reward_funcs)
    reference = load_model(arguments)[0] if config.beta and not arguments.use_peft else None
    train_dataset, eval_dataset = load_mixture(data, "problem", config.seed)
    trainer = make_trainer(
        DogeGRPOTrainer,
        model=model,
        reference=reference,
        reward_funcs=rewards,
        args=config,
        train_dataset=short_prompts(train_dataset, tokenizer, config.max_prompt_length),
        eval_dataset=None if eval_dataset is None else short_prompts(eval_dataset, tokenizer, config.max_prompt_length),
        processing_class=tokenizer,
        rollout_func=rollouts() if config.use_onnx_rollouts else None,
        peft_config=adapter_config(arguments, model, config.keep_llama),
    )
    train(trainer)


def rollouts() -> Any:
    """TRL's rollout_func by the runtime; only a run that asks for it needs onnxruntime."""
    from ..onnx_rollouts import OnnxRollouts  # noqa: PLC0415 - see above

    return OnnxRollouts()


def check_tags(tokenizer: PreTrainedTokenizerBase, rewards: Sequence[str]) -> None:
    """Refuse the reward for the format where TRL would take its tags out of every completion.

    Raises:
        OptionError: a tag is a special token.
    """
    special = [tag for tag in TAGS if tag in tokenizer.all_special_tokens]
    if special and "format" in rewards:
        raise OptionError(
            f"reward_funcs has format, but {special[0]} is a special token of the tokenizer, which no completion "
            "shows; leave format out, or make the tags plain tokens"
        )


def short_prompts(records: Any, tokenizer: PreTrainedTokenizerBase, most: int | None) -> Any:
    """The records whose prompt has at most so many tokens; the number of others is printed where it is known.

    Raises:
        DataError: none is left.
    """
    if most is None:
        return records

    def is_short(record: dict[str, Any]) -> bool:
        ids = tokenizer.apply_chat_template(record["prompt"], add_generation_prompt=True, return_dict=False)
        return len(ids) <= most

    with PartialState().main_process_first():
        short = records.filter(is_short)
    if isinstance(records, Sized) and len(short) < len(records):
        if not len(short):
            raise DataError(f"no prompt has at most {most} tokens; raise max_prompt_length, or set it to null")
        PartialState().print(f"{len(records) - len(short)} of {len(records)} prompts have more than {most} tokens")
    return short


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(grpo, AdapterArguments, DataArguments, ReasoningConfig, args=args)
