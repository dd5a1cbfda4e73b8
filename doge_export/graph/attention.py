"""Dynamic mask attention as one product, a rotation and onnxruntime's GroupQueryAttention.

The mask adds dt_j to the score of key j. That is one more channel of a dot product: q' = [q, sqrt(d)], k' = [k, dt],
so the attention itself is plain causal attention and the state is plain keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .builder import MICROSOFT, GraphBuilder
from .eviction import eviction_bias
from .layout import DecoderLayout
from .weight_formats import WeightFormat

Array = NDArray[np.float32]
MINUS_LARGE = np.float32(-1000)  # exp(MINUS_LARGE * softplus(0)) is 0 in float32


def dynamic_mask_attention(
    graph: GraphBuilder, layout: DecoderLayout, index: int, x: str, tensors: Mapping[str, Array], fmt: WeightFormat
) -> str:
    """x float32 [B, S, hidden] -> [B, S, hidden]; reads past_key_values.{index} and writes present.{index}."""
    name = f"layers.{index}.self_attn"
    weight, bias = fused_projection(layout, tensors)
    projected = fmt.linear(graph, f"{name}.qkv_proj", x, weight, bias)
    query_key, mask_logits, value = split_projection(graph, layout, name, projected)
    if layout.qk_norm:
        query_key = norm_heads(graph, layout, name, query_key, tensors)
    query_key = rotate(graph, layout, name, query_key)
    dt = ""
    if layout.extra_channels:
        query_key, dt = append_mask_channels(graph, layout, name, query_key, mask_logits, tensors)
    query, key = split(graph, f"{name}.heads", query_key, [layout.num_heads, layout.num_kv_heads], layout.channels)
    bias = []
    if layout.recurrent:
        key = per_cache_head(graph, layout, f"{name}.key", key)
        value = per_cache_head(graph, layout, f"{name}.value", value)
        bias = ["", "", "", eviction_bias(graph, layout, index, new_dt(graph, layout, name, dt))]
    past = [f"past_key_values.{index}.{part}" for part in ("key", "value")]
    present = [f"present.{index}.{part}" for part in ("key", "value")]
    graph.node(
        "GroupQueryAttention",
        [query, key, value, *past, "seqlens_k", "total_sequence_length", *bias],
        [f"{name}.attention", *present],
        MICROSOFT,
        num_heads=layout.num_heads,
        kv_num_heads=layout.cache_heads,
        scale=layout.head_dim**-0.5,
    )
    return fmt.linear(
        graph, f"{name}.o_proj", f"{name}.attention", pad_output(layout, tensors), tensors.get("self_attn.o_proj.bias")
    )


def fused_projection(layout: DecoderLayout, tensors: Mapping[str, Array]) -> tuple[Array, Array | None]:
    """One matrix for everything that is linear in x: rows of q and k, of the mask, of v padded to `channels`.

    dt_proj is applied to the values, so its rows are W_dt W_v (and its bias W_dt b_v + b_dt).
    """
    weight = _stack_rows(layout, tensors, "weight")
    bias = _stack_rows(layout, tensors, "bias") if "self_attn.v_proj.bias" in tensors else None
    return weight, bias


def _stack_rows(layout: DecoderLayout, tensors: Mapping[str, Array], part: str) -> Array:
    q, k, v = (tensors[f"self_attn.{proj}_proj.{part}"] for proj in "qkv")
    mask = tensors["self_attn.dt_proj.weight"].astype(np.float64) @ v  # float64: equal tokens must give equal dt
    if part == "bias":
        mask = mask + tensors["self_attn.dt_proj.bias"]
    return np.concatenate([q, k, place_mask_rows(layout, mask.astype(np.float32)), pad_heads(layout, v)])


def place_mask_rows(layout: DecoderLayout, mask: Array) -> Array:
    """Rows of the mask logits for every query and key head: [M, ...] -> [query_key_heads * width, ...].

    With one mask head per kv head every head has one row (`width` 1) that is spread over the extra channels later; with
    one per attention head, every head has a row per extra channel. Query heads have zero rows.
    """
    if not layout.has_mask:
        return mask[:0]
    width = mask_width(layout)
    rows = np.zeros((layout.query_key_heads, width, *mask.shape[1:]), np.float32)
    rows[layout.num_heads :, : layout.mask_channels] = mask.reshape(layout.num_kv_heads, -1, *mask.shape[1:])
    return rows.reshape(-1, *mask.shape[1:])


def mask_width(layout: DecoderLayout) -> int:
    """Mask logits per query or key head in the fused projection."""
    if not layout.has_mask:
        return 0
    return 1 if layout.mask_channels == 1 else layout.extra_channels


def mask_exponents(layout: DecoderLayout, a: Array) -> Array:
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


def pad_heads(layout: DecoderLayout, rows: Array) -> Array:
    """Rows of kv heads padded from head_dim to `channels`: [G * d, ...] -> [G * channels, ...]."""
    heads = rows.reshape(layout.num_kv_heads, layout.head_dim, *rows.shape[1:])
    padding = [(0, 0), (0, layout.channels - layout.head_dim)] + [(0, 0)] * (rows.ndim - 1)
    return np.pad(heads, padding).reshape(-1, *rows.shape[1:])


def pad_output(layout: DecoderLayout, tensors: Mapping[str, Array]) -> Array:
    """o_proj with zero columns for the padding that comes along with the values: [hidden, H * channels]."""
    weight = tensors["self_attn.o_proj.weight"]
    heads = weight.reshape(-1, layout.num_heads, layout.head_dim)
    padded = np.pad(heads, ((0, 0), (0, 0), (0, layout.channels - layout.head_dim)))
    return padded.reshape(len(weight), -1)


def split_projection(graph: GraphBuilder, layout: DecoderLayout, name: str, projected: str) -> tuple[str, str, str]:
    """The parts of the fused projection: queries and keys, mask logits ("" without a mask), values."""
    sizes = [
        layout.query_key_heads * layout.head_dim,
        layout.query_key_heads * mask_width(layout),
        layout.num_kv_heads * layout.channels,
    ]
    if layout.has_mask:
        query_key, mask_logits, value = split(graph, f"{name}.parts", projected, sizes)
        return query_key, mask_logits, value
    query_key, value = split(graph, f"{name}.parts", projected, [sizes[0], sizes[2]])
    return query_key, "", value


def split(graph: GraphBuilder, name: str, x: str, sizes: list[int], unit: int = 1) -> list[str]:
    """Split the last axis into parts of sizes * unit."""
    lengths = graph.constant(f"{name}.sizes", np.array(sizes, np.int64) * unit)
    return graph.op("Split", [x, lengths], name, outputs=len(sizes), axis=-1)


def per_head(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, width: int) -> str:
    """[B, S, heads * width] -> [B, S, heads, width]; 0 copies a dimension."""
    shape = graph.constant(f"{name}.shape", np.array([0, 0, layout.query_key_heads, width], np.int64))
    (y,) = graph.op("Reshape", [x, shape], name)
    return y


def flat(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, width: int) -> str:
    """[B, S, heads, width] -> [B, S, heads * width]."""
    shape = graph.constant(f"{name}.shape", np.array([0, 0, layout.query_key_heads * width], np.int64))
    (y,) = graph.op("Reshape", [x, shape], name)
    return y


def norm_heads(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, tensors: Mapping[str, Array]) -> str:
    """q norm and k norm at once: one norm per head, then the learned weights of both as one factor."""
    heads = per_head(graph, layout, f"{name}.unnormed", x, layout.head_dim)
    ones = graph.constant("head_norm.ones", np.ones(layout.head_dim, np.float32))
    (normed,) = graph.op(
        "SimplifiedLayerNormalization", [heads, ones], f"{name}.norm", axis=-1, epsilon=layout.rms_norm_eps, stash_type=1
    )
    q_norm, k_norm = tensors["self_attn.q_norm.weight"], tensors["self_attn.k_norm.weight"]
    factors = np.stack([q_norm] * layout.num_heads + [k_norm] * layout.num_kv_heads)
    (y,) = graph.op("Mul", [normed, graph.constant(f"{name}.norm.weight", factors)], f"{name}.normed")
    return flat(graph, layout, f"{name}.normed.flat", y, layout.head_dim)


def rotate(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str) -> str:
    """Rotary embedding of all query and key heads; the recurrent table has a row per new token, from row 0 on."""
    rows = graph.constant("rotary.first_row", np.array([0])) if layout.recurrent else "position_ids"
    (y,) = graph.op(
        "RotaryEmbedding",
        [x, rows, "rotary.cos", "rotary.sin"],
        f"{name}.rotated",
        domain=MICROSOFT,
        num_heads=layout.query_key_heads,
    )
    return y


def append_mask_channels(
    graph: GraphBuilder, layout: DecoderLayout, name: str, query_key: str, mask_logits: str, tensors: Mapping[str, Array]
) -> tuple[str, str]:
    """Widen every head from head_dim to `channels`: dt for keys, its factor for queries, zeros where nothing is needed.

    Returns the wide heads, flat, and the extra channels alone [B, S, query_key_heads, extra] ("" without a mask).

    softplus, then exp: the shorter sigmoid(-z)^(-A) loses up to 2% at |z| of 12 and all digits from 18 on, because
    onnxruntime's Sigmoid is clamped (measured with 1.32).
    """
    heads = per_head(graph, layout, f"{name}.rotated.heads", query_key, layout.head_dim)
    if layout.has_mask:
        logits = per_head(graph, layout, f"{name}.mask_logits", mask_logits, mask_width(layout))
        (softplus,) = graph.op("Softplus", [logits], f"{name}.softplus")
        factors = graph.constant(f"{name}.A", mask_exponents(layout, tensors["self_attn.A"]))
        (exponent,) = graph.op("Mul", [softplus, factors], f"{name}.exponent")
        (extra,) = graph.op("Exp", [exponent], f"{name}.dt")
        (wide,) = graph.op("Concat", [heads, extra], f"{name}.wide", axis=-1)
    else:
        pads = graph.constant("head_pads", np.array([0] * 7 + [layout.extra_channels], np.int64))
        (wide,), extra = graph.op("Pad", [heads, pads], f"{name}.wide"), ""
    return flat(graph, layout, f"{name}.wide.flat", wide, layout.channels), extra


def per_cache_head(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str) -> str:
    """Copy keys or values for every mask head of their kv head: [B, S, G * channels] -> [B, S, cache heads * channels]."""
    if layout.cache_heads == layout.num_kv_heads:
        return x
    times = layout.cache_heads // layout.num_kv_heads
    apart = graph.constant("cache.kv_heads", np.array([0, 0, layout.num_kv_heads, layout.channels]))
    together = graph.constant("cache.heads", np.array([0, 0, layout.cache_heads * layout.channels]))
    order = graph.constant("cache.order", np.arange(layout.num_kv_heads).repeat(times))
    (heads,) = graph.op("Reshape", [x, apart], f"{name}.kv_heads")
    (copies,) = graph.op("Gather", [heads, order], f"{name}.copies", axis=2)
    (y,) = graph.op("Reshape", [copies, together], f"{name}.cache_heads")
    return y


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
    (rows,) = graph.op("Reshape", [keys, graph.constant("new_dt.shape", np.array([-1, layout.cache_heads]))], f"{name}.new_dt.rows")
    (dt,) = graph.op("Transpose", [rows], f"{name}.new_dt", perm=[1, 0])
    return dt
