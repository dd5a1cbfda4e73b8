"""The dynamic mask as channels of queries, keys and values: what they hold, and how it is computed.

A query head has sqrt(head_dim) at the channel of its mask head and 0 elsewhere; a key has dt of each of its mask heads.
Their product, scaled by 1 / sqrt(head_dim) like the rest of the score, is dt. A value carries the precedence of its
key in the channels that keys use for dt: sign(A) z grows with dt = exp(A softplus(z)) and keeps the digits that exp
loses, so it decides which keys stay. It is linear in the layer's input, so rows of the fused projection compute it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .builder import GraphBuilder
from .layout import DecoderLayout

Array = NDArray[np.float32]
MINUS_LARGE = np.float32(-1000)  # exp(MINUS_LARGE * softplus(0)) is 0 in float32
# Attention averages precedence along with the values. o_proj multiplies that by 0, but 8-bit activations share a scale
# with it: scaled by a power of two it keeps its digits and its order, and weighs nothing.
PRECEDENCE_SCALE = np.float32(2.0**-40)


def mask_rows(tensors: Mapping[str, Array], part: str) -> NDArray[np.float64]:
    """The mask logits from the layer's input: dt_proj after v_proj, as one matrix [M, hidden] or bias [M]."""
    rows = tensors["self_attn.dt_proj.weight"].astype(np.float64) @ tensors[f"self_attn.v_proj.{part}"]
    return rows + tensors["self_attn.dt_proj.bias"] if part == "bias" else rows


def mask_width(layout: DecoderLayout) -> int:
    """Mask logits per query or key head: one that is spread over the extra channels, or one for each of them."""
    if not layout.has_mask:
        return 0
    return 1 if layout.mask_channels == 1 else layout.extra_channels


def place_mask_rows(layout: DecoderLayout, mask: Array, width: int) -> Array:
    """Rows of the mask logits for every query and key head: [M, ...] -> [query_key_heads * width, ...].

    With one mask head per kv head every head has one row (`width` 1) that is spread over the extra channels later; with
    one per attention head, every head has a row per extra channel. Query heads have zero rows.
    """
    if not width:
        return mask[:0]
    rows = np.zeros((layout.query_key_heads, width, *mask.shape[1:]), np.float32)
    rows[layout.num_heads :, : layout.mask_channels] = mask.reshape(layout.num_kv_heads, -1, *mask.shape[1:])
    return rows.reshape(-1, *mask.shape[1:])


def precedence_signs(layout: DecoderLayout, a: NDArray[np.floating]) -> Array:
    """What turns mask logits into precedence: float32 [kv heads, mask channels]."""
    return (np.sign(a) * PRECEDENCE_SCALE).astype(np.float32).reshape(layout.num_kv_heads, layout.mask_channels)


def precedence_rows(layout: DecoderLayout, mask: Array, a: NDArray[np.floating]) -> Array:
    """Rows of the extra channels of every value: [M, ...] -> [kv heads, extra_channels, ...]."""
    rows = np.zeros((layout.num_kv_heads, layout.extra_channels, *mask.shape[1:]), np.float32)
    by_head = mask.reshape(layout.num_kv_heads, layout.mask_channels, *mask.shape[1:])
    signs = precedence_signs(layout, a)
    rows[:, : layout.mask_channels] = by_head * signs.reshape(*signs.shape, *[1] * (mask.ndim - 1))
    return rows


def mask_exponents(layout: DecoderLayout, a: NDArray[np.floating]) -> Array:
    """Factors f so that exp(f * softplus(mask logit)) is what each extra channel holds: [query_key_heads, extra].

    Keys: dt = exp(A softplus(z)). Queries have z = 0, softplus(0) = ln 2: sqrt(d) at the channel of their own mask head
    and 0 elsewhere. Unused channels of keys are harmless because the queries hold 0 there.
    """
    heads, kv_heads, used = layout.num_heads, layout.num_kv_heads, layout.mask_channels
    factors = np.full((layout.query_key_heads, layout.extra_channels), MINUS_LARGE)
    channel = np.arange(heads) % (heads // kv_heads) % used
    factors[np.arange(heads), channel] = math.log(math.sqrt(layout.head_dim)) / math.log(2)
    factors[heads:] = 0
    factors[heads:, :used] = a.reshape(kv_heads, used)
    return factors


def mask_channels(
    graph: GraphBuilder, layout: DecoderLayout, name: str, logits: str, tensors: Mapping[str, Array]
) -> str:
    """Mask logits [N, query_key_heads, width] -> extra channels [N, query_key_heads, extra_channels].

    softplus, then exp: the shorter sigmoid(-z)^(-A) loses up to 2% at |z| of 12 and all digits from 18 on, because
    onnxruntime's Sigmoid is clamped (measured with 1.32).
    """
    (softplus,) = graph.op("Softplus", [logits], f"{name}.softplus")
    factors = graph.constant(f"{name}.A", mask_exponents(layout, tensors["self_attn.A"]))
    (exponent,) = graph.op("Mul", [softplus, factors], f"{name}.exponent")
    (channels,) = graph.op("Exp", [exponent], f"{name}.dt")
    return channels


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


def look_up_logits(graph: GraphBuilder, layout: DecoderLayout) -> str:
    """The first layer's mask logits from the table: [N, kv heads, mask channels], N = B * S."""
    (logits,) = graph.op("Gather", ["first_layer_logits", "input_ids"], "first_layer.logits", axis=0)
    shape = graph.constant("first_layer.shape", np.array([-1, layout.num_kv_heads, layout.mask_channels]))
    (rows,) = graph.op("Reshape", [logits, shape], "first_layer.rows")
    return rows


def pad_logits(graph: GraphBuilder, layout: DecoderLayout, logits: str) -> str:
    """Looked up logits for the keys, zero for the queries: -> [N, query_key_heads, width]."""
    pads = np.array([0, layout.num_heads, 0, 0, 0, mask_width(layout) - layout.mask_channels])
    (padded,) = graph.op("Pad", [logits, graph.constant("first_layer.pads", pads)], "first_layer.padded")
    return padded


def append_precedence(
    graph: GraphBuilder, layout: DecoderLayout, logits: str, value: str, tensors: Mapping[str, Array]
) -> str:
    """The first layer's values with their extra channels: [B, S, kv heads * head_dim] -> [B, S, kv heads * channels]."""
    signs = graph.constant("first_layer.signs", precedence_signs(layout, tensors["self_attn.A"]))
    (precedence,) = graph.op("Mul", [logits, signs], "first_layer.precedence")
    heads = graph.constant("first_layer.value.shape", np.array([-1, layout.num_kv_heads, layout.head_dim]))
    (rows,) = graph.op("Reshape", [value, heads], "first_layer.value.rows")
    (used,) = graph.op("Concat", [rows, precedence], "first_layer.value.used", axis=-1)
    pads = np.array([0] * 5 + [layout.extra_channels - layout.mask_channels])
    (wide,) = graph.op("Pad", [used, graph.constant("first_layer.value.pads", pads)], "first_layer.value.wide")
    (flat,) = graph.op("Reshape", [wide, "rows.shape"], "first_layer.value")
    return flat


def new_precedence(graph: GraphBuilder, layout: DecoderLayout, name: str, value: str) -> str:
    """Of the new keys per cache head: values [1, S, kv heads * channels] -> [cache heads, S].

    Without a mask all are equal, 0.
    """
    if not layout.has_mask:
        heads = graph.constant("eviction.heads", np.array([layout.cache_heads]))
        (shape,) = graph.op("Concat", [heads, "eviction.length"], f"{name}.shape", axis=0)
        zero = graph.constant("eviction.zero", np.array(0, np.float32))
        (zeros,) = graph.op("Expand", [zero, shape], name)
        return zeros
    channels = np.arange(layout.num_kv_heads)[:, None] * layout.channels + layout.head_dim
    channels = (channels + np.arange(layout.mask_channels)).reshape(-1)  # one per cache head
    (rows,) = graph.op("Gather", [value, graph.constant("precedence.channels", channels)], f"{name}.rows", axis=2)
    (columns,) = graph.op("Transpose", [rows], f"{name}.columns", perm=[0, 2, 1])
    (by_head,) = graph.op("Squeeze", [columns, graph.constant("axis.0", np.array([0]))], name)
    return by_head
