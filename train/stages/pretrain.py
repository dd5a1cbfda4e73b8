"""Pre-training from scratch on packed text, warmup-stable-decay.

    python -m train.pretrain --config train/recipes/doge-tiny/pretrain.yaml

Every checkpoint saved before the decay can be decayed by itself, while the run goes on. For that, give it as
resume_from_checkpoint, with another output_dir and with max_steps = its step + num_decay_steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from transformers import PreTrainedTokenizerBase, set_seed
from trl import SFTConfig

from doge_common.errors import OptionError
from doge_model import DogeConfig, DogeForCausalLM, preset_config
from doge_model.checkpoint import load_tokenizer, locate
from doge_model.presets import PRESETS

from ..arguments import StageConfig
from ..data import DataArguments, load_mixture
from ..stage import make_trainer, run, train
from ..trainers import DogeSFTTrainer


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


@dataclass
class PretrainConfig(StageConfig, SFTConfig):
    """SFTConfig with the packing of pre-training: documents are cut and joined into whole rows of max_length."""

    packing: bool = field(default=True, metadata={"help": "Join documents into rows of max_length."})
    packing_strategy: str = field(
        default="wrapped", metadata={"help": "The way: documents are cut anywhere, and no token is lost."}
    )


def pretrain(arguments: NewModelArguments, data: DataArguments, config: PretrainConfig) -> None:
    """Make a model, train it and save it in output_dir.

    Raises:
        OptionError: an option does not fit, or the tokenizer is missing.
        DataError: a record does not fit, or a source is missing.
    """
    set_seed(config.seed)
    tokenizer = load_tokenizer(locate(arguments.tokenizer_name_or_path, None, None, local_files_only=False))
    if tokenizer is None:
        raise OptionError(
            f"{arguments.tokenizer_name_or_path} has no tokenizer; make one with python -m train.tokenizer"
        )
    model = build_model(arguments, tokenizer)
    train_dataset, eval_dataset = load_mixture(data, "text", config.seed)
    trainer = make_trainer(
        DogeSFTTrainer,
        model=model,
        args=config,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
    )
    train(trainer)


def build_model(arguments: NewModelArguments, tokenizer: PreTrainedTokenizerBase) -> DogeForCausalLM:
    """A Doge with random weights, the given dimensions and the tokenizer's vocabulary."""
    config = new_config(arguments, len(tokenizer))
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    return DogeForCausalLM(config)


def new_config(arguments: NewModelArguments, vocab_size: int) -> DogeConfig:
    """The preset with the dimensions that were given."""
    given = {name: value for name, value in asdict(arguments).items() if value is not None}
    own = {"head_dim": None, "num_mask_heads": None, "vocab_size": vocab_size}
    own |= {name: value for name, value in given.items() if name not in ("preset", "tokenizer_name_or_path")}
    return DogeConfig(**(preset_config(arguments.preset).to_dict() | own))


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(pretrain, NewModelArguments, DataArguments, PretrainConfig, args=args)
