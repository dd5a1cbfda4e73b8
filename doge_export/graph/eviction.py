"""Which keys a query may see once the window is full: the mask of the recurrent decoder.

The cache holds exactly keep_window_size keys per mask head when a chunk of S tokens comes. For each of its queries one
more key leaves, the one with the smallest dt, the oldest of equals; it may be the newcomer itself. Only R = min(S,
keep_window_size) cached keys can leave at all, and the driver names them in the order in which they would: candidate b
is gone for query t once more than b of the tokens up to t have a dt at least as large. A newcomer is gone once as many
newcomers that outrank it have come as there are candidates that it outranks. Counting needs no sort and no loop.

Of two keys the later outranks the other unless its precedence is smaller by more than TIE.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .builder import GraphBuilder
from .layout import DecoderLayout
from .mask import PRECEDENCE_SCALE

TIE = np.float32(2.0**-17 * PRECEDENCE_SCALE)  # `doge_model.mask.TIE`
NEVER = np.float32(-1e30)  # added to a score, leaves nothing of it; -inf would make 0 * inf possible


def eviction_bias(graph: GraphBuilder, layout: DecoderLayout, index: int, precedence: str) -> str:
    """The additive mask of a full window.

    precedence: float32 [heads, S] of the new tokens, per mask head. Reads eviction_slots int64 and eviction_precedence
    float32, both [layers, heads, R]. Returns float32 [1, 1 or num_heads, S, keep_window_size + S] with NEVER where a
    key is gone.
    """
    name = f"layers.{index}.eviction"
    layer = graph.constant(f"{name}.layer", np.array(index))
    (slots,) = graph.op("Gather", ["eviction_slots", layer], f"{name}.slots", axis=0)
    (leaving,) = graph.op("Gather", ["eviction.least", layer], f"{name}.leaving", axis=0)
    (new,) = graph.op("Unsqueeze", [precedence, _axis(graph, -1)], f"{name}.new")  # [heads, S, 1]
    (old,) = graph.op("Unsqueeze", [leaving, _axis(graph, -2)], f"{name}.old")  # [heads, 1, R]
    (outranked,) = graph.op("GreaterOrEqual", [new, old], f"{name}.outranked")  # [heads, S, R]
    (outranked,) = graph.op("Cast", [outranked], f"{name}.outranked.count", to=TensorProto.INT32)
    past = _gone_candidates(graph, name, outranked, slots)
    newcomers = _gone_newcomers(graph, name, new, precedence, outranked)
    (bias,) = graph.op("Concat", [past, newcomers], f"{name}.bias", axis=-1)
    if layout.cache_heads not in (1, layout.num_heads):  # the attention takes one mask for all heads, or one for each
        order = np.arange(layout.cache_heads).repeat(layout.num_heads // layout.cache_heads)
        (bias,) = graph.op(
            "Gather", [bias, graph.constant("eviction.order_of_heads", order)], f"{name}.bias.heads", axis=0
        )
    (bias,) = graph.op("Unsqueeze", [bias, graph.constant("axis.0", np.array([0]))], f"{name}.bias.batch")
    return bias


def _gone_candidates(graph: GraphBuilder, name: str, outranked: str, slots: str) -> str:
    """Bias of the cached keys: outranked int32 [heads, S, R], slots [heads, R] -> [heads, S, keep_window_size]."""
    (count,) = graph.op("CumSum", [outranked, "eviction.axis"], f"{name}.candidates.count")
    (gone,) = graph.op("Greater", [count, "eviction.rank"], f"{name}.candidates.gone")
    (updates,) = graph.op("Where", [gone, _never(graph), _zero(graph)], f"{name}.candidates.bias")
    (rows,) = graph.op("Unsqueeze", [slots, _axis(graph, -2)], f"{name}.candidates.slots")
    (shape,) = graph.op("Shape", [updates], f"{name}.candidates.shape")
    (indices,) = graph.op("Expand", [rows, shape], f"{name}.candidates.indices")
    (bias,) = graph.op("ScatterElements", ["eviction.zeros", indices, updates], f"{name}.candidates", axis=-1)
    return bias


def _gone_newcomers(graph: GraphBuilder, name: str, new: str, precedence: str, outranked: str) -> str:
    """Bias of the new keys: [heads, S, S], query by key."""
    (row,) = graph.op("Unsqueeze", [precedence, _axis(graph, -2)], f"{name}.newcomers.row")  # [heads, 1, S]
    (lead,) = graph.op("Sub", [new, row], f"{name}.newcomers.lead")  # [heads, outranking, outranked]
    (above,) = graph.op("Greater", [lead, "eviction.lead"], f"{name}.newcomers.above")
    (above,) = graph.op("Cast", [above], f"{name}.newcomers.above.count", to=TensorProto.INT32)
    (count,) = graph.op("CumSum", [above, "eviction.axis"], f"{name}.newcomers.count")
    (below,) = graph.op("ReduceSum", [outranked, _axis(graph, -1)], f"{name}.newcomers.below", keepdims=0)
    (below,) = graph.op("Unsqueeze", [below, _axis(graph, -2)], f"{name}.newcomers.below.row")
    (gone,) = graph.op("GreaterOrEqual", [count, below], f"{name}.newcomers.gone")
    (bias,) = graph.op("Where", [gone, _never(graph), _zero(graph)], f"{name}.newcomers")
    return bias


def declare_eviction(graph: GraphBuilder, layout: DecoderLayout) -> None:
    """The two inputs, and what all layers share.

    `least` is the precedence that still outranks a candidate, `lead` [S, S] what a newcomer needs to outrank another;
    further the candidates' ranks, and zeros to scatter into.
    """
    for name, dtype in (("eviction_slots", np.int64), ("eviction_precedence", np.float32)):
        graph.input(name, dtype, [layout.num_layers, layout.cache_heads, "candidates"])
    graph.constant("eviction.axis", np.array(1))
    (shape,) = graph.op("Shape", ["eviction_precedence"], "eviction.shape", start=2)
    zero, one = graph.constant("int.0", np.array(0)), graph.constant("int.1", np.array(1))
    (candidates,) = graph.op("Squeeze", [shape], "eviction.candidates")
    (rank,) = graph.op("Range", [zero, candidates, one], "eviction.rank.long")
    graph.op("Cast", [rank], "eviction.rank", to=TensorProto.INT32)
    (length,) = graph.op("Shape", ["input_ids"], "eviction.length", start=1)
    (scalar,) = graph.op("Squeeze", [length], "eviction.length.scalar")
    (order,) = graph.op("Range", [zero, scalar, one], "eviction.order")
    (column,) = graph.op("Unsqueeze", [order, _axis(graph, -1)], "eviction.order.column")
    (later,) = graph.op("Greater", [column, order], "eviction.later")
    tie, behind = graph.constant("eviction.tie", np.array(TIE)), graph.constant("eviction.behind", np.array(-TIE))
    graph.op("Where", [later, behind, tie], "eviction.lead")
    graph.op("Sub", ["eviction_precedence", tie], "eviction.least")
    parts = [graph.constant("eviction.heads", np.array([layout.cache_heads])), length]
    window = graph.constant("eviction.window", np.array([layout.keep_window_size]))
    (full,) = graph.op("Concat", [*parts, window], "eviction.zeros.shape", axis=0)
    graph.op("Expand", [_zero(graph), full], "eviction.zeros")


def _axis(graph: GraphBuilder, axis: int) -> str:
    return graph.constant({-1: "axis.last", -2: "axis.before_last"}[axis], np.array([axis]))


def _never(graph: GraphBuilder) -> str:
    return graph.constant("eviction.never", np.array(NEVER))


def _zero(graph: GraphBuilder) -> str:
    return graph.constant("eviction.zero", np.array(0, np.float32))
