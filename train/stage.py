"""What all stages share: their arguments, read by TRL's parser, and how a run starts, goes on and ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedTokenizerBase, Trainer, TrainerState
from trl import TrlParser

from doge_model import DogeForCausalLM, load_checkpoint
from doge_model.errors import DogeError, OptionError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class StageConfig:
    """What a stage adds to TRL's arguments; mixed into SFTConfig and DPOConfig.

    batch_tokens sets gradient_accumulation_steps, so that an optimizer step sees the same batch whatever the number of
    devices and the per-device batch.
    """

    batch_tokens: int | None = field(
        default=None,
        metadata={"help": "Tokens per optimizer step: sequences (pairs in dpo) times max_length, over all devices."},
    )
    save_dtype: str = field(
        default="float32", metadata={"help": "Type of the final model's weights.", "choices": list(DTYPES)}
    )
    activation_checkpointing: bool | None = field(
        default=None, metadata={"help": "Compute the activations of each block again, in place of keeping them."}
    )
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "The old name of activation_checkpointing."}
    )

    def __post_init__(self) -> None:
        old, new = self.gradient_checkpointing, self.activation_checkpointing
        if old is not None and new is not None and old != new:  # transformers would not say that it takes the second
            raise OptionError(f"gradient_checkpointing is {old} and activation_checkpointing is {new}; give the second")
        # without use_cpu bf16 is refused on a CPU
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()  # type: ignore[has-type]  # TRL's field
        if self.ddp_find_unused_parameters is None:  # type: ignore[has-type]  # TRL's field
            self.ddp_find_unused_parameters = False  # every parameter of a Doge has a gradient (tests/test_modeling.py)
        super().__post_init__()  # type: ignore[misc]  # TRL's class stands behind this one
        hold_batch(self)


def hold_batch(config: Any) -> None:
    """Set gradient_accumulation_steps such that a step sees exactly batch_tokens tokens.

    Raises:
        OptionError: the batch does not divide into sequences, devices and per-device batches.
    """
    if config.batch_tokens is None:
        return
    sequences, rest = divmod(config.batch_tokens, config.max_length)
    if rest:
        raise OptionError(f"batch_tokens is {config.batch_tokens}, no multiple of max_length ({config.max_length})")
    at_once = config.train_batch_size * config.world_size
    steps, rest = divmod(sequences, at_once)
    if rest or not steps:
        raise OptionError(
            f"batch_tokens is {sequences} sequences, which {config.world_size} device(s) times "
            f"per_device_train_batch_size {config.per_device_train_batch_size} ({at_once}) does not divide; "
            f"choose a per-device batch that does"
        )
    config.gradient_accumulation_steps = steps


def run(stage: Callable[..., Any], *argument_types: type, args: Sequence[str] | None = None) -> None:
    """Parse the command line into one object per type, run the stage; a user's mistake ends in one sentence."""
    parser = TrlParser(argument_types, prog=f"python -m {stage.__module__}")
    try:
        parsed = _parse(parser, args)
        stage(*parsed)
    except DogeError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, OptionError) else 1) from error


def _parse(parser: TrlParser, args: Sequence[str] | None) -> tuple[Any, ...]:
    try:
        parsed: tuple[Any, ...] = parser.parse_args_and_config(args)
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, DogeError):
            raise
        raise OptionError(" ".join(str(error).split())) from error
    return parsed


@dataclass
class ModelArguments:
    """The checkpoint that a stage starts from; names as in TRL's ModelConfig."""

    model_name_or_path: str = field(metadata={"help": "Folder, .gguf file or hub id, in any form that can be loaded."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a hub repository."})
    dtype: str = field(
        default="float32", metadata={"help": "Type of the weights while training; bf16 rounds products alone."}
    )
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "sdpa, or eager for the full matrix.", "choices": ["sdpa", "eager"]}
    )

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise OptionError(f"dtype is {self.dtype!r}; allowed are {', '.join(DTYPES)}")


def load_model(arguments: ModelArguments) -> tuple[DogeForCausalLM, PreTrainedTokenizerBase]:
    """The checkpoint that a stage starts from, with its tokenizer.

    Raises:
        CheckpointError: there is none, or it does not fit.
        OptionError: it has no tokenizer.
    """
    path, revision = arguments.model_name_or_path, arguments.model_revision
    local = Path(path).exists() or path.endswith(".gguf")
    checkpoint = load_checkpoint(path, revision=None if local else revision, dtype=DTYPES[arguments.dtype])
    if checkpoint.tokenizer is None:
        raise OptionError(f"{path} has no tokenizer; training needs the one that the model was trained with")
    checkpoint.model.set_attn_implementation(arguments.attn_implementation)
    return checkpoint.model, checkpoint.tokenizer


def train(trainer: Trainer) -> None:
    """Train, from a checkpoint where resume_from_checkpoint says so, and save the final model."""
    config = trainer.args
    resume = config.resume_from_checkpoint
    if resume == "last":
        resume = str(last_checkpoint(Path(config.output_dir)))
    elif resume is not None and not is_complete(Path(resume)):
        raise OptionError(f"resume_from_checkpoint is {resume}, which is no complete checkpoint of a trainer")
    trainer.train(resume_from_checkpoint=resume)
    save(trainer)
    # Until the first process has written. Without it gloo hangs now and then, too: the group's destructor, which holds
    # the interpreter's lock, waits for a thread that wants it, to let go of the last gathered tensor (torch 2.13).
    trainer.accelerator.wait_for_everyone()
    trainer.end()


def last_checkpoint(output_dir: Path) -> Path:
    """The newest complete checkpoint; a run that was killed while it saved leaves an incomplete one behind."""
    folders = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    complete = [path for path in folders if is_complete(path)]
    if not complete:
        raise OptionError(f"{output_dir} has no complete checkpoint to resume from; leave resume_from_checkpoint out")
    return max(complete, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def is_complete(checkpoint: Path) -> bool:
    """Was the checkpoint written to its end? The trainer writes trainer_state.json last."""
    try:
        TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    except (OSError, ValueError, TypeError):
        return False
    return True


def save(trainer: Trainer) -> None:
    """Save the final model, in save_dtype, with its tokenizer: a folder that doge-export and the next stage take."""
    folder, dtype = trainer.args.output_dir, trainer.args.save_dtype
    trainer.save_model(folder)
    trainer.save_state()
    if dtype != "float32" and trainer.is_world_process_zero():  # from the file: here the weights may be in shards
        load_checkpoint(folder, dtype=DTYPES[dtype]).model.save_pretrained(folder)
