"""Dynamic mask attention as one product and onnxruntime's GroupQueryAttention.

The mask adds dt_j to the score of key j. That is one more channel of a dot product: q' = [q, sqrt(d)], k' = [k, dt],
so the attention itself is plain causal attention and the state is plain keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .builder import MICROSOFT, GraphBuilder
from .dimensions import DecoderLayout
from .eviction import eviction_bias
from .kv_scales import scale_names
from .mask import (
    append_precedence,
    gather_precedence,
    look_up_logits,
    mask_channels,
    mask_rows,
    mask_width,
    pad_logits,
    pad_mask_rows,
    precedence_rows,
)
from .matmul import WeightFormat

Array = NDArray[np.float32]
SCALES_FROM = 12  # number of GroupQueryAttention's first scale input


def dynamic_mask_attention(
    graph: GraphBuilder, layout: DecoderLayout, index: int, x: str, tensors: Mapping[str, Array], fmt: WeightFormat
) -> str:
    """x float32 [B, S, hidden] -> [B, S, hidden]; reads past_key_values.{index} and writes present.{index}."""
    name = f"layers.{index}.self_attn"
    first = layout.has_mask and index == 0 and layout.looks_up_first_layer  # its mask logits are looked up
    weight, bias = fused_projection(layout, tensors, first)
    projected = fmt.linear(graph, f"{name}.qkv_proj", x, weight, bias)
    if layout.rotates_inside:
        attended = attend(graph, layout, index, [projected, "", ""])
    else:
        query_key, logits, value = split_projection(graph, layout, name, projected, first)
        if first:
            looked_up = look_up_logits(graph)
            logits = pad_logits(graph, layout, looked_up)
            value = append_precedence(graph, layout, looked_up, value, tensors)
        query_key = finish_heads(graph, layout, name, query_key, logits, tensors)
        query, key = split(graph, f"{name}.heads", query_key, [layout.num_heads, layout.num_kv_heads], layout.channels)
        attended = attend(graph, layout, index, [query, key, value])
    return fmt.linear(
        graph, f"{name}.o_proj", attended, pad_output(layout, tensors), tensors.get("self_attn.o_proj.bias")
    )


def attend(graph: GraphBuilder, layout: DecoderLayout, index: int, query_key_value: list[str]) -> str:
    """Causal attention over the past and the new rows, which it appends to the cache: -> [B, S, heads * channels]."""
    name = f"layers.{index}.self_attn"
    optional: list[str] = []
    if layout.rotates_inside:
        optional = ["rotary.cos", "rotary.sin"]
    if layout.recurrent:
        query, key, value = query_key_value
        bias = eviction_bias(graph, layout, index, value)
        key = per_cache_head(graph, layout, f"{name}.key", key)
        value = per_cache_head(graph, layout, f"{name}.value", value)
        query_key_value, optional = [query, key, value], ["", "", "", bias]
    elif layout.separate_precedence:
        gather_precedence(graph, layout, index, query_key_value[2])
    past = [f"past_key_values.{index}.{part}" for part in ("key", "value")]
    if layout.draft_tokens:
        return attend_one_by_one(graph, layout, index, query_key_value, past, optional)
    inputs = [*query_key_value, *past, "seqlens_k", "total_sequence_length", *optional]
    present = [f"present.{index}.{part}" for part in ("key", "value")]
    return group_query_attention(graph, layout, index, f"{name}.attention", inputs, present)


def attend_one_by_one(
    graph: GraphBuilder,
    layout: DecoderLayout,
    index: int,
    query_key_value: list[str],
    past: list[str],
    optional: list[str],
) -> str:
    """What as many single steps compute, in a chain: the present of one token is the past of the next.

    GroupQueryAttention multiplies several queries in another order than one, and what that changes in the last bit is
    enough to round an 8-bit activation the other way. Every link of the chain is a graph output,
    `present.{index}.key.{j}`, to be bound to the same memory, so that nothing is copied.
    """
    name, count = f"layers.{index}.self_attn", layout.draft_tokens
    lengths = graph.constant("draft.ones", np.ones(count, np.int64))
    parts = [
        graph.op("Split", [x, lengths], f"{name}.drafted.{i}", outputs=count, axis=1) if x else [""] * count
        for i, x in enumerate(query_key_value)
    ]
    rows = []
    for j, rows_of_token in enumerate(zip(*parts, strict=True)):
        last = "" if j == count - 1 else f".{j}"
        present = [f"present.{index}.{part}{last}" for part in ("key", "value")]
        counts = [f"draft.{input_}" + (f".{j}" if j else "") for input_ in ("seqlens_k", "total_sequence_length")]
        inputs = [*rows_of_token, *past, *counts, *optional]
        rows.append(group_query_attention(graph, layout, index, f"{name}.attention.{j}", inputs, present))
        past = present
    (attended,) = graph.op("Concat", rows, f"{name}.attention", axis=1)
    return attended


def group_query_attention(
    graph: GraphBuilder, layout: DecoderLayout, index: int, name: str, inputs: list[str], present: list[str]
) -> str:
    """The operator with this decoder's attributes: -> [B, S, heads * channels], and the present."""
    rounding: dict[str, str | int] = {}
    if layout.kv_int8:
        inputs = [*inputs, *[""] * (SCALES_FROM - len(inputs)), *scale_names(layout, index)]
        rounding = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    graph.node(
        "GroupQueryAttention",
        inputs,
        [name, *present],
        MICROSOFT,
        num_heads=layout.num_heads,
        kv_num_heads=layout.cache_heads,
        scale=layout.head_dim**-0.5,
        do_rotary=int(layout.rotates_inside),
        **rounding,
    )
    return name


def fused_projection(layout: DecoderLayout, tensors: Mapping[str, Array], first: bool) -> tuple[Array, Array | None]:
    """One matrix for everything that is linear in x: q, k, the mask logits, and v with precedence beside it.

    dt_proj is applied to the values, so its rows are W_dt W_v (and its bias W_dt b_v + b_dt). The first layer looks its
    mask logits up and has none of these rows.
    """
    weight = _stack_rows(layout, tensors, first, "weight")
    bias = _stack_rows(layout, tensors, first, "bias") if "self_attn.v_proj.bias" in tensors else None
    return weight, bias


def _stack_rows(layout: DecoderLayout, tensors: Mapping[str, Array], first: bool, part: str) -> Array:
    q, k, v = (tensors[f"self_attn.{proj}_proj.{part}"] for proj in "qkv")
    if first:
        return np.concatenate([q, k, v])
    if not layout.has_mask:
        return np.concatenate([q, k, pad_heads(layout, v)])
    mask = mask_rows(tensors, part).astype(np.float32)
    heads = v.reshape(layout.num_kv_heads, layout.head_dim, *v.shape[1:])
    value = np.concatenate([heads, precedence_rows(layout, mask, tensors)], axis=1)
    return np.concatenate([q, k, pad_mask_rows(layout, mask), value.reshape(-1, *v.shape[1:])])


def pad_heads(layout: DecoderLayout, rows: Array) -> Array:
    """Rows of kv heads padded from head_dim to `channels`: [G * d, ...] -> [G * channels, ...]."""
    heads = rows.reshape(layout.num_kv_heads, layout.head_dim, *rows.shape[1:])
    padding = [(0, 0), (0, layout.extra_channels)] + [(0, 0)] * (rows.ndim - 1)
    return np.pad(heads, padding).reshape(-1, *rows.shape[1:])


def pad_output(layout: DecoderLayout, tensors: Mapping[str, Array]) -> Array:
    """o_proj with zero columns for what comes along with the values: [hidden, H * channels]."""
    weight = tensors["self_attn.o_proj.weight"]
    heads = weight.reshape(-1, layout.num_heads, layout.head_dim)
    padded = np.pad(heads, ((0, 0), (0, 0), (0, layout.extra_channels)))
    return padded.reshape(len(weight), -1)


def split_projection(
    graph: GraphBuilder, layout: DecoderLayout, name: str, projected: str, first: bool
) -> tuple[str, str, str]:
    """The parts of the fused projection: queries and keys, mask logits or "", values."""
    query_key = layout.query_key_heads * layout.head_dim
    width = 0 if first else mask_width(layout)
    value = layout.num_kv_heads * (layout.head_dim if first else layout.channels)
    if not width:
        rows, value_rows = split(graph, f"{name}.parts", projected, [query_key, value])
        return rows, "", value_rows
    rows, mask, value_rows = split(graph, f"{name}.parts", projected, [query_key, width, value])
    return rows, mask, value_rows


def split(graph: GraphBuilder, name: str, x: str, sizes: list[int], unit: int = 1) -> list[str]:
    """Split the last axis into parts of sizes * unit."""
    lengths = graph.constant(f"{name}.sizes", np.array(sizes, np.int64) * unit)
    return graph.op("Split", [x, lengths], name, outputs=len(sizes), axis=-1)


def per_head(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, width: int) -> str:
    """[B, S, heads * width] -> [B * S, heads, width]: a view that costs nothing but a node."""
    shape = graph.constant(f"heads_of_{width}.shape", np.array([-1, layout.query_key_heads, width], np.int64))
    (y,) = graph.op("Reshape", [x, shape], name)
    return y


def finish_heads(
    graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, mask_logits: str, tensors: Mapping[str, Array]
) -> str:
    """Queries and keys normalised, widened and rotated: [B, S, heads * head_dim] -> [B, S, heads * channels].

    The extra channels come last and are not rotated. mask_logits [B, S, mask_width], or "" in a model without mask.
    """
    if layout.qk_norm or layout.extra_channels:
        x = per_head(graph, layout, f"{name}.rows", x, layout.head_dim)
        if layout.qk_norm:
            x = norm_heads(graph, layout, name, x, tensors)
        if layout.extra_channels:
            x = widen_heads(graph, layout, name, x, mask_logits, tensors)
        (x,) = graph.op("Reshape", [x, "rows.shape"], f"{name}.flat")
    return rotate(graph, layout, name, x)


def norm_heads(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, tensors: Mapping[str, Array]) -> str:
    """q norm and k norm at once, [N, heads, head_dim]: one norm per head, then the learned weights of both as a factor.

    A weight with a row per head inside the norm would save the factor, but onnxruntime broadcasts it slowly (measured
    with 1.32: 1.0 against 0.8 microseconds for three heads).
    """
    ones = graph.constant("head_norm.ones", np.ones(layout.head_dim, np.float32))
    (normed,) = graph.op(
        "SimplifiedLayerNormalization",
        [x, ones],
        f"{name}.norm",
        axis=-1,
        epsilon=layout.rms_norm_eps,
        stash_type=1,
    )
    q_norm, k_norm = tensors["self_attn.q_norm.weight"], tensors["self_attn.k_norm.weight"]
    factors = np.stack([q_norm] * layout.num_heads + [k_norm] * layout.num_kv_heads)
    (y,) = graph.op("Mul", [normed, graph.constant(f"{name}.norm.weight", factors)], f"{name}.normed")
    return y


def widen_heads(
    graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, mask_logits: str, tensors: Mapping[str, Array]
) -> str:
    """Append the extra channels, zeros where there is no mask: [N, heads, head_dim] -> [N, heads, channels]."""
    if layout.has_mask:
        extra = mask_channels(graph, layout, name, mask_logits, tensors)
        (wide,) = graph.op("Concat", [x, extra], f"{name}.wide", axis=-1)
    else:
        pads = graph.constant("head_pads", np.array([0] * 5 + [layout.extra_channels], np.int64))
        (wide,) = graph.op("Pad", [x, pads], f"{name}.wide")
    return wide


def rotate(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str) -> str:
    """Rotary embedding of the first head_dim channels of all query and key heads.

    The recurrent table has a row per new token, from row 0 on.
    """
    rows = graph.constant("rotary.first_row", np.array([0])) if layout.recurrent else "position_ids"
    partial = {"rotary_embedding_dim": layout.head_dim} if layout.extra_channels else {}
    (y,) = graph.op(
        "RotaryEmbedding",
        [x, rows, "rotary.cos", "rotary.sin"],
        f"{name}.rotated",
        domain=MICROSOFT,
        num_heads=layout.query_key_heads,
        **partial,
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
