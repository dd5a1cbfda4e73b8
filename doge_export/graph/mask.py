"""The dynamic mask as channels of queries and keys: what they hold, and how it is computed.

A query head has sqrt(head_dim) at the channel of its mask head and 0 elsewhere; a key has dt of each of its mask heads.
Their product, scaled by 1 / sqrt(head_dim) like the rest of the score, is dt. In other channels, which queries multiply
by 0, a key carries its precedence, sign(A) z: it grows with dt = exp(A softplus(z)) and keeps the digits that exp
loses, so it decides which keys stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .builder import GraphBuilder
from .heads import flat, per_head
from .layout import DecoderLayout

Array = NDArray[np.float32]
MINUS_LARGE = np.float32(-1000)  # exp(MINUS_LARGE * softplus(0)) is 0 in float32


def mask_rows(tensors: Mapping[str, Array], part: str) -> NDArray[np.float64]:
    """The mask logits from the layer's input: dt_proj after v_proj, as one matrix [M, hidden] or bias [M]."""
    rows = tensors["self_attn.dt_proj.weight"].astype(np.float64) @ tensors[f"self_attn.v_proj.{part}"]
    return rows + tensors["self_attn.dt_proj.bias"] if part == "bias" else rows


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


def mask_width(layout: DecoderLayout) -> int:
    """Mask logits per query or key head: one that is spread over the channels, or one for each of them."""
    if not layout.has_mask:
        return 0
    return 1 if layout.mask_channels == 1 else layout.half_extra


def mask_exponents(layout: DecoderLayout, a: NDArray[np.floating]) -> Array:
    """Factors f so that exp(f * softplus(mask logit)) is what each dt channel holds: [query_key_heads, half_extra].

    Keys: dt = exp(A softplus(z)). Queries have z = 0, softplus(0) = ln 2: sqrt(d) at the channel of their own mask head
    and 0 elsewhere. Unused channels of keys are harmless because the queries hold 0 there.
    """
    heads, kv_heads, used = layout.num_heads, layout.num_kv_heads, layout.mask_channels
    factors = np.full((layout.query_key_heads, layout.half_extra), MINUS_LARGE)
    channel = np.arange(heads) % (heads // kv_heads) % used
    factors[np.arange(heads), channel] = math.log(math.sqrt(layout.head_dim)) / math.log(2)
    factors[heads:] = 0
    factors[heads:, :used] = a.reshape(kv_heads, used)
    return factors


def precedence_signs(layout: DecoderLayout, a: NDArray[np.floating]) -> Array:
    """Factors f so that f * mask logit is what each precedence channel holds: [query_key_heads, half_extra]."""
    signs = np.zeros((layout.query_key_heads, layout.half_extra), np.float32)
    signs[layout.num_heads :, : layout.mask_channels] = np.sign(a).reshape(layout.num_kv_heads, -1)
    return signs


def mask_channels(
    graph: GraphBuilder, layout: DecoderLayout, name: str, logits: str, tensors: Mapping[str, Array]
) -> list[str]:
    """dt and precedence channels, both [B, S, query_key_heads, half_extra], from logits [B, S, query_key_heads, width].

    softplus, then exp: the shorter sigmoid(-z)^(-A) loses up to 2% at |z| of 12 and all digits from 18 on, because
    onnxruntime's Sigmoid is clamped (measured with 1.32).
    """
    a = tensors["self_attn.A"]
    (softplus,) = graph.op("Softplus", [logits], f"{name}.softplus")
    factors = graph.constant(f"{name}.A", mask_exponents(layout, a))
    (exponent,) = graph.op("Mul", [softplus, factors], f"{name}.exponent")
    (dt,) = graph.op("Exp", [exponent], f"{name}.dt")
    signs = graph.constant(f"{name}.sign_of_A", precedence_signs(layout, a))
    (precedence,) = graph.op("Mul", [logits, signs], f"{name}.precedence")
    return [dt, precedence]


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
    """The first layer's mask logits from the table: -> [B, S, query_key_heads, width], zero for queries."""
    (logits,) = graph.op("Gather", ["first_layer_logits", "input_ids"], "first_layer.logits", axis=0)
    shape = np.array([0, 0, layout.num_kv_heads, layout.mask_channels])
    (keys,) = graph.op("Reshape", [logits, graph.constant("first_layer.shape", shape)], "first_layer.keys")
    pads = np.array([0, 0, layout.num_heads, 0, 0, 0, 0, mask_width(layout) - layout.mask_channels])
    (padded,) = graph.op("Pad", [keys, graph.constant("first_layer.pads", pads)], "first_layer.padded")
    return padded


def widen_heads(graph: GraphBuilder, layout: DecoderLayout, name: str, query_key: str, extra: list[str]) -> str:
    """Append the extra channels, or zeros where the mask needs none, to every head: flat rows -> flat rows."""
    if not layout.extra_channels:
        return query_key
    heads = per_head(graph, layout, f"{name}.rotated.heads", query_key, layout.head_dim)
    if extra:
        (wide,) = graph.op("Concat", [heads, *extra], f"{name}.wide", axis=-1)
    else:
        pads = graph.constant("head_pads", np.array([0] * 7 + [layout.extra_channels], np.int64))
        (wide,) = graph.op("Pad", [heads, pads], f"{name}.wide")
    return flat(graph, layout, f"{name}.wide.flat", wide, layout.channels)


def new_precedence(graph: GraphBuilder, layout: DecoderLayout, name: str, precedence: str) -> str:
    """Of the new keys per cache head: channels [1, S, query_key_heads, half_extra] -> [cache heads, S].

    Without a mask all are equal, 0.
    """
    if not layout.has_mask:
        heads = graph.constant("eviction.heads", np.array([layout.cache_heads]))
        (shape,) = graph.op("Concat", [heads, "eviction.length"], f"{name}.new.shape", axis=0)
        zero = graph.constant("eviction.zero", np.array(0, np.float32))
        (zeros,) = graph.op("Expand", [zero, shape], f"{name}.new")
        return zeros
    starts, ends = [layout.num_heads, 0], [layout.query_key_heads, layout.mask_channels]
    bounds = {"starts": starts, "ends": ends, "axes": [2, 3]}
    inputs = [graph.constant(f"new.{key}", np.array(value)) for key, value in bounds.items()]
    (keys,) = graph.op("Slice", [precedence, *inputs], f"{name}.new.keys")
    shape = graph.constant("new.shape", np.array([-1, layout.cache_heads]))
    (rows,) = graph.op("Reshape", [keys, shape], f"{name}.new.rows")
    (by_head,) = graph.op("Transpose", [rows], f"{name}.new", perm=[1, 0])
    return by_head
