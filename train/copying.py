"""Weights to begin with, by which attention finds equal tokens and copies them.

Recall needs two heads that fit together: one copies a token into its neighbour, the next finds that copy. From random
weights neither has a gradient before the other is there, and a small model spends thousands of steps on a plateau.
Near identity both are there from the first step (arXiv:2305.09828; for recall arXiv:2410.11135).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from doge_common.errors import OptionError
from doge_model import DogeForCausalLM

from .windows import blocks

COPIED = 0.25  # W_v W_o of a layer is about this times identity, so that a layer adds to its input and keeps it
NOISE = 0.02  # of queries and keys beside the shared matrix
QUIET = 0.1  # factor of matrices that would drown the tokens at first: MLP's output, dt


@torch.no_grad()
def begin_with_copies(model: DogeForCausalLM) -> None:
    """Set the matrices of a new model: W_q W_k^T near identity in all layers but the first, W_v W_o in all of them.

    All others get the size at which a product keeps the length of its input. The first layer's queries and keys stay
    random: it has to find neighbours, not equals.

    Raises:
        OptionError: a head has no keys of its own, or the heads together are not as wide as the model.
    """
    config = model.config
    hidden, heads, width = config.hidden_size, config.num_attention_heads, config.head_dim or 0
    if config.num_key_value_heads != heads or heads * width != hidden:
        raise OptionError(
            f"begin_with_copies is given with {config.num_key_value_heads} key value heads of {heads}; they must be as "
            "many as attention heads"
        )
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(std=hidden**-0.5)
    for index, layer in enumerate(blocks(model)):
        attention = layer.self_attn
        if index:
            shared = turn(hidden)
            for projection in (attention.q_proj, attention.k_proj):
                projection.weight.copy_(shared + NOISE * torch.randn(hidden, hidden))
        copied = turn(hidden) * COPIED**0.5
        attention.v_proj.weight.copy_(copied)
        attention.o_proj.weight.copy_(copied.T)
        for linear in (attention.dt_proj, layer.mlp.down_proj):
            linear.weight.mul_(QUIET)


def turn(size: int) -> Tensor:
    """A random orthogonal matrix [size, size]."""
    return torch.linalg.qr(torch.randn(size, size))[0]
