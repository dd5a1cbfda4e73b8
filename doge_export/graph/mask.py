"""The dynamic mask in the graph: dt as channels of queries and keys, precedence as channels of values.

`mask_numbers` has the constants and says why they compute the mask.
"""

from __future__ import annotations

import numpy as np

from .builder import GraphBuilder
from .dimensions import Dimensions
from .mask_numbers import PRECEDENCE_SCALE, mask_width
from .matmul import Weights

NEW_POSITIONS = "eviction.new_positions"  # of new tokens, from the first of them: float32 [S]


def dt_channels(graph: GraphBuilder, d: Dimensions, name: str, logits: str, weights: Weights) -> str:
    """Mask logits [B, S, mask_width] -> extra channels [B * S, query_key_heads, extra_channels].

    softplus, then exp. The shorter sigmoid(-z)^(-A) loses up to 2% at |z| of 12 and all digits from 18 on:
    onnxruntime's Sigmoid is clamped (measured with 1.32).
    """
    (softplus,) = graph.op("Softplus", [logits], f"{name}.softplus")
    (exponent,) = graph.op("MatMul", [softplus, weights.constant(graph, f"{name}.A")], f"{name}.exponent")
    (channels,) = graph.op("Exp", [exponent], f"{name}.dt")
    shape = graph.constant("extra.shape", np.array([-1, d.query_key_heads, d.extra_channels]))
    (rows,) = graph.op("Reshape", [channels, shape], f"{name}.extra")
    return rows


def split_dt(graph: GraphBuilder, name: str, rows: str) -> str:
    """dt in 8 bits: the first of its two channels will be rounded to whole steps, the second gets the rest.

    A step is a power of two, so that this division and the one that rounds the cache find the same number of them.
    Channels of queries, [B * S, query_key_heads, extra_channels] as all of rows, have an inverse of 0 and stay.
    """
    inverse, step = (f"{name}.dt_{part}" for part in ("inverses", "steps"))
    (counted,) = graph.op("Mul", [rows, inverse], f"{name}.dt.steps")
    (whole,) = graph.op("Round", [counted], f"{name}.dt.whole")
    (coarse,) = graph.op("Mul", [whole, step], f"{name}.dt.coarse")
    (split,) = graph.op("Sub", [rows, coarse], f"{name}.dt.split")
    return split


def whole_dt(graph: GraphBuilder, d: Dimensions, name: str, rows: str) -> str:
    """dt of a float32 cache in a decoder whose own has 8 bits: the first channel holds all of it, the second 0."""
    factors = np.ones((d.query_key_heads, d.extra_channels), np.float32)
    factors[d.num_heads :, 1 : 2 * d.mask_channels : 2] = 0
    (whole,) = graph.op("Mul", [rows, graph.constant("dt.first_channel", factors)], f"{name}.dt.whole")
    return whole


def look_up_logits(graph: GraphBuilder, token_ids: str) -> str:
    """The first layer's mask logits from the table: int64 [B, S] -> float32 [B, S, M]."""
    (logits,) = graph.op("Gather", ["first_layer_logits", token_ids], "first_layer.logits", axis=0)
    return logits


def pad_logits(graph: GraphBuilder, d: Dimensions, logits: str) -> str:
    """Looked up logits [B, S, M], zeros behind them: -> [B, S, mask_width]."""
    pads = np.array([0, 0, 0, 0, 0, mask_width(d) - d.num_mask_heads])
    (padded,) = graph.op("Pad", [logits, graph.constant("first_layer.pads", pads)], "first_layer.padded")
    return padded


def append_precedence(graph: GraphBuilder, d: Dimensions, logits: str, value: str, weights: Weights) -> str:
    """The first layer's values, then precedence: [B, S, kv heads * head_dim] -> [B, S, kv heads * channels]."""
    shape = graph.constant("first_layer.shape", np.array([-1, d.num_kv_heads, d.mask_channels]))
    (by_head,) = graph.op("Reshape", [logits, shape], "first_layer.by_head")
    (precedence,) = graph.op("Mul", [by_head, weights.constant(graph, "first_layer.factors")], "first_layer.precedence")
    heads = graph.constant("first_layer.value.shape", np.array([-1, d.num_kv_heads, d.head_dim]))
    (rows,) = graph.op("Reshape", [value, heads], "first_layer.value.rows")
    (used,) = graph.op("Concat", [rows, precedence], "first_layer.value.used", axis=-1)
    pads = np.array([0] * 5 + [d.extra_channels - d.mask_channels])
    (wide,) = graph.op("Pad", [used, graph.constant("first_layer.value.pads", pads)], "first_layer.value.wide")
    (flat,) = graph.op("Reshape", [wide, "rows.shape"], "first_layer.value")
    return flat


def gather_precedence(graph: GraphBuilder, d: Dimensions, index: int, value: str) -> str:
    """Precedence of the new keys, of every mask head: values [B, S, kv heads * channels] -> [B, S, M].

    An output of the graph where the cache has no room for it, `new_precedence.{index}`.
    """
    channels = np.arange(d.num_kv_heads)[:, None] * d.channels + d.head_dim
    channels = (channels + np.arange(d.mask_channels)).reshape(-1)
    (rows,) = graph.op(
        "Gather", [value, graph.constant("precedence.channels", channels)], f"new_precedence.{index}", axis=2
    )
    return rows


def new_precedence(graph: GraphBuilder, d: Dimensions, index: int, name: str, value: str) -> str:
    """Of the new keys per cache head; with bonuses, counted from the first new token.

    values [1, S, kv heads * channels] -> [1, cache heads, S].
    """
    rows = gather_precedence(graph, d, index, value)
    (by_head,) = graph.op("Transpose", [rows], name, perm=[0, 2, 1])
    if d.keep_bonus:
        by_head = kept_until(graph, d, name, by_head, NEW_POSITIONS)
    return by_head


def kept_until(graph: GraphBuilder, d: Dimensions, name: str, precedence: str, positions: str) -> str:
    """`doge_model.mask.kept_until` for float32 [S] positions from anywhere: [B, heads, S] -> the same shape."""
    scale = graph.constant("bonus.scale", np.array(1 / PRECEDENCE_SCALE, np.float32))
    (tokens,) = graph.op("Mul", [precedence, scale], f"{name}.tokens")
    (whole,) = graph.op("Round", [tokens], f"{name}.whole")
    bounds = [graph.constant(f"bonus.{n}", np.array(n, np.float32)) for n in (0, d.keep_bonus)]
    (bonus,) = graph.op("Clip", [whole, *bounds], f"{name}.bonus")
    (until,) = graph.op("Add", [bonus, positions], f"{name}.until")
    return until
