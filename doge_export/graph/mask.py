"""The dynamic mask as channels of queries and keys: what they hold, and how it is computed.

A query head has sqrt(head_dim) at the channel of its mask head and 0 elsewhere; a key has dt of each of its mask heads.
Their product, scaled by 1 / sqrt(head_dim) like the rest of the score, is dt.
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
    """Mask logits per query or key head in the fused projection."""
    if not layout.has_mask:
        return 0
    return 1 if layout.mask_channels == 1 else layout.extra_channels


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
    graph: GraphBuilder, layout: DecoderLayout, name: str, mask_logits: str, tensors: Mapping[str, Array]
) -> str:
    """The extra channels, from the mask logits: [B, S, query_key_heads * width] -> [B, S, query_key_heads, extra].

    softplus, then exp: the shorter sigmoid(-z)^(-A) loses up to 2% at |z| of 12 and all digits from 18 on, because
    onnxruntime's Sigmoid is clamped (measured with 1.32).
    """
    logits = per_head(graph, layout, f"{name}.mask_logits", mask_logits, mask_width(layout))
    (softplus,) = graph.op("Softplus", [logits], f"{name}.softplus")
    factors = graph.constant(f"{name}.A", mask_exponents(layout, tensors["self_attn.A"]))
    (exponent,) = graph.op("Mul", [softplus, factors], f"{name}.exponent")
    (extra,) = graph.op("Exp", [exponent], f"{name}.dt")
    return extra


def first_layer_dt(layout: DecoderLayout, tensors: Mapping[str, Array], embedding: Array) -> Array:
    """dt of every token of the vocabulary in the first layer, where a value depends on the token alone: [vocab, M].

    Computed in float64. Repeated tokens must tie to the last bit there, or chance decides which of them stays, and
    operators do not promise that (vectorised ones round the last elements of an array differently from the first).
    """
    weight, norm = mask_rows(tensors, "weight"), tensors["input_layernorm.weight"].astype(np.float64)
    bias = mask_rows(tensors, "bias") if "self_attn.dt_proj.bias" in tensors else 0.0
    blocks = []
    for start in range(0, len(embedding), 4096):  # bounds the memory that float64 takes
        rows = embedding[start : start + 4096].astype(np.float64)
        rows *= norm / np.sqrt(np.mean(rows**2, axis=1, keepdims=True) + layout.rms_norm_eps)
        blocks.append(np.exp(tensors["self_attn.A"] * np.logaddexp(0, rows @ weight.T + bias)))
    return np.concatenate(blocks).astype(np.float32)


def first_layer_channels(graph: GraphBuilder, layout: DecoderLayout) -> str:
    """The extra channels of the first layer, looked up: -> [B, S, query_key_heads, extra]."""
    (dt,) = graph.op("Gather", ["first_layer_dt", "input_ids"], "first_layer.dt", axis=0)
    shape = np.array([0, 0, layout.num_kv_heads, layout.mask_channels])
    (keys,) = graph.op("Reshape", [dt, graph.constant("first_layer.shape", shape)], "first_layer.keys")
    pads = np.array([0, 0, layout.num_heads, 0, 0, 0, 0, layout.extra_channels - layout.mask_channels])
    (padded,) = graph.op("Pad", [keys, graph.constant("first_layer.pads", pads)], "first_layer.padded")
    queries = np.exp(mask_exponents(layout, np.zeros(layout.num_mask_heads)) * np.log(2)).astype(np.float32)
    queries[layout.num_heads :] = 0
    (extra,) = graph.op("Add", [padded, graph.constant("first_layer.queries", queries)], "first_layer.channels")
    return extra


def widen_heads(graph: GraphBuilder, layout: DecoderLayout, name: str, query_key: str, extra: str) -> str:
    """Append the extra channels, or zeros where the mask needs none, to every head: flat rows -> flat rows."""
    if not layout.extra_channels:
        return query_key
    heads = per_head(graph, layout, f"{name}.rotated.heads", query_key, layout.head_dim)
    if extra:
        (wide,) = graph.op("Concat", [heads, extra], f"{name}.wide", axis=-1)
    else:
        pads = graph.constant("head_pads", np.array([0] * 7 + [layout.extra_channels], np.int64))
        (wide,) = graph.op("Pad", [heads, pads], f"{name}.wide")
    return flat(graph, layout, f"{name}.wide.flat", wide, layout.channels)


def new_dt(graph: GraphBuilder, layout: DecoderLayout, name: str, extra: str) -> str:
    """dt of the new keys per cache head: extra channels [1, S, query_key_heads, extra] -> [cache heads, S].

    Without a mask every dt is 1.
    """
    if not layout.has_mask:
        heads = graph.constant("eviction.heads", np.array([layout.cache_heads]))
        (shape,) = graph.op("Concat", [heads, "eviction.length"], f"{name}.new_dt.shape", axis=0)
        (ones,) = graph.op("Expand", [graph.constant("eviction.one", np.array(1, np.float32)), shape], f"{name}.new_dt")
        return ones
    starts, ends = [layout.num_heads, 0], [layout.query_key_heads, layout.mask_channels]
    bounds = {"starts": starts, "ends": ends, "axes": [2, 3]}
    inputs = [graph.constant(f"new_dt.{key}", np.array(value)) for key, value in bounds.items()]
    (keys,) = graph.op("Slice", [extra, *inputs], f"{name}.new_dt.keys")
    (rows,) = graph.op(
        "Reshape", [keys, graph.constant("new_dt.shape", np.array([-1, layout.cache_heads]))], f"{name}.new_dt.rows"
    )
    (dt,) = graph.op("Transpose", [rows], f"{name}.new_dt", perm=[1, 0])
    return dt
