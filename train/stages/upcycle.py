"""From a dense Doge to one with experts: the MLP becomes the shared expert; router and experts are new.

    python -m train.upcycle --config train/recipes/Doge-20M-MoE/upcycle.yaml

The output rows of the experts (up_embed) start at zero, so the model computes the same function until it is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import set_seed

from doge_common.errors import OptionError
from doge_model import DogeConfig, DogeForCausalLM
from doge_model.modeling import DogeCDMoE

from ..arguments import ModelArguments
from ..model_card import Recipe, write_model_card
from ..stage import load_model, run


@dataclass
class UpcycleArguments:
    """The experts to add."""

    output_dir: str = field(metadata={"help": "Folder of the model with experts."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace the files of a stage that output_dir holds."}
    )
    num_experts: int = field(default=1024, metadata={"help": "Single-neuron experts per block; a square number."})
    num_experts_per_tok: int = field(default=16, metadata={"help": "Number of experts that a token is sent to."})
    router_aux_loss_coef: float = field(default=0.001, metadata={"help": "Weight of the load-balancing loss."})
    seed: int = field(default=233, metadata={"help": "Draws router and experts."})

    recipe: Recipe | None = field(default=None, init=False)  # set by the command line; the model card states it

    def __post_init__(self) -> None:
        if self.num_experts < 1 or math.isqrt(self.num_experts) ** 2 != self.num_experts:
            raise OptionError(f"num_experts is {self.num_experts}; it must be a square, as experts are pairs of keys")
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise OptionError(f"num_experts_per_tok is {self.num_experts_per_tok}; it must be from 1 to num_experts")
        if self.router_aux_loss_coef < 0:
            raise OptionError(f"router_aux_loss_coef is {self.router_aux_loss_coef}; it must be at least 0")


def upcycle(arguments: ModelArguments, experts: UpcycleArguments) -> DogeForCausalLM:
    """Add experts to a dense checkpoint and save the model, with its tokenizer, in output_dir.

    Raises:
        CheckpointError: the checkpoint is missing or does not fit.
        OptionError: it has experts already, or no tokenizer.
    """
    set_seed(experts.seed)
    dense, tokenizer = load_model(arguments)
    model = add_experts(dense, experts)
    model.save_pretrained(experts.output_dir)
    tokenizer.save_pretrained(experts.output_dir)
    if experts.recipe is not None:
        write_model_card(Path(experts.output_dir), experts.recipe, model)
    return model


def add_experts(dense: DogeForCausalLM, experts: UpcycleArguments) -> DogeForCausalLM:
    """A model with new experts and the weights of the dense one.

    Raises:
        OptionError: the model has experts already.
    """
    if dense.config.is_moe:
        raise OptionError("the checkpoint has experts already; give a dense one")
    fields = {
        "is_moe": True,
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.num_experts_per_tok,
        "router_aux_loss_coef": experts.router_aux_loss_coef,
    }
    model = DogeForCausalLM(DogeConfig(**(dense.config.to_dict() | fields)))
    new = {name for name, _ in model.named_parameters()} - {name for name, _ in dense.named_parameters()}
    missing, unexpected = model.load_state_dict(dense.state_dict(), strict=False)
    assert not unexpected
    assert set(missing) == new
    for layer in model.model.layers:
        assert isinstance(layer.mlp, DogeCDMoE)
        layer.mlp.up_embed.weight.data.zero_()
    model.generation_config = dense.generation_config
    return model.eval()


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(upcycle, ModelArguments, UpcycleArguments, args=args)
