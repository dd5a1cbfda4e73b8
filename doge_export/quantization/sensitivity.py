"""The matrices that need more bits: those whose rounding to 4 bits changes the model's predictions most.

Rounding a matrix moves its outputs by d. To second order that moves the distribution of the next token by a divergence
of E[(g . d)^2] / 2. Here g is the gradient of the log-likelihood of a token drawn from the model itself (the Fisher
information). So one pass backwards over a few sequences measures all matrices at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from doge_model import DogeForCausalLM
from doge_model.classification import AnyDoge
from doge_model.labels import MULTI_LABEL, REGRESSION

from ..graph import Matrix
from ..graph.blocks import choose_block_size
from ..recipes import LEAST_BITS, MOST_BITS, WIDE_BITS
from .gptq import nearest

PROJECTIONS = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "gate_proj": "gate_up",
    "up_proj": "gate_up",
    "down_proj": "down",
}
STORAGES = {"q": "self_attn.qkv_proj", "k": "self_attn.qkv_proj", "v": "self_attn.qkv_proj"} | {
    "o": "self_attn.o_proj",
    "gate_up": "mlp.gate_up_proj",
    "down": "mlp.down_proj",
}
NARROW_BITS = 4


@dataclass(frozen=True)
class Rows:
    """Rows of a stored matrix that are rounded alike: the matrix's storage and the rows' role."""

    storage: str
    role: str


def rounding_losses(model: AnyDoge, sequences: Tensor, seed: int) -> dict[Rows, float]:
    """Kullback-Leibler divergence, nats per token, that rounding rows to the nearest 4 bits is expected to cost.

    sequences: int64 [N, S]. An untied embedding is among the rows. The model is left as it was, without gradients.
    """
    losses: dict[Rows, float] = defaultdict(float)
    generator = torch.Generator().manual_seed(seed)
    with without_gradients(model), watched(model, losses):
        for ids in sequences:
            embedded = model.model.embed_tokens(ids[None]).requires_grad_()
            hidden = model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state[0]
            surprise(model, hidden, generator).backward()  # type: ignore[no-untyped-call]  # torch's
            if embedding_is_apart(model):
                assert embedded.grad is not None
                change = rounding_error(embedded.detach()[0])
                losses[Rows("embed_tokens", "embedding")] += half_square(change, embedded.grad[0])
    return {rows: loss / sequences.numel() for rows, loss in losses.items()}


def surprise(model: AnyDoge, hidden: Tensor, generator: torch.Generator) -> Tensor:
    """The negative log-likelihood of tokens or labels that the model itself draws: hidden [S, hidden] -> [].

    A classifier draws labels, as if a text ended at each of its tokens, and a regression numbers of variance 1.
    """
    if isinstance(model, DogeForCausalLM):
        logits: Tensor = model.lm_head(hidden)
    else:
        logits, problem = model.score(hidden), model.config.problem_type
        fixed = logits.detach()
        if problem == REGRESSION:
            drawn = fixed + torch.randn(fixed.shape, generator=generator)
            return F.mse_loss(logits, drawn, reduction="sum") / 2
        if problem == MULTI_LABEL:
            drawn = torch.bernoulli(fixed.sigmoid(), generator=generator)
            return F.binary_cross_entropy_with_logits(logits, drawn, reduction="sum")
    drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
    return F.cross_entropy(logits, drawn, reduction="sum")


def embedding_is_apart(model: AnyDoge) -> bool:
    """Whether the embedding is not the output matrix too."""
    return not isinstance(model, DogeForCausalLM) or not model.config.tie_word_embeddings


@contextmanager
def without_gradients(model: AnyDoge) -> Iterator[None]:
    """No parameter gets a gradient within the block; afterwards each asks for one as before."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def watched(model: AnyDoge, losses: dict[Rows, float]) -> Iterator[None]:
    """Within the block, every pass backwards adds to `losses` for each linear map of the layers."""
    with ExitStack() as hooks:
        for index, layer in enumerate(model.model.layers):
            for name, module in layer.named_modules():
                role = PROJECTIONS.get(name.rsplit(".", 1)[-1])
                if role is not None:
                    rows = Rows(f"layers.{index}.{STORAGES[role]}", role)
                    hooks.callback(module.register_forward_hook(watch(losses, rows)).remove)
        yield


def watch(losses: dict[Rows, float], rows: Rows) -> Callable[[Any, tuple[Tensor], Tensor], None]:
    """A forward hook for a linear map, which adds the cost of its rounding as soon as the gradient is known."""

    def forward(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0].detach().float()

        def backward(gradient: Tensor) -> None:
            losses[rows] += half_square(x @ rounding_error(module.weight.detach().float()).T, gradient.float())

        if output.requires_grad:
            output.register_hook(backward)  # type: ignore[no-untyped-call]  # torch's

    return forward


def rounding_error(weight: Tensor) -> Tensor:
    """The change that rounding to the nearest 4 bits makes: float32 [out, in] -> the same shape."""
    block_size = choose_block_size(weight.shape[1], NARROW_BITS)
    rounded = nearest(weight, NARROW_BITS, block_size, search=False).dequantize(weight.shape[1])
    return torch.from_numpy(rounded) - weight


def half_square(change: Tensor, gradient: Tensor) -> float:
    """Sum over tokens of (gradient . change)^2 / 2: float32 [..., n] each."""
    return float((change * gradient).sum(-1).square().sum()) / 2


def choose_wide(
    losses: Mapping[Rows, float], matrices: Mapping[str, Matrix], mean_bits: float, has_mask: bool
) -> set[Rows]:
    """The rows that get WIDE_BITS: those that save the most loss by the byte, as many as a mean number of bits allows.

    mean_bits: over all rows that have a loss, scales and zero points included. With a learned mask the values' rows
    get them in any case, for they decide which keys are kept.
    """
    weights = {
        rows: matrices[rows.storage].roles[rows.role] * matrices[rows.storage].weight.shape[1] for rows in losses
    }
    room = sum(weights.values()) * (mean_bits - stored_bits(NARROW_BITS))
    extra = stored_bits(WIDE_BITS) - stored_bits(NARROW_BITS)
    wide = set()
    for rows in sorted(losses, key=lambda rows: losses[rows] / weights[rows], reverse=True):
        of_mask = has_mask and rows.role == "v"
        if of_mask or weights[rows] * extra <= room:
            room -= weights[rows] * extra
            wide.add(rows)
    return wide


def stored_bits(bits: int) -> float:
    """Of a weight with its share of a block's float16 scale and zero point, in blocks of the usual size."""
    return LEAST_BITS if bits == NARROW_BITS else MOST_BITS
