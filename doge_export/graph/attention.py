"""Dynamic mask attention as one product, a rotation and onnxruntime's GroupQueryAttention.

The mask adds dt_j to the score of key j. That is one more channel of a dot product: q' = [q, sqrt(d)], k' = [k, dt],
so the attention itself is plain causal attention and the state is plain keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .builder import MICROSOFT, GraphBuilder
from .eviction import eviction_bias
from .heads import flat, per_head
from .layout import DecoderLayout
from .mask import (
    look_up_logits,
    mask_channels,
    mask_rows,
    mask_width,
    new_precedence,
    place_mask_rows,
    widen_heads,
)
from .weight_formats import WeightFormat

Array = NDArray[np.float32]


def dynamic_mask_attention(
    graph: GraphBuilder, layout: DecoderLayout, index: int, x: str, tensors: Mapping[str, Array], fmt: WeightFormat
) -> str:
    """x float32 [B, S, hidden] -> [B, S, hidden]; reads past_key_values.{index} and writes present.{index}."""
    name = f"layers.{index}.self_attn"
    width = 0 if index == 0 else mask_width(layout)  # the first layer looks its logits up
    weight, bias = fused_projection(layout, tensors, width)
    projected = fmt.linear(graph, f"{name}.qkv_proj", x, weight, bias)
    query_key, mask_logits, value = split_projection(graph, layout, name, projected, width)
    if layout.qk_norm:
        query_key = norm_heads(graph, layout, name, query_key, tensors)
    query_key = rotate(graph, layout, name, query_key)
    extra: list[str] = []
    if layout.has_mask:
        if width:
            logits = per_head(graph, layout, f"{name}.mask_logits", mask_logits, width)
        else:
            logits = look_up_logits(graph, layout)
        extra = mask_channels(graph, layout, name, logits, tensors)
    query_key = widen_heads(graph, layout, name, query_key, extra)
    query, key = split(graph, f"{name}.heads", query_key, [layout.num_heads, layout.num_kv_heads], layout.channels)
    eviction: list[str] = []
    if layout.recurrent:
        key = per_cache_head(graph, layout, f"{name}.key", key)
        value = per_cache_head(graph, layout, f"{name}.value", value)
        precedence = new_precedence(graph, layout, f"{name}.precedence", extra[1] if extra else "")
        eviction = ["", "", "", eviction_bias(graph, layout, index, precedence)]
    past = [f"past_key_values.{index}.{part}" for part in ("key", "value")]
    present = [f"present.{index}.{part}" for part in ("key", "value")]
    graph.node(
        "GroupQueryAttention",
        [query, key, value, *past, "seqlens_k", "total_sequence_length", *eviction],
        [f"{name}.attention", *present],
        MICROSOFT,
        num_heads=layout.num_heads,
        kv_num_heads=layout.cache_heads,
        scale=layout.head_dim**-0.5,
    )
    return fmt.linear(
        graph, f"{name}.o_proj", f"{name}.attention", pad_output(layout, tensors), tensors.get("self_attn.o_proj.bias")
    )


def fused_projection(layout: DecoderLayout, tensors: Mapping[str, Array], width: int) -> tuple[Array, Array | None]:
    """One matrix for everything that is linear in x: rows of q and k, of the mask, of v padded to `channels`.

    width: mask logits per query or key head (see `mask_width`), 0 for none.

    dt_proj is applied to the values, so its rows are W_dt W_v (and its bias W_dt b_v + b_dt).
    """
    weight = _stack_rows(layout, tensors, width, "weight")
    bias = _stack_rows(layout, tensors, width, "bias") if "self_attn.v_proj.bias" in tensors else None
    return weight, bias


def _stack_rows(layout: DecoderLayout, tensors: Mapping[str, Array], width: int, part: str) -> Array:
    q, k, v = (tensors[f"self_attn.{proj}_proj.{part}"] for proj in "qkv")
    mask = mask_rows(tensors, part).astype(np.float32)
    return np.concatenate([q, k, place_mask_rows(layout, mask, width), pad_heads(layout, v)])


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


def split_projection(
    graph: GraphBuilder, layout: DecoderLayout, name: str, projected: str, width: int
) -> tuple[str, str, str]:
    """The parts of the fused projection: queries and keys, mask logits ("" without), values."""
    query_key, value = layout.query_key_heads * layout.head_dim, layout.num_kv_heads * layout.channels
    if not width:
        first, last = split(graph, f"{name}.parts", projected, [query_key, value])
        return first, "", last
    first, mask, last = split(graph, f"{name}.parts", projected, [query_key, layout.query_key_heads * width, value])
    return first, mask, last


def split(graph: GraphBuilder, name: str, x: str, sizes: list[int], unit: int = 1) -> list[str]:
    """Split the last axis into parts of sizes * unit."""
    lengths = graph.constant(f"{name}.sizes", np.array(sizes, np.int64) * unit)
    return graph.op("Split", [x, lengths], name, outputs=len(sizes), axis=-1)


def norm_heads(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, tensors: Mapping[str, Array]) -> str:
    """q norm and k norm at once: one norm per head, then the learned weights of both as one factor."""
    heads = per_head(graph, layout, f"{name}.unnormed", x, layout.head_dim)
    ones = graph.constant("head_norm.ones", np.ones(layout.head_dim, np.float32))
    (normed,) = graph.op(
        "SimplifiedLayerNormalization",
        [heads, ones],
        f"{name}.norm",
        axis=-1,
        epsilon=layout.rms_norm_eps,
        stash_type=1,
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


def per_cache_head(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str) -> str:
    """Copy keys or values for every cache head: [B, S, kv heads * channels] -> [B, S, cache heads * channels]."""
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
