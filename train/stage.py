"""The start, the resumption and the end of a run, which all stages share."""

from __future__ import annotations

import inspect
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import fields
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

from doge_common.errors import CheckpointError, DogeError, OptionError, one_line
from doge_model import DogeForCausalLM, load_checkpoint, load_classifier
from doge_model.checkpoint import is_classifier
from doge_model.tensors import SafetensorsFolder

from .adapter_files import ADAPTER_CONFIG, ADAPTER_TENSORS, is_adapter, is_whole, with_dtype
from .arguments import DTYPES, ModelArguments, check_choices, check_folder, check_least
from .command import fail, given_options
from .model_card import recipe_of
from .parser import StageParser
from .paths import checkpoints

TrainerT = TypeVar("TrainerT", bound=Trainer)


def run(stage: Callable[..., Any], *argument_types: type, args: Sequence[str] | None = None) -> None:
    """Parse the command line into one object per type and run the stage; a user's mistake ends in one sentence."""
    name = Path(inspect.getfile(stage)).stem
    try:
        parsed = _parse(StageParser(argument_types, f"python -m train.{name}"), args)
        given = given_options(sys.argv[1:] if args is None else args)
        for arguments in parsed:
            if any(described.name == "recipe" for described in fields(arguments)):
                arguments.recipe = recipe_of(name, given, parsed)
        stage(*parsed)
    except DogeError as error:
        fail(error)


def _parse(parser: StageParser, args: Sequence[str] | None) -> tuple[Any, ...]:
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
    """The sentence of TRL, transformers or torch about an option, as an error of this package."""
    return OptionError(one_line(error))


def load_model(arguments: ModelArguments) -> tuple[DogeForCausalLM, PreTrainedTokenizerBase]:
    """The checkpoint that a stage starts from, with its tokenizer.

    Raises:
        CheckpointError: it is missing or does not fit.
        OptionError: it has no tokenizer.
    """
    path, revision = arguments.model_name_or_path, arguments.model_revision
    named = None if revision == "main" else revision  # TRL's default, which a local folder does not have
    checkpoint = load_checkpoint(path, revision=named, dtype=DTYPES[arguments.dtype])
    if checkpoint.tokenizer is None:
        raise OptionError(f"{path} has no tokenizer; give it the one that the model was trained with")
    # set_attn_implementation knows models on transformers' AttentionInterface alone, and only warns of others
    checkpoint.model.config._attn_implementation = arguments.attn_implementation
    return checkpoint.model, checkpoint.tokenizer


def make_trainer(kind: type[TrainerT], **kwargs: Any) -> TrainerT:
    """A trainer of some kind.

    Raises:
        OptionError: TRL or transformers refuse an option; the text is theirs.
    """
    try:
        return kind(**kwargs)
    except DogeError:
        raise
    except (ValueError, TypeError, NotImplementedError, ImportError, RuntimeError, OSError) as error:
        raise refusal(error) from error


def train(trainer: Trainer) -> None:
    """Train, from the checkpoint that resume_from_checkpoint names if there is one, and save the final model.

    Raises:
        OptionError: that checkpoint is missing or incomplete, or an option is refused before the first step.
    """
    config = trainer.args
    resume, sharded = config.resume_from_checkpoint, trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if resume == "last":
        resume = str(last_checkpoint(Path(config.output_dir), sharded))
    elif resume is not None and (lack := incomplete(Path(resume), sharded)):
        raise OptionError(f"resume_from_checkpoint is {resume}; it must be a complete checkpoint, but {lack}")
    if resume is None:
        clear(trainer)
    start(trainer, resume)
    save(trainer)
    # Wait until the first process has written. Without this gloo hangs now and then (torch 2.13). The destructor of its
    # group holds the interpreter's lock and waits for a thread, which wants the lock to free a gathered tensor.
    trainer.accelerator.wait_for_everyone()
    trainer.end()


def clear(trainer: Trainer) -> None:
    """Remove the checkpoints of a run that is replaced; a later resume would take the newest of both runs."""
    if trainer.is_world_process_zero():
        for folder in checkpoints(Path(trainer.args.output_dir)):
            shutil.rmtree(folder)
    trainer.accelerator.wait_for_everyone()


def start(trainer: Trainer, resume: str | None) -> None:
    """Train; an error before the first step is one of options, as optimizer and schedule are made there.

    Raises:
        OptionError: an option of optimizer, schedule or trainer is refused.
    """
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
    """Whether the first step has been taken, as `is_done`."""

    is_done = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note that a step has been taken."""
        self.is_done = True


def last_checkpoint(output_dir: Path, sharded: bool = False) -> Path:
    """The newest complete checkpoint; a run that was killed while it saved leaves an incomplete one behind.

    Raises:
        OptionError: no checkpoint is complete; the fault of each is named.
    """
    lacks = {path: incomplete(path, sharded) for path in checkpoints(output_dir)}
    complete = [path for path, lack in lacks.items() if lack is None]
    if not complete:
        seen = "".join(f"; {path.name}: {lack}" for path, lack in lacks.items())
        raise OptionError(
            f"{output_dir} has no complete checkpoint to resume from; leave resume_from_checkpoint out{seen}"
        )
    return complete[-1]


def incomplete(checkpoint: Path, sharded: bool = False) -> str | None:
    """The fault that keeps a run from going on exactly as if it had not ended; None if there is none.

    Without the optimizer's state the trainer would go on, and follow another path in silence. Files are not loaded:
    torch saves archives, and a cut archive lacks its end.

    Args:
        checkpoint: the folder of the checkpoint.
        sharded: whether FSDP or DeepSpeed wrote it. They lay out weights and optimizer in ways of their own, so only
            the trainer's state is checked, which is written last.
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
    return incomplete_weights(checkpoint)


def incomplete_weights(checkpoint: Path) -> str | None:
    """The fault of a checkpoint's weights, or of its adapter; None if there is none."""
    if (checkpoint / ADAPTER_CONFIG).is_file():
        return None if is_whole(checkpoint / ADAPTER_TENSORS) else f"{ADAPTER_TENSORS} is missing or damaged"
    try:
        SafetensorsFolder(checkpoint)
    except CheckpointError:
        return "model.safetensors or a shard of it is missing or damaged"
    return None


def save(trainer: Trainer) -> None:
    """Save the final model in save_dtype, with its tokenizer, as a folder that doge-export and the next stage load."""
    folder, dtype = trainer.args.output_dir, trainer.args.save_dtype
    trainer.save_model(folder)
    trainer.save_state()
    if dtype != "float32" and trainer.is_world_process_zero():  # from the file, as the weights in memory may be shards
        if is_adapter(trainer.accelerator.unwrap_model(trainer.model)):
            with_dtype(Path(folder) / ADAPTER_TENSORS, DTYPES[dtype])
        else:
            load = load_classifier if is_classifier(folder) else load_checkpoint
            load(folder, dtype=DTYPES[dtype]).model.save_pretrained(folder)
