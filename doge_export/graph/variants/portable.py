"""The portable graph: the inputs that optimum, onnxruntime-genai and transformers.js feed, over the same weights.

    input_ids, attention_mask, position_ids, past_key_values.*  ->  logits of every token, present.*

Those runtimes pad the rows of a batch on the left (optimum, transformers.js) or on the right (genai), and say so by
attention_mask. GroupQueryAttention wants each row's keys in its first slots. So a prelude turns every row until its
padding stands behind it, and counts the mask to know the row's length. Each row then computes as it would alone.

A stream ends at keep_window_size tokens: nothing is evicted here. Lengths and positions are looked up in tables that
end there, so one more token is an error, whose message names the table.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ..builder import GraphBuilder
from ..dimensions import Dimensions
from ..mask import whole_dt
from .interface import group_query_attention, inner_rotation, past_names, present_names, window_positions

TURNED = "turned"  # the index that turns rows: int64 [B, S]
LAST_KEYS = "length_within_keep_window_size"  # GroupQueryAttention's seqlens_k: int32 [B]
POSITIONS = "position_within_keep_window_size"  # int64 [B, S], those of the turned rows


class Portable:
    """See `Variant`."""

    token_ids = "turned.input_ids"

    def takes_projection(self, d: Dimensions) -> bool:
        """Where GroupQueryAttention rotates by itself, a token's position being its slot."""
        return d.attention_can_rotate

    def cache_heads(self, d: Dimensions) -> int:
        """A head for each kv head."""
        return d.num_kv_heads

    def declare(self, graph: GraphBuilder, d: Dimensions) -> None:
        """The inputs and outputs that everybody knows, and the plain graph's inputs computed from them.

        Heads and channels of the past are symbolic. optimum 0.1.0 makes its first, empty one with other sizes, and a
        Reshape gives them the right ones.
        """
        rows: list[int | str] = ["batch_size", "sequence_length"]
        graph.input("input_ids", np.int64, rows)
        graph.input("attention_mask", np.int64, ["batch_size", "total_sequence_length"])
        graph.input("position_ids", np.int64, rows)
        shape: list[int | str] = ["batch_size", "kv_heads", "past_sequence_length", "channels"]
        for index in range(d.num_layers):
            for name in past_names(index):
                graph.input(name, np.float32, shape)
            for name in present_names(index):
                graph.output(name, np.float32, ["batch_size", "kv_heads", "total_sequence_length", "channels"])
        count_mask(graph, d)
        turn_rows(graph)
        positions, _ = window_positions(graph, d)
        graph.op("Gather", [positions, f"{TURNED}.position_ids"], POSITIONS)

    def rotary_positions(self, graph: GraphBuilder, d: Dimensions) -> tuple[str, int | None]:
        """Those of the window."""
        return "positions", d.keep_window_size

    def rotary_rows(self, graph: GraphBuilder) -> str:
        """A token's position, as the caller says."""
        return POSITIONS

    def dt(self, graph: GraphBuilder, d: Dimensions, name: str, rows: str) -> str:
        """In one digit: the cache is float32."""
        return whole_dt(graph, d, name, rows) if d.kv_int8 else rows

    def attend(self, graph: GraphBuilder, d: Dimensions, index: int, query_key_value: list[str]) -> str:
        """One GroupQueryAttention over a float32 cache."""
        shape = graph.constant("past.shape", np.array([0, d.num_kv_heads, -1, d.channels]))
        past = [graph.op("Reshape", [name, shape], f"{name}.by_head")[0] for name in past_names(index)]
        inputs = [*query_key_value, *past, LAST_KEYS, "total_sequence_length", *inner_rotation(d)]
        name = f"layers.{index}.self_attn.attention"
        return group_query_attention(
            graph, d, name, inputs, present_names(index), self.cache_heads(d), d.attention_can_rotate
        )

    def kept_rows(self, graph: GraphBuilder, hidden: str) -> str:
        """All of them, turned back: token s stands at s - padding. Below zero that counts from the end."""
        (lead,) = graph.op("Sub", ["rows.length", "padding.shift"], "turned_back.lead")
        (index,) = graph.op("Add", ["rows.order_from_end", lead], "turned_back")
        (index,) = graph.op("Unsqueeze", [index, graph.constant("axis.last", np.array([-1]))], "turned_back.index")
        (kept,) = graph.op("GatherND", [hidden, index], "kept", batch_dims=1)
        return kept


def count_mask(graph: GraphBuilder, d: Dimensions) -> None:
    """LAST_KEYS, the keys of a row after this step less one; total_sequence_length int32 [], the mask's width."""
    (shape,) = graph.op("Shape", ["attention_mask"], "mask.width", start=1)
    (width,) = graph.op("Squeeze", [shape], "mask.width.scalar")
    graph.op("Cast", [width], "total_sequence_length", to=TensorProto.INT32)
    axis = graph.constant("mask.axis", np.array([1]))
    (length,) = graph.op("ReduceSum", ["attention_mask", axis], "mask.length", keepdims=0)
    bounds = [graph.constant(f"int32.{i}", np.array(i, np.int32)) for i in (-1, d.keep_window_size, 1)]
    (last_keys,) = graph.op("Range", bounds, "mask.last_keys")  # folded when onnxruntime opens the file
    graph.op("Gather", [last_keys, length], LAST_KEYS)


def turn_rows(graph: GraphBuilder) -> None:
    """The new tokens and their positions, each row turned left by the padding in front of it.

    Place s takes token s + padding - S. Where that is below zero it counts from the end, so it needs no remainder.
    """
    (length,) = graph.op("Shape", ["input_ids"], "rows.length", start=1)
    (start,) = graph.op("Neg", [length], "rows.length.negative")
    end, axis = graph.constant("mask.end", np.array([2**62])), graph.constant("mask.axis", np.array([1]))
    (mask,) = graph.op("Slice", ["attention_mask", start, end, axis], "mask.new")
    (shift,) = graph.op("ArgMax", [mask], "padding.shift", axis=1, keepdims=1)  # [B, 1], the first that is 1
    (first,) = graph.op("Squeeze", [start], "rows.length.negative.scalar")
    bounds = [first, graph.constant("int.0", np.array(0)), graph.constant("int.1", np.array(1))]
    (order,) = graph.op("Range", bounds, "rows.order_from_end")
    (index,) = graph.op("Add", [order, shift], TURNED)
    for name in ("input_ids", "position_ids"):
        graph.op("GatherElements", [name, index], f"{TURNED}.{name}", axis=1)
