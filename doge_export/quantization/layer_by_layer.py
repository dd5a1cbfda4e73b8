"""Rounding a whole model with GPTQ, layer after layer: each sees inputs that come from layers rounded already."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from doge_model.classification import AnyDoge
from doge_model.modeling import DogeDecoderLayer

from ..graph import Dimensions, FoldedDecoder, Matrix, Part, Plan, unfold
from ..graph.blocks import choose_block_size, quantize_blocks
from ..graph.matmul import stored_values
from ..recipes import WIDE_BITS
from .gptq import gptq, nearest
from .rounding import rows_by_role
from .sensitivity import NARROW_BITS, Rows

Rotary = tuple[Tensor, Tensor]  # cosines and sines of the positions, float32 [1, S, head_dim] each


def attention_sublayer(layer: DogeDecoderLayer, hidden: Tensor, rotary: Rotary) -> Tensor:
    """The first half of a layer: float32 [1, S, hidden] -> the same shape."""
    out: Tensor = layer.self_attn(layer.input_layernorm(hidden), rotary, None, None)[0]
    return layer.input_residual * hidden + out


def feed_forward_sublayer(layer: DogeDecoderLayer, hidden: Tensor, rotary: Rotary) -> Tensor:
    """The second half of a layer: float32 [1, S, hidden] -> the same shape."""
    out = layer.mlp(layer.post_attention_layernorm(hidden))
    fed: Tensor = out[0] if isinstance(out, tuple) else out
    return layer.post_attention_residual * hidden + fed


@dataclass(frozen=True)
class Sublayer:
    """Attention or feed-forward of a layer, with its norm and residual.

    Attributes:
        run: computes it, float32 [1, S, hidden] -> the same shape.
        norm: the module whose output is the input of the first matrix.
        first, last: its two matrices by their names in the graph; `last` is a module by that name too.
    """

    run: Callable[[DogeDecoderLayer, Tensor, Rotary], Tensor]
    norm: str
    first: str
    last: str


SUBLAYERS = (
    Sublayer(attention_sublayer, "input_layernorm", "self_attn.qkv_proj", "self_attn.o_proj"),
    Sublayer(feed_forward_sublayer, "post_attention_layernorm", "mlp.gate_up_proj", "mlp.down_proj"),
)


@torch.inference_mode()
def calibrated_plan(
    model: AnyDoge,
    folded: FoldedDecoder,
    wide: set[Rows],
    sequences: Tensor,
    progress: Callable[[str], None],
) -> Plan:
    """Round every matrix: rows in `wide` to 8 bits, other rows of layers (and an untied embedding) to 4.

    sequences: int64 [N, S] tokens, which give each layer its inputs. The model stays as it is.
    """
    model, matrices, d = copy.deepcopy(model), folded.matrices, folded.dimensions
    plan = {storage: table_parts(storage, matrix, wide) for storage, matrix in matrices.items() if is_table(matrix)}
    give_stored_numbers(model, folded, plan)

    def round_matrix(storage: str, inputs: list[Tensor]) -> None:
        moments = graph_moments(d, storage, input_moments(inputs))
        plan[storage] = gptq_parts(storage, matrices, moments, wide)
        give_stored_numbers(model, folded, {storage: plan[storage]})

    hidden = [model.model.embed_tokens(ids[None]) for ids in sequences]
    rotary = model.model.rotary_emb(torch.arange(sequences.shape[1])[None])
    for index, layer in enumerate(model.model.layers):
        assert isinstance(layer, DogeDecoderLayer)
        progress(f"rounding layer {index + 1} of {d.num_layers}")
        for sublayer in SUBLAYERS:
            round_matrix(f"layers.{index}.{sublayer.first}", [layer.get_submodule(sublayer.norm)(x) for x in hidden])
            outs = run_watched(layer, sublayer, hidden, rotary)
            round_matrix(f"layers.{index}.{sublayer.last}", [out.inner for out in outs])
            last = layer.get_submodule(sublayer.last)
            hidden = [out.whole - out.last + last(out.inner) for out in outs]
    return plan


@dataclass(frozen=True)
class SublayerOutput:
    """A sublayer's output for a sequence, and its last matrix's part in it: float32 [1, S, width] each.

    With the three of them the last matrix is exchanged without a second run.
    """

    whole: Tensor
    inner: Tensor  # the last matrix's input
    last: Tensor  # its output


def run_watched(
    layer: DogeDecoderLayer, sublayer: Sublayer, hidden: Iterable[Tensor], rotary: Rotary
) -> list[SublayerOutput]:
    """Run a sublayer on each sequence's float32 [1, S, hidden]."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(module: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.append((inputs[0], output))

    hook = layer.get_submodule(sublayer.last).register_forward_hook(watch)
    try:
        outs = [sublayer.run(layer, x, rotary) for x in hidden]
    finally:
        hook.remove()
    return [SublayerOutput(whole, *last) for whole, last in zip(outs, seen, strict=True)]


def is_table(matrix: Matrix) -> bool:
    """Whether a matrix belongs to no linear map of a layer."""
    return not {"embedding", "output", "experts"}.isdisjoint(matrix.roles)


def table_parts(storage: str, matrix: Matrix, wide: set[Rows]) -> tuple[Part, ...]:
    """A table in 8 bits; an embedding that is not the output matrix too in 4 unless it is in `wide`."""
    (role,) = matrix.roles
    if role != "embedding" or Rows(storage, role) in wide:
        return (quantize_blocks(matrix.weight, float16=True),)
    return (nearest(torch.from_numpy(matrix.weight), NARROW_BITS, choose_block_size(matrix.weight.shape[1], 4)),)


def input_moments(inputs: list[Tensor]) -> Tensor:
    """Mean of x x^T over all rows of a matrix's inputs, float32 [1, S, in] each: float32 [in, in]."""
    rows = [x.flatten(0, -2) for x in inputs]
    total: Tensor = sum((x.T @ x for x in rows), torch.zeros(()))
    return total / sum(map(len, rows))


def graph_moments(d: Dimensions, storage: str, moments: Tensor) -> Tensor:
    """Moments of a matrix's inputs in the graph, float32 [in, in], from those in PyTorch.

    They differ for o_proj: attention's output in the graph has extra channels, which are zero.
    """
    if not storage.endswith("self_attn.o_proj") or not d.extra_channels:
        return moments
    heads = torch.arange(d.num_heads)[:, None] * d.channels + torch.arange(d.head_dim)
    places, size = heads.flatten(), d.num_heads * d.channels
    with_extra_channels = torch.zeros(size, size)
    with_extra_channels[places[:, None], places] = moments
    return with_extra_channels


def gptq_parts(storage: str, matrices: Mapping[str, Matrix], moments: Tensor, wide: set[Rows]) -> tuple[Part, ...]:
    """A matrix in one part for each run of rows with the same bits; moments: of its inputs, float32 [in, in]."""
    width = matrices[storage].weight.shape[1]
    runs = groupby(
        rows_by_role(matrices[storage]).items(),
        lambda item: WIDE_BITS if Rows(storage, item[0]) in wide else NARROW_BITS,
    )
    return tuple(
        gptq(torch.from_numpy(np.concatenate([rows for _, rows in run])), moments, bits, choose_block_size(width, bits))
        for bits, run in runs
    )


def give_stored_numbers(model: AnyDoge, folded: FoldedDecoder, plan: Plan) -> None:
    """Give a PyTorch model the numbers that a plan stores for some of its matrices."""
    for storage, parts in plan.items():
        values = stored_values(parts, folded.matrices[storage].weight.shape[1])
        for name, tensor in unfold(folded.dimensions, storage, values).items():
            model.get_parameter(name).data.copy_(torch.from_numpy(tensor))
