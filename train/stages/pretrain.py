"""Pre-training from scratch on packed text, warmup-stable-decay.

    python -m train.pretrain --config train/recipes/doge-tiny/pretrain.yaml

Every checkpoint saved before the decay can be decayed by itself, while the run goes on. For that, give it as
resume_from_checkpoint, with another output_dir and with max_steps = its step + num_decay_steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from transformers import PreTrainedTokenizerBase, set_seed
from trl import SFTConfig

from doge_common.errors import OptionError
from doge_model import DogeConfig, DogeForCausalLM, preset_config
from doge_model.checkpoint import load_tokenizer, locate
from doge_model.presets import PRESETS

from ..arguments import StageConfig
from ..copying import begin_with_copies
from ..data import DataArguments, load_mixture
from ..stage import make_trainer, run, train
from ..templates import check_training_template
from ..trainers import DogeSFTTrainer
from ..windows import WindowSchedule, blocks, check_windows, hold_recent

DIMENSIONS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "keep_window_size",
    "keep_sinks",
)


@dataclass
class NewModelArguments:
    """The model to make: a member of the family, with other dimensions where they are given."""

    tokenizer_name_or_path: str = field(metadata={"help": "Folder or hub id of the tokenizer."})
    preset: str = field(default="Doge-20M", metadata={"help": f"A member of the family: {', '.join(PRESETS)}."})
    hidden_size: int | None = field(default=None, metadata={"help": "Channels of the residual stream."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Channels of the MLP."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Blocks."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Query heads."})
    num_key_value_heads: int | None = field(default=None, metadata={"help": "Key and value heads, and mask heads."})
    max_position_embeddings: int | None = field(default=None, metadata={"help": "Tokens that training will see."})
    keep_window_size: int | None = field(default=None, metadata={"help": "Keys that are kept."})
    keep_sinks: int | None = field(
        default=None, metadata={"help": "First tokens of a stream whose keys never leave the window."}
    )
    rope_theta: float | None = field(
        default=None, metadata={"help": "Base of the rotation; it is then the same at all positions."}
    )
    initial_a: float = field(default=0.0, metadata={"help": "A of the mask at first; at 0 dt_proj has no gradient."})
    recent_layers: int = field(
        default=0, metadata={"help": "First layers that keep the most recent keys: their A stays 0."}
    )
    begin_with_copies: bool = field(
        default=False, metadata={"help": "Begin with attention that finds equal tokens and copies them."}
    )


@dataclass
class PretrainConfig(StageConfig, SFTConfig):
    """SFTConfig with the packing of pre-training: documents are cut and joined into whole rows of max_length.

    With assistant_only_loss, records are conversations, and their answers alone are learned.
    """

    packing: bool = field(default=True, metadata={"help": "Join documents into rows of max_length."})
    packing_strategy: str = field(
        default="wrapped", metadata={"help": "The way: documents are cut anywhere, and no token is lost."}
    )
    window_steps: list[int] = field(
        default_factory=list,
        metadata={"help": "Two steps: windows go from max_length to keep_window_size between them."},
    )
    recent_window_from: int | None = field(
        default=None, metadata={"help": "With window_steps, the window at first of recent_layers, which widens; or 4."}
    )
    wider_steps: float | None = field(
        default=None, metadata={"help": "With window_steps, share of steps with a wider window, drawn anew; or 0.5."}
    )


def pretrain(arguments: NewModelArguments, data: DataArguments, config: PretrainConfig) -> None:
    """Make a model, train it and save it in output_dir.

    Raises:
        OptionError: an option does not fit, or the tokenizer is missing.
        DataError: a record does not fit, or a source is missing.
    """
    set_seed(config.seed)
    name = arguments.tokenizer_name_or_path
    tokenizer = load_tokenizer(locate(name, None, None, local_files_only=False))
    if tokenizer is None:
        raise OptionError(f"{name} has no tokenizer; make one with python -m train.tokenizer")
    template = None
    if config.assistant_only_loss:
        template = check_training_template(tokenizer, name, config.chat_template_path, assistant_only_loss=True)
        config.chat_template_path = None if template is not None else config.chat_template_path
    model = build_model(arguments, tokenizer)
    kind = "conversation" if config.assistant_only_loss else "text"
    train_dataset, eval_dataset = load_mixture(data, kind, config.seed)
    trainer = make_trainer(
        DogeSFTTrainer,
        model=model,
        args=config,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
    )
    trainer.saved_template = template
    schedule = window_schedule(config, model)
    if schedule is not None:
        trainer.add_callback(schedule)
    train(trainer)


def window_schedule(config: PretrainConfig, model: DogeForCausalLM) -> WindowSchedule | None:
    """The schedule of windows that was asked for.

    Raises:
        OptionError: its options do not fit, or they are given without window_steps.
    """
    if not config.window_steps:
        for name in ("recent_window_from", "wider_steps"):
            if vars(config)[name] is not None:
                raise OptionError(f"{name} is {vars(config)[name]}, and window_steps are missing; give both or neither")
        return None
    if config.max_length is None:
        raise OptionError("max_length is null; give a number of tokens, as window_steps begin with a window of so many")
    recent = 4 if config.recent_window_from is None else config.recent_window_from
    wider = 0.5 if config.wider_steps is None else config.wider_steps
    steps = check_windows(config.window_steps, recent, wider, model)
    return WindowSchedule(model, steps, config.max_length, recent, wider)


def build_model(arguments: NewModelArguments, tokenizer: PreTrainedTokenizerBase) -> DogeForCausalLM:
    """A Doge with random weights, the given dimensions and the tokenizer's vocabulary."""
    config = new_config(arguments, len(tokenizer))
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    model = DogeForCausalLM(config)
    if arguments.begin_with_copies:
        begin_with_copies(model)
    for layer in blocks(model):
        layer.self_attn.A.data.fill_(arguments.initial_a)
    hold_recent(model, arguments.recent_layers)
    return model


def new_config(arguments: NewModelArguments, vocab_size: int) -> DogeConfig:
    """The preset with the dimensions that were given.

    Raises:
        OptionError: rope_theta is no base.
    """
    given = {name: value for name, value in asdict(arguments).items() if value is not None}
    own: dict[str, object] = {"head_dim": None, "num_mask_heads": None, "vocab_size": vocab_size}
    own |= {name: given[name] for name in DIMENSIONS if name in given}
    if arguments.rope_theta is not None:
        if not 1 < arguments.rope_theta < math.inf:
            raise OptionError(f"rope_theta is {arguments.rope_theta}; it must be above 1 and finite")
        own["rope_parameters"] = {"rope_type": "default", "rope_theta": arguments.rope_theta}
    return DogeConfig(**(preset_config(arguments.preset).to_dict() | own))


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(pretrain, NewModelArguments, DataArguments, PretrainConfig, args=args)
