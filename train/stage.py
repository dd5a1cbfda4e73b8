"""What all stages share: their arguments, read by TRL's parser, and how a run starts, goes on and ends."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from transformers import PreTrainedTokenizerBase, Trainer, TrainerState
from trl import TrlParser

from doge_model import DogeForCausalLM, load_checkpoint
from doge_model.errors import CheckpointError, DogeError, OptionError
from doge_model.tensors import SafetensorsFolder

TrainerT = TypeVar("TrainerT", bound=Trainer)
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
    if config.batch_tokens < 1:
        raise OptionError(f"batch_tokens is {config.batch_tokens}; it must be at least max_length")
    sequences, rest = divmod(config.batch_tokens, config.max_length)
    if rest or not sequences:
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
    for arguments in parsed:
        check_choices(arguments)
    return parsed


def check_choices(arguments: Any) -> None:
    """OptionError where a field's value is none of its choices; TRL's parser checks those of the command line alone."""
    for described in fields(arguments):
        choices, value = described.metadata.get("choices"), vars(arguments)[described.name]
        if choices and value != described.default and value not in choices:
            allowed = ", ".join(str(choice) for choice in choices)
            raise OptionError(f"{described.name} is {value!r}; allowed are {allowed}")


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
    named = None if revision == "main" else revision  # a default of TRL's, which a local folder has not
    checkpoint = load_checkpoint(path, revision=named, dtype=DTYPES[arguments.dtype])
    if checkpoint.tokenizer is None:
        raise OptionError(f"{path} has no tokenizer; training needs the one that the model was trained with")
    checkpoint.model.set_attn_implementation(arguments.attn_implementation)
    return checkpoint.model, checkpoint.tokenizer


def make_trainer(kind: type[TrainerT], **kwargs: Any) -> TrainerT:
    """A trainer; OptionError with TRL's or transformers' own sentence where they refuse what was given."""
    try:
        return kind(**kwargs)
    except (ValueError, TypeError, NotImplementedError) as error:
        if isinstance(error, DogeError):
            raise
        raise OptionError(" ".join(str(error).split())) from error


def train(trainer: Trainer) -> None:
    """Train, from a checkpoint where resume_from_checkpoint says so, and save the final model."""
    config = trainer.args
    resume, sharded = config.resume_from_checkpoint, trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if resume == "last":
        resume = str(last_checkpoint(Path(config.output_dir), sharded))
    elif resume is not None and (lack := incomplete(Path(resume), sharded)):
        raise OptionError(f"resume_from_checkpoint is {resume}, which cannot be gone on from: {lack}")
    trainer.train(resume_from_checkpoint=resume)
    save(trainer)
    # Until the first process has written. Without it gloo hangs now and then, too: the group's destructor, which holds
    # the interpreter's lock, waits for a thread that wants it, to let go of the last gathered tensor (torch 2.13).
    trainer.accelerator.wait_for_everyone()
    trainer.end()


def last_checkpoint(output_dir: Path, sharded: bool = False) -> Path:
    """The newest complete checkpoint; a run that was killed while it saved leaves an incomplete one behind."""
    folders = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    lacks = {path: incomplete(path, sharded) for path in folders}
    complete = [path for path, lack in lacks.items() if lack is None]
    if not complete:
        seen = "".join(f"; {path.name}: {lack}" for path, lack in sorted(lacks.items()))
        raise OptionError(
            f"{output_dir} has no complete checkpoint to resume from; leave resume_from_checkpoint out{seen}"
        )
    return max(complete, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def incomplete(checkpoint: Path, sharded: bool = False) -> str | None:
    """What a checkpoint lacks to be gone on from exactly, or None.

    The trainer would do without the optimizer's state, and follow another path in silence. Files are not loaded: of
    those that torch has saved, which are archives, a cut one lacks its end. sharded: FSDP and DeepSpeed lay out weights
    and optimizer in their own ways, so of theirs only the trainer's state is looked at, which is written last.
    """
    try:
        TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    except (OSError, ValueError, TypeError):
        return "trainer_state.json is missing or damaged"
    if sharded:
        return None
    for name in ("optimizer.pt", "scheduler.pt"):
        if not zipfile.is_zipfile(checkpoint / name):
            return f"{name} is missing (save_only_model leaves it out) or damaged"
    states = list(checkpoint.glob("rng_state*.pth"))
    if not states or not all(map(zipfile.is_zipfile, states)):
        return "rng_state.pth is missing or damaged"
    try:
        SafetensorsFolder(checkpoint)
    except CheckpointError:
        return "model.safetensors or a shard of it is missing or damaged"
    return None


def save(trainer: Trainer) -> None:
    """Save the final model, in save_dtype, with its tokenizer: a folder that doge-export and the next stage take."""
    folder, dtype = trainer.args.output_dir, trainer.args.save_dtype
    trainer.save_model(folder)
    trainer.save_state()
    if dtype != "float32" and trainer.is_world_process_zero():  # from the file: here the weights may be in shards
        load_checkpoint(folder, dtype=DTYPES[dtype]).model.save_pretrained(folder)
