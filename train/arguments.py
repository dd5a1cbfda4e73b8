"""The arguments that stages share, and their checks; TRL's parser reads them from command lines and recipes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from doge_common.errors import OptionError

from .model_card import Recipe
from .paths import check_no_run

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LEAST = {  # the smallest value of numbers that TRL and transformers use unchecked, to divide by or to draw with
    "seed": 0,
    "max_length": 1,
    "batch_tokens": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_records": 1,
    "max_prompt_length": 1,
    "max_completion_length": 1,
    "max_new_tokens": 1,
    "model_max_length": 1,
}


@dataclass
class StageConfig:
    """The arguments that a stage adds to TRL's; mixed into SFTConfig and DPOConfig.

    batch_tokens sets gradient_accumulation_steps. An optimizer step then sees the same batch for any number of devices
    and any per-device batch.
    """

    batch_tokens: int | None = field(
        default=None,
        metadata={"help": "Tokens per optimizer step: sequences (pairs in dpo) times max_length, over all devices."},
    )
    save_dtype: str = field(
        default="float32", metadata={"help": "dtype of the final model's weights.", "choices": list(DTYPES)}
    )
    keep_llama: bool = field(
        default=True,
        metadata={
            "help": "Leave mask and residual factors of a lifted Llama as they are; it is then saved as a Llama, "
            "which everything loads."
        },
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace the run that output_dir holds, its checkpoints included."}
    )
    activation_checkpointing: bool | None = field(
        default=None, metadata={"help": "Compute each block's activations again, to save memory."}
    )
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "The old name of activation_checkpointing."}
    )

    recipe: Recipe | None = field(default=None, init=False)  # set by the command line; the model card states it

    def __post_init__(self) -> None:
        check_least(self)
        old, new = self.gradient_checkpointing, self.activation_checkpointing
        if old is not None and new is not None and old != new:  # transformers takes the second without a word
            raise OptionError(
                f"gradient_checkpointing is {old}; it must be left out, as activation_checkpointing is {new}"
            )
        # Without use_cpu, bf16 is refused on a CPU.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()  # type: ignore[has-type]  # TRL's field
        if self.use_cpu and self.bf16 is None:  # type: ignore[has-type]  # TRL's field
            self.bf16 = False  # TRL would take bfloat16, ten times as slow on processors without products of it
        if self.ddp_find_unused_parameters is None:  # type: ignore[has-type]  # TRL's field
            self.ddp_find_unused_parameters = False  # every parameter of a Doge has a gradient
        super().__post_init__()  # type: ignore[misc]  # TRL's class stands behind this one
        hold_batch(self)


def hold_batch(config: Any) -> None:
    """Set gradient_accumulation_steps so that a step sees exactly batch_tokens tokens.

    Raises:
        OptionError: the batch does not divide into sequences, devices and per-device batches.
    """
    if config.batch_tokens is None:
        return
    if config.max_length is None:
        raise OptionError("max_length is null; give a number of tokens, as batch_tokens counts whole sequences")
    sequences, rest = divmod(config.batch_tokens, config.max_length)
    if rest or not sequences:
        raise OptionError(
            f"batch_tokens is {config.batch_tokens}; it must be a multiple of max_length ({config.max_length})"
        )
    at_once = config.train_batch_size * config.world_size
    steps, rest = divmod(sequences, at_once)
    if rest or not steps:
        raise OptionError(
            f"batch_tokens is {sequences} sequences; it must be a multiple of {at_once}, which {config.world_size} "
            f"device(s) take at once (per_device_train_batch_size is {config.per_device_train_batch_size})"
        )
    config.gradient_accumulation_steps = steps


@dataclass
class ModelArguments:
    """The checkpoint that a stage starts from; the names are those of TRL's ModelConfig."""

    model_name_or_path: str = field(metadata={"help": "Folder, .gguf file or hub id, in any published form."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a hub repository."})
    dtype: str = field(
        default="float32", metadata={"help": "dtype of the weights while training; bf16 rounds products alone."}
    )
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "sdpa, or eager for the full matrix.", "choices": ["sdpa", "eager"]}
    )

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise OptionError(f"dtype is {self.dtype!r}; it must be one of {', '.join(DTYPES)}")


def check_choices(arguments: Any) -> None:
    """Refuse a value that is none of its field's choices; TRL's parser checks those on the command line alone.

    Raises:
        OptionError: there is such a value.
    """
    for described in (each for each in fields(arguments) if each.init):
        choices, value = described.metadata.get("choices"), vars(arguments)[described.name]
        if choices and value != described.default and value not in choices:
            allowed = ", ".join(str(choice) for choice in choices)
            raise OptionError(f"{described.name} is {value!r}; it must be one of {allowed}")


def check_least(arguments: Any) -> None:
    """Refuse numbers below those of LEAST, seeds beyond 32 bits, and a run of no steps.

    Raises:
        OptionError: there is such a number.
    """
    given = vars(arguments)
    for name, least in LEAST.items():
        if given.get(name) is not None and given[name] < least:
            raise OptionError(f"{name} is {given[name]}; it must be at least {least}")
    if given.get("seed", 0) >= 2**32:
        raise OptionError(f"seed is {given['seed']}; it must be below 2^32")
    if given.get("max_steps", 1) <= 0 and given.get("num_train_epochs", 1) <= 0:
        raise OptionError(f"num_train_epochs is {given['num_train_epochs']}; it must be above 0, or give max_steps")


def check_folder(arguments: Any) -> None:
    """Refuse an output_dir that is a file, that nothing can be written to, or that holds another run.

    Raises:
        OptionError: it is one.
    """
    if (given := vars(arguments).get("output_dir")) is None:
        return
    folder = Path(given).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OptionError(
            f"output_dir is {given}; it must be writable, but {nearest} is no folder that can be written to"
        )
    replaced, resumed = vars(arguments).get("overwrite_output_dir"), vars(arguments).get("resume_from_checkpoint")
    if replaced is not None and not replaced and resumed is None:
        check_no_run(folder)
