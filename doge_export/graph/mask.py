"""The dynamic mask as channels of queries, keys and values: what they hold, and how it is computed.

A query head has sqrt(head_dim) at the channel of its mask head and 0 elsewhere; a key has dt of each of its mask heads.
Their product, scaled by 1 / sqrt(head_dim) like the rest of the score, is dt. A value carries the precedence of its
key in the channels that keys use for dt: sign(A) z grows with dt = exp(A softplus(z)) and keeps the digits that exp
loses, so it decides which keys stay. It is linear in the layer's input, so rows of the fused projection compute it.
`doge_model.mask.tie_classes` says how it is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .builder import GraphBuilder
from .dimensions import DecoderLayout

Array = NDArray[np.float32]
MINUS_LARGE = np.float32(-1000)  # exp(MINUS_LARGE * softplus(0)) is 0 in float32
VECTOR = 16  # float32 numbers in the widest vectors of today's CPUs (AVX-512)
# Attention averages precedence along with the values. o_proj multiplies that by 0, but 8-bit activations share a scale
# with it: scaled by a power of two it keeps its digits and its order, and weighs nothing.
PRECEDENCE_SCALE = 2.0**-40
LEAST_UNIT = 2.0**-40  # `doge_model.mask.LEAST_UNIT`


def mask_rows(tensors: Mapping[str, Array], part: str) -> NDArray[np.float64]:
    """The mask logits from the layer's input: dt_proj after v_proj, as one matrix [M, hidden] or bias [M]."""
    rows = tensors["self_attn.dt_proj.weight"].astype(np.float64) @ tensors[f"self_attn.v_proj.{part}"]
    return rows + tensors["self_attn.dt_proj.bias"] if part == "bias" else rows


def precedence_units(tensors: Mapping[str, Array]) -> NDArray[np.float64]:
    """The largest power of two that is no larger than mask logits are, [M]: `doge_model.mask.precedence_units`."""
    rows, value = (tensors[f"self_attn.{name}_proj.weight"].astype(np.float64) for name in ("dt", "v"))
    size = np.linalg.norm(rows, axis=1) * np.linalg.norm(value) * len(value) ** -0.5
    power = np.exp2(np.frexp(size)[1] - 1)
    return np.where(power > LEAST_UNIT, power, 1)


def mask_width(layout: DecoderLayout) -> int:
    """Mask logits of a token: one per mask head and a zero, padded to whole vectors of a CPU.

    onnxruntime's Softplus computes what is left over behind the last whole vector by other instructions (1.32), so that
    a token's dt would depend on how many tokens are fed beside it.
    """
    if not layout.has_mask:
        return 0
    return layout.num_mask_heads + 1 + -(layout.num_mask_heads + 1) % VECTOR


def pad_mask_rows(layout: DecoderLayout, mask: Array) -> Array:
    """Rows of the mask logits, zeros behind them: [M, ...] -> [mask_width, ...]."""
    rows: Array = np.pad(mask, [(0, mask_width(layout) - len(mask))] + [(0, 0)] * (mask.ndim - 1))
    return rows


def precedence_factors(layout: DecoderLayout, tensors: Mapping[str, Array]) -> Array:
    """What turns mask logits into precedence: float32 [kv heads, mask channels]."""
    factors = np.sign(tensors["self_attn.A"]) / precedence_units(tensors) * PRECEDENCE_SCALE
    return factors.astype(np.float32).reshape(layout.num_kv_heads, layout.mask_channels)


def precedence_rows(layout: DecoderLayout, mask: Array, tensors: Mapping[str, Array]) -> Array:
    """Rows of the extra channels of every value: [M, ...] -> [kv heads, extra_channels, ...]."""
    rows = np.zeros((layout.num_kv_heads, layout.extra_channels, *mask.shape[1:]), np.float32)
    by_head = mask.reshape(layout.num_kv_heads, layout.mask_channels, *mask.shape[1:])
    factors = precedence_factors(layout, tensors)
    rows[:, : layout.mask_channels] = by_head * factors.reshape(*factors.shape, *[1] * (mask.ndim - 1))
    return rows


def mask_exponents(layout: DecoderLayout, a: NDArray[np.floating]) -> Array:
    """Matrix F so that exp(softplus(mask logits) F) is what the extra channels hold: [mask_width, heads * extra].

    Keys: dt = exp(A softplus(z)), in each of its channels. Queries use the logit that is always 0, softplus(0) = ln 2:
    sqrt(d) at the channels of their own mask head and 0 elsewhere. Unused channels of keys are harmless because the
    queries hold 0 there. A column has one number at most, so the product is exact in any order.
    """
    heads, kv_heads, used = layout.num_heads, layout.num_kv_heads, layout.mask_channels
    factors = np.zeros((mask_width(layout), layout.query_key_heads, layout.extra_channels), np.float32)
    always_zero = layout.num_mask_heads
    factors[always_zero, :heads] = MINUS_LARGE
    channel, digits = np.arange(heads) % (heads // kv_heads) % used, layout.dt_digits
    for digit in range(digits):
        own = channel * digits + digit
        factors[always_zero, np.arange(heads), own] = math.log(math.sqrt(layout.head_dim)) / math.log(2)
        for logit, value in enumerate(a.reshape(-1)):
            factors[logit, heads + logit // used, logit % used * digits + digit] = value
    return factors.reshape(len(factors), -1)


def mask_channels(
    graph: GraphBuilder, layout: DecoderLayout, name: str, logits: str, tensors: Mapping[str, Array]
) -> str:
    """Mask logits [B, S, mask_width] -> extra channels [B * S, query_key_heads, extra_channels].

    softplus, then exp: the shorter sigmoid(-z)^(-A) loses up to 2% at |z| of 12 and all digits from 18 on, because
    onnxruntime's Sigmoid is clamped (measured with 1.32).
    """
    (softplus,) = graph.op("Softplus", [logits], f"{name}.softplus")
    factors = graph.constant(f"{name}.A", mask_exponents(layout, tensors["self_attn.A"]))
    (exponent,) = graph.op("MatMul", [softplus, factors], f"{name}.exponent")
    (channels,) = graph.op("Exp", [exponent], f"{name}.dt")
    shape = graph.constant("extra.shape", np.array([-1, layout.query_key_heads, layout.extra_channels]))
    (rows,) = graph.op("Reshape", [channels, shape], f"{name}.extra")
    return split_dt(graph, name, rows) if layout.kv_int8 else rows


def split_dt(graph: GraphBuilder, name: str, rows: str) -> str:
    """dt in 8 bits: the first of its two channels will be rounded to whole steps, the second gets what that leaves.

    A step is a power of two, so that this division and the one that rounds the cache find the same number of them.
    Channels of queries, [B * S, query_key_heads, extra_channels] as all of rows, have an inverse of 0 and stay.
    """
    inverse, step = (f"{name}.dt_{part}" for part in ("inverses", "steps"))
    (counted,) = graph.op("Mul", [rows, inverse], f"{name}.dt.steps")
    (whole,) = graph.op("Round", [counted], f"{name}.dt.whole")
    (coarse,) = graph.op("Mul", [whole, step], f"{name}.dt.coarse")
    (split,) = graph.op("Sub", [rows, coarse], f"{name}.dt.split")
    return split


def first_layer_logits(layout: DecoderLayout, tensors: Mapping[str, Array], embedding: Array) -> Array:
    """Mask logits of every token of the vocabulary in the first layer, where a value depends on the token alone.

    float32 [vocab, M], computed in float64. Repeated tokens must tie to the last bit there, or chance decides which of
    them stays, and matrix products do not promise that for every machine and every length of a chunk.
    """
    weight, norm = mask_rows(tensors, "weight"), tensors["input_layernorm.weight"].astype(np.float64)
    bias = mask_rows(tensors, "bias") if "self_attn.dt_proj.bias" in tensors else 0.0
    blocks = []
    for start in range(0, len(embedding), 4096):  # bounds the memory that float64 takes
        rows = embedding[start : start + 4096].astype(np.float64)
        rows *= norm / np.sqrt(np.mean(rows**2, axis=1, keepdims=True) + layout.rms_norm_eps)
        blocks.append(rows @ weight.T + bias)
    return np.concatenate(blocks).astype(np.float32)


def look_up_logits(graph: GraphBuilder) -> str:
    """The first layer's mask logits from the table: [B, S, M]."""
    (logits,) = graph.op("Gather", ["first_layer_logits", "input_ids"], "first_layer.logits", axis=0)
    return logits


def pad_logits(graph: GraphBuilder, layout: DecoderLayout, logits: str) -> str:
    """Looked up logits [B, S, M], zeros behind them: -> [B, S, mask_width]."""
    pads = np.array([0, 0, 0, 0, 0, mask_width(layout) - layout.num_mask_heads])
    (padded,) = graph.op("Pad", [logits, graph.constant("first_layer.pads", pads)], "first_layer.padded")
    return padded


def append_precedence(
    graph: GraphBuilder, layout: DecoderLayout, logits: str, value: str, tensors: Mapping[str, Array]
) -> str:
    """The first layer's values, widened: [B, S, kv heads * head_dim] -> [B, S, kv heads * channels]."""
    shape = graph.constant("first_layer.shape", np.array([-1, layout.num_kv_heads, layout.mask_channels]))
    (by_head,) = graph.op("Reshape", [logits, shape], "first_layer.by_head")
    factors = graph.constant("first_layer.factors", precedence_factors(layout, tensors))
    (precedence,) = graph.op("Mul", [by_head, factors], "first_layer.precedence")
    heads = graph.constant("first_layer.value.shape", np.array([-1, layout.num_kv_heads, layout.head_dim]))
    (rows,) = graph.op("Reshape", [value, heads], "first_layer.value.rows")
    (used,) = graph.op("Concat", [rows, precedence], "first_layer.value.used", axis=-1)
    pads = np.array([0] * 5 + [layout.extra_channels - layout.mask_channels])
    (wide,) = graph.op("Pad", [used, graph.constant("first_layer.value.pads", pads)], "first_layer.value.wide")
    (flat,) = graph.op("Reshape", [wide, "rows.shape"], "first_layer.value")
    return flat


def gather_precedence(graph: GraphBuilder, layout: DecoderLayout, index: int, value: str) -> str:
    """Precedence of the new keys, of every mask head: values [B, S, kv heads * channels] -> [B, S, M].

    An output of the graph where the cache has no room for it, `new_precedence.{index}`.
    """
    channels = np.arange(layout.num_kv_heads)[:, None] * layout.channels + layout.head_dim
    channels = (channels + np.arange(layout.mask_channels)).reshape(-1)
    (rows,) = graph.op(
        "Gather", [value, graph.constant("precedence.channels", channels)], f"new_precedence.{index}", axis=2
    )
    return rows


def new_precedence(graph: GraphBuilder, layout: DecoderLayout, index: int, name: str, value: str) -> tuple[str, str]:
    """Of the new keys per cache head, as a column and as a row.

    values [1, S, kv heads * channels] -> [1, cache heads, S, 1] and [1, cache heads, 1, S].
    """
    rows = gather_precedence(graph, layout, index, value)
    (by_head,) = graph.op("Transpose", [rows], name, perm=[0, 2, 1])
    (column,) = graph.op("Unsqueeze", [by_head, graph.constant("axis.last", np.array([-1]))], f"{name}.column")
    (row,) = graph.op("Unsqueeze", [by_head, graph.constant("axis.before_last", np.array([-2]))], f"{name}.row")
    return column, row
