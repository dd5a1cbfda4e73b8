"""What all stages share: how a run starts, goes on and ends."""

from __future__ import annotations

import inspect
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import TrlParser

from doge_model import DogeForCausalLM, load_checkpoint
from doge_model.errors import CheckpointError, DogeError, OptionError, one_line
from doge_model.tensors import SafetensorsFolder

from .arguments import DTYPES, ModelArguments, check_choices, check_folder, check_least

TrainerT = TypeVar("TrainerT", bound=Trainer)


def run(stage: Callable[..., Any], *argument_types: type, args: Sequence[str] | None = None) -> None:
    """Parse the command line into one object per type, run the stage; a user's mistake ends in one sentence."""
    parser = TrlParser(argument_types, prog=f"python -m train.{Path(inspect.getfile(stage)).stem}")
    try:
        parsed = _parse(parser, args)
        stage(*parsed)
    except DogeError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, OptionError) else 1) from error


def _parse(parser: TrlParser, args: Sequence[str] | None) -> tuple[Any, ...]:
    try:
        parsed: tuple[Any, ...] = parser.parse_args_and_config(args)
    except DogeError:
        raise
    except (OSError, TypeError, ValueError, ImportError, yaml.YAMLError) as error:
        raise refusal(error) from error
    for arguments in parsed:
        check_choices(arguments)
        check_least(arguments)
        check_folder(arguments)
    return parsed


def refusal(error: Exception) -> OptionError:
    """What TRL, transformers or torch say of an option, in one line."""
    return OptionError(one_line(error))


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
    except DogeError:
        raise
    except (ValueError, TypeError, NotImplementedError, ImportError, RuntimeError, OSError) as error:
        raise refusal(error) from error


def train(trainer: Trainer) -> None:
    """Train, from a checkpoint where resume_from_checkpoint says so, and save the final model."""
    config = trainer.args
    resume, sharded = config.resume_from_checkpoint, trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if resume == "last":
        resume = str(last_checkpoint(Path(config.output_dir), sharded))
    elif resume is not None and (lack := incomplete(Path(resume), sharded)):
        raise OptionError(f"resume_from_checkpoint is {resume}, which cannot be gone on from: {lack}")
    start(trainer, resume)
    save(trainer)
    # Until the first process has written. Without it gloo hangs now and then, too: the group's destructor, which holds
    # the interpreter's lock, waits for a thread that wants it, to let go of the last gathered tensor (torch 2.13).
    trainer.accelerator.wait_for_everyone()
    trainer.end()


def start(trainer: Trainer, resume: str | None) -> None:
    """Train. Optimizer and schedule are made there, so what their options have wrong shows before the first step."""
    first = FirstStep()
    trainer.add_callback(first)
    try:
        trainer.train(resume_from_checkpoint=resume)
    except DogeError:
        raise
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        if first.is_done:
            raise
        raise refusal(error) from error


class FirstStep(TrainerCallback):
    """Whether a step has been taken."""

    is_done = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """It has."""
        self.is_done = True


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
