"""Queries behind the window's length see the sinks as from its last position: distances that attention knows.

A query is rotated by its own position. The score that another rotation would give it differs by (R q - q) k / sqrt(d),
R turning it back to that position. This difference is a bias of the attention. So keys stay as they are stored, and a
driver has nothing to do.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .builder import MICROSOFT, GraphBuilder
from .dimensions import Dimensions
from .kv_scales import scale_names
from .rotary import RotarySpec, rotary_angles

COS, SIN = "sinks.cos", "sinks.sin"


def declare_sinks(graph: GraphBuilder, d: Dimensions, spec: RotarySpec, positions: str, angles: str) -> None:
    """The tables of (R - 1) / sqrt(head_dim) for new tokens, float32 [S, head_dim / 2] each.

    positions: int64 [S]. angles: theirs, double [S, head_dim / 2].
    """
    last = graph.constant("sinks.last_position", np.array(d.keep_window_size - 1))
    (seen_from,) = graph.op("Min", [positions, last], "sinks.seen_from")
    theirs = rotary_angles(graph, spec, "sinks", seen_from, d.keep_window_size)
    (back,) = graph.op("Sub", [theirs, angles], "sinks.back")
    (cos,) = graph.op("Cos", [back], "sinks.cos.double")
    (cos,) = graph.op("Sub", [cos, graph.constant("sinks.one", np.array(1.0))], "sinks.cos.less")
    (sin,) = graph.op("Sin", [back], "sinks.sin.double")
    scale = graph.constant("sinks.scale", np.array(d.head_dim**-0.5))
    for name, value in ((COS, cos), (SIN, sin)):
        (scaled,) = graph.op("Mul", [value, scale], f"{name}.scaled")
        graph.op("Cast", [scaled], name, to=TensorProto.FLOAT)


def sink_bias(graph: GraphBuilder, d: Dimensions, index: int, query: str, cache_heads: int) -> str:
    """The bias of a layer's sinks: rotated queries [1, S, heads * channels] -> float32 [1, heads, S, sinks]."""
    name = f"layers.{index}.self_attn.sinks"
    gained = _turned_queries(graph, d, f"{name}.query", query)
    grouped = graph.constant("sinks.grouped", np.array([1, cache_heads, -1, d.head_dim]))
    (gained,) = graph.op("Reshape", [gained, grouped], f"{name}.query.grouped")
    keys = _sink_keys(graph, d, index, f"{name}.key", cache_heads)
    (scores,) = graph.op("MatMul", [gained, keys], f"{name}.scores")
    by_head = graph.constant("sinks.by_head", np.array([1, d.num_heads, -1, d.keep_sinks]))
    (bias,) = graph.op("Reshape", [scores, by_head], f"{name}.bias")
    return bias


def _turned_queries(graph: GraphBuilder, d: Dimensions, name: str, query: str) -> str:
    """(R q - q) / sqrt(head_dim) of every query, without the extra channels: [1, heads, S, head_dim]."""
    shape = graph.constant("sinks.rows", np.array([1, -1, d.num_heads, d.channels]))
    (rows,) = graph.op("Reshape", [query, shape], f"{name}.rows")
    if d.extra_channels:
        (rows,) = graph.op("Slice", [rows, *_first(graph, {3: d.head_dim})], f"{name}.used")
    (by_head,) = graph.op("Transpose", [rows], f"{name}.by_head", perm=[0, 2, 1, 3])
    first_row = graph.constant("rotary.first_row", np.array([0]))
    (turned,) = graph.op("RotaryEmbedding", [by_head, first_row, COS, SIN], f"{name}.turned", domain=MICROSOFT)
    return turned


def _sink_keys(graph: GraphBuilder, d: Dimensions, index: int, name: str, cache_heads: int) -> str:
    """The keys of the sinks, which stand in the first slots: [1, cache heads, head_dim, sinks]."""
    past = f"past_key_values.{index}.key"
    if d.kv_int8:
        (codes,) = graph.op("Slice", [past, *_first(graph, {2: d.keep_sinks})], f"{name}.codes")
        (codes,) = graph.op("Cast", [codes], f"{name}.float32", to=TensorProto.FLOAT)
        (past,) = graph.op("Mul", [codes, scale_names(index, cache_heads)[0]], f"{name}.scaled")
    (keys,) = graph.op("Slice", [past, *_first(graph, {2: d.keep_sinks, 3: d.head_dim})], f"{name}.used")
    (columns,) = graph.op("Transpose", [keys], name, perm=[0, 1, 3, 2])
    return columns


def _first(graph: GraphBuilder, counts: dict[int, int]) -> list[str]:
    """The inputs of Slice for the first so many of each axis."""
    axes = "_".join(map(str, counts))
    numbers = {"start": [0] * len(counts), "end": list(counts.values()), "axis": list(counts)}
    return [graph.constant(f"sinks.{axes}.{part}", np.array(values)) for part, values in numbers.items()]
