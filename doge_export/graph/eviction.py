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
from .dimensions import DecoderLayout
from .mask import PRECEDENCE_SCALE, new_precedence

TIE = np.float32(2.0**-17 * PRECEDENCE_SCALE)  # `doge_model.mask.TIE`
SLOTS, LEAST = "eviction.slots", "eviction.least"
EQUAL = ("eviction.equal", "eviction.equal.row")  # precedence of new keys in a model without mask, as new_precedence's
NEVER = np.float32(-1e30)  # added to a score, leaves nothing of it; -inf would make 0 * inf possible


def eviction_bias(graph: GraphBuilder, layout: DecoderLayout, index: int, value: str) -> str:
    """The additive mask of a full window.

    value: the new values [1, S, kv heads * channels], which carry precedence. Returns float32 [1, 1 or num_heads, S,
    keep_window_size + S] with NEVER where a key is gone.
    """
    name = f"layers.{index}.eviction"
    new, row = new_precedence(graph, layout, index, f"{name}.new", value) if layout.has_mask else EQUAL
    (outranked,) = graph.op("GreaterOrEqual", [new, _of_layer(LEAST, index)], f"{name}.outranked")  # [1, heads, S, R]
    (outranked,) = graph.op("Cast", [outranked], f"{name}.outranked.count", to=TensorProto.INT32)
    past = _gone_candidates(graph, name, outranked, _of_layer(SLOTS, index))
    newcomers = _gone_newcomers(graph, name, new, row, outranked)
    (bias,) = graph.op("Concat", [past, newcomers], f"{name}.bias", axis=-1)
    if layout.cache_heads not in (1, layout.num_heads):  # the attention takes one mask for all heads, or one for each
        order = np.arange(layout.cache_heads).repeat(layout.num_heads // layout.cache_heads)
        heads = graph.constant("eviction.order_of_heads", order)
        (bias,) = graph.op("Gather", [bias, heads], f"{name}.bias.heads", axis=1)
    return bias


def _gone_candidates(graph: GraphBuilder, name: str, outranked: str, slots: str) -> str:
    """Bias of the cached keys: outranked int32 and slots, both [1, heads, S, R] -> [1, heads, S, keep_window_size]."""
    (count,) = graph.op("CumSum", [outranked, "eviction.axis"], f"{name}.candidates.count")
    (gone,) = graph.op("Greater", [count, "eviction.rank"], f"{name}.candidates.gone")
    (updates,) = graph.op("Where", [gone, _never(graph), _zero(graph)], f"{name}.candidates.bias")
    (bias,) = graph.op("ScatterElements", ["eviction.zeros", slots, updates], f"{name}.candidates", axis=-1)
    return bias


def _gone_newcomers(graph: GraphBuilder, name: str, new: str, row: str, outranked: str) -> str:
    """Bias of the new keys: [1, heads, S, S], query by key."""
    (lead,) = graph.op("Sub", [new, row], f"{name}.newcomers.lead")  # [1, heads, outranking, outranked]
    (above,) = graph.op("Greater", [lead, "eviction.lead"], f"{name}.newcomers.above")
    (above,) = graph.op("Cast", [above], f"{name}.newcomers.above.count", to=TensorProto.INT32)
    (count,) = graph.op("CumSum", [above, "eviction.axis"], f"{name}.newcomers.count")
    (below,) = graph.op("ReduceSum", [outranked, _axis(graph, -1)], f"{name}.newcomers.below", keepdims=0)
    (below,) = graph.op("Unsqueeze", [below, _axis(graph, -2)], f"{name}.newcomers.below.row")
    (gone,) = graph.op("GreaterOrEqual", [count, below], f"{name}.newcomers.gone")
    (bias,) = graph.op("Where", [gone, _never(graph), _zero(graph)], f"{name}.newcomers")
    return bias


def declare_eviction(graph: GraphBuilder, layout: DecoderLayout) -> None:
    """The two inputs, and what need not be made in each layer.

    SLOTS of a layer [1, heads, S, R]; LEAST [1, heads, 1, R], the precedence that still outranks a candidate; lead
    [S, S], what a newcomer needs to outrank another; the candidates' ranks; zeros to scatter into.
    """
    for name, dtype in (("eviction_slots", np.int64), ("eviction_precedence", np.float32)):
        graph.input(name, dtype, [layout.num_layers, layout.cache_heads, "candidates"])
    graph.constant("eviction.axis", np.array(2))
    (length,) = graph.op("Shape", ["input_ids"], "eviction.length", start=1)
    _declare_candidates(graph, layout, length)
    _declare_lead(graph, length)
    window = graph.constant("eviction.window", np.array([layout.keep_window_size]))
    _zeros(graph, layout, "eviction.zeros", [length, window])
    if not layout.has_mask:
        one = graph.constant("eviction.one", np.array([1]))
        _zeros(graph, layout, EQUAL[0], [length, one])
        _zeros(graph, layout, EQUAL[1], [one, length])


def _declare_candidates(graph: GraphBuilder, layout: DecoderLayout, length: str) -> None:
    """SLOTS and LEAST of every layer, and the ranks 0 to R - 1 that candidates have in all of them."""
    tie, one = graph.constant("eviction.tie", np.array(TIE)), graph.constant("eviction.one", np.array([1]))
    (least,) = graph.op("Sub", ["eviction_precedence", tie], f"{LEAST}.flat")
    (least,) = graph.op("Unsqueeze", [least, _axis(graph, -2)], f"{LEAST}.of_layers")
    graph.op("Split", [least], LEAST, outputs=layout.num_layers, axis=0, num_outputs=layout.num_layers)
    (shape,) = graph.op("Concat", [length, one], "eviction.queries.shape", axis=0)
    (slots,) = graph.op("Unsqueeze", ["eviction_slots", _axis(graph, -2)], f"{SLOTS}.row")
    (slots,) = graph.op("Expand", [slots, shape], f"{SLOTS}.of_layers")
    graph.op("Split", [slots], SLOTS, outputs=layout.num_layers, axis=0, num_outputs=layout.num_layers)
    (shape,) = graph.op("Shape", ["eviction_precedence"], "eviction.shape", start=2)
    (rank,) = graph.op("Range", _bounds(graph, "candidates", shape), "eviction.rank.long")
    graph.op("Cast", [rank], "eviction.rank", to=TensorProto.INT32)


def _declare_lead(graph: GraphBuilder, length: str) -> None:
    """[S, S]: more than -TIE where the row's token is the later one, else more than TIE."""
    tie, behind = graph.constant("eviction.tie", np.array(TIE)), graph.constant("eviction.behind", np.array(-TIE))
    (order,) = graph.op("Range", _bounds(graph, "length", length), "eviction.order")
    (column,) = graph.op("Unsqueeze", [order, _axis(graph, -1)], "eviction.order.column")
    (later,) = graph.op("Greater", [column, order], "eviction.later")
    graph.op("Where", [later, behind, tie], "eviction.lead")


def _bounds(graph: GraphBuilder, name: str, shape: str) -> list[str]:
    """What Range takes for 0, 1, ... below the one number of a shape."""
    (limit,) = graph.op("Squeeze", [shape], f"eviction.{name}.scalar")
    return [graph.constant("int.0", np.array(0)), limit, graph.constant("int.1", np.array(1))]


def _zeros(graph: GraphBuilder, layout: DecoderLayout, name: str, last: list[str]) -> None:
    """float32 [1, heads, ...] with the last two dimensions given, each a shape of one number."""
    first = graph.constant("eviction.heads", np.array([1, layout.cache_heads]))
    (shape,) = graph.op("Concat", [first, *last], f"{name}.shape", axis=0)
    graph.op("Expand", [_zero(graph), shape], name)


def _of_layer(name: str, index: int) -> str:
    """The output of a Split over the layers."""
    return f"{name}.{index}" if index else name


def _axis(graph: GraphBuilder, axis: int) -> str:
    return graph.constant({-1: "axis.last", -2: "axis.before_last"}[axis], np.array([axis]))


def _never(graph: GraphBuilder) -> str:
    return graph.constant("eviction.never", np.array(NEVER))


def _zero(graph: GraphBuilder) -> str:
    return graph.constant("eviction.zero", np.array(0, np.float32))
