"""The keys that a query sees once the window is full: the additive mask of the recurrent graph.

The cache holds exactly keep_window_size keys per mask head when a chunk of S tokens comes. Each of its queries evicts
one key: the one with the smallest dt, the oldest of equals, which may be the newest key itself. Sinks, in the first
slots, are never evicted, so only R = min(S, keep_window_size - sinks) cached keys can be evicted by the chunk. The
driver names these candidates in the order of eviction.

Candidate b is evicted for query t once more than b of the tokens up to t have a dt at least as large. A new key is
evicted once as many later new keys outrank it as there are candidates that it outranks. Counting needs no sort and no
loop. Of two keys the later outranks the other unless its precedence is smaller by more than TIE.

Where keys have bonuses, precedence is a whole number of tokens, counted from the first new token by driver and graph
alike. So float32 is exact, however long the stream is.

Where the last keep_recent keys are safe, a key competes with the candidates so many tokens later: it enters. The first
E = min(S, keep_recent) that enter are cached ones, which the driver names behind the candidates. So the counting is
that of a window without them.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .builder import GraphBuilder
from .dimensions import Dimensions
from .mask import NEW_POSITIONS, new_precedence
from .mask_numbers import PRECEDENCE_SCALE

TIE = np.float32(2.0**-17 * PRECEDENCE_SCALE)  # `doge_model.mask.TIE`
WHOLE_TIE = np.float32(0.5)  # of whole numbers, which tie where they are equal
SLOTS, LEAST = "eviction.slots", "eviction.least"
ENTERING, NUM_ENTERING = "eviction.entering", "eviction.entering.count"  # precedence of the cached keys that enter; E
EQUAL = ("eviction.equal", "eviction.equal.row")  # precedence of new keys in a model without mask, as new_precedence's
EVICTED = np.float32(-1e30)  # added to a score, leaves nothing of it; -inf would make 0 * inf possible


def cache_heads(d: Dimensions) -> int:
    """Heads of a full window's cache: mask heads keep different keys, so each has its own."""
    return d.num_mask_heads if d.has_mask else d.num_kv_heads


def eviction_bias(graph: GraphBuilder, d: Dimensions, index: int, value: str, sinks: str | None = None) -> str:
    """The additive mask of a full window.

    value: the new values [1, S, kv heads * channels], which carry precedence. sinks: the bias of the sinks [1,
    num_heads, S, sinks], where there are any. Returns float32 [1, 1 or num_heads, S, keep_window_size + S] with EVICTED
    where a key is evicted.
    """
    name = f"layers.{index}.eviction"
    new, row = _precedence(graph, d, index, f"{name}.new", value) if d.has_mask else EQUAL
    (outranked,) = graph.op("GreaterOrEqual", [new, _of_layer(LEAST, index)], f"{name}.outranked")  # [1, heads, S, R]
    (outranked,) = graph.op("Cast", [outranked], f"{name}.outranked.count", to=TensorProto.INT32)
    candidates = _evicted_candidates(graph, name, outranked)
    newcomers = _evicted_newcomers(graph, d, name, new, row, outranked)
    if d.keep_recent:
        candidates, newcomers = _behind_recent(graph, name, candidates, newcomers)
    slots = _of_layer(SLOTS, index)
    (past,) = graph.op("ScatterElements", ["eviction.zeros", slots, candidates], f"{name}.past", axis=-1)
    (bias,) = graph.op("Concat", [past, newcomers], f"{name}.bias", axis=-1)
    one_mask = cache_heads(d) == 1 and sinks is None
    if cache_heads(d) != d.num_heads and not one_mask:  # the attention takes one mask for all heads, or one for each
        order = np.arange(cache_heads(d)).repeat(d.num_heads // cache_heads(d))
        heads = graph.constant("eviction.order_of_heads", order)
        (bias,) = graph.op("Gather", [bias, heads], f"{name}.bias.heads", axis=1)
    if sinks is not None:
        (bias,) = graph.op("Concat", [sinks, bias], f"{name}.bias.all", axis=-1)
    return bias


def _precedence(graph: GraphBuilder, d: Dimensions, index: int, name: str, value: str) -> tuple[str, str]:
    """Of the key that competes at each query, as a column and as a row: [1, heads, S, 1] and [1, heads, 1, S]."""
    by_head = new_precedence(graph, d, index, name, value)
    if d.keep_recent:
        start, axis = graph.constant("int.0.row", np.array([0])), graph.constant("int.2.row", np.array([2]))
        (entering,) = graph.op("Slice", [by_head, start, "eviction.new", axis], f"{name}.entering")
        (by_head,) = graph.op("Concat", [_of_layer(ENTERING, index), entering], f"{name}.all", axis=2)
    (column,) = graph.op("Unsqueeze", [by_head, _axis(graph, -1)], f"{name}.column")
    (row,) = graph.op("Unsqueeze", [by_head, _axis(graph, -2)], f"{name}.row")
    return column, row


def _evicted_candidates(graph: GraphBuilder, name: str, outranked: str) -> str:
    """Bias of the candidates: outranked int32 [1, heads, S, R] -> float32 of that shape."""
    (count,) = graph.op("CumSum", [outranked, "eviction.axis"], f"{name}.candidates.count")
    (gone,) = graph.op("Greater", [count, "eviction.rank"], f"{name}.candidates.gone")
    (bias,) = graph.op("Where", [gone, _evicted(graph), _zero(graph)], f"{name}.candidates")
    return bias


def _evicted_newcomers(graph: GraphBuilder, d: Dimensions, name: str, new: str, row: str, outranked: str) -> str:
    """Bias of the keys that compete with the candidates, one after the other: [1, heads, S, S], query by key."""
    (lead,) = graph.op("Sub", [new, row], f"{name}.newcomers.lead")  # [1, heads, outranking, outranked]
    (above,) = graph.op("Greater", [lead, "eviction.lead"], f"{name}.newcomers.above")
    (above,) = graph.op("Cast", [above], f"{name}.newcomers.above.count", to=TensorProto.INT32)
    (count,) = graph.op("CumSum", [above, "eviction.axis"], f"{name}.newcomers.count")
    (below,) = graph.op("ReduceSum", [outranked, _axis(graph, -1)], f"{name}.newcomers.below", keepdims=0)
    (below,) = graph.op("Unsqueeze", [below, _axis(graph, -2)], f"{name}.newcomers.below.row")
    (gone,) = graph.op("GreaterOrEqual", [count, below], f"{name}.newcomers.gone")
    if d.keep_recent:  # else attention is causal
        (gone,) = graph.op("And", [gone, "eviction.entered"], f"{name}.newcomers.entered")
    (bias,) = graph.op("Where", [gone, _evicted(graph), _zero(graph)], f"{name}.newcomers")
    return bias


def _behind_recent(graph: GraphBuilder, name: str, candidates: str, newcomers: str) -> tuple[str, str]:
    """Bias of the cached keys that the driver names, [1, heads, S, R + E], and of the new keys, [1, heads, S, S].

    Those that enter are E cached keys, then the first S - E new ones. The last E new keys stay as recent ones.
    """
    axis, start = graph.constant("int.3.row", np.array([3])), graph.constant("int.0.row", np.array([0]))
    end = graph.constant("eviction.end", np.array([2**62]))
    (cached,) = graph.op("Slice", [newcomers, start, NUM_ENTERING, axis], f"{name}.newcomers.cached")
    (new,) = graph.op("Slice", [newcomers, NUM_ENTERING, end, axis], f"{name}.newcomers.new")
    (named,) = graph.op("Concat", [candidates, cached], f"{name}.named", axis=-1)
    (new,) = graph.op("Pad", [new, "eviction.recent.pads"], f"{name}.newcomers.padded")
    return named, new


def declare_eviction(graph: GraphBuilder, d: Dimensions) -> None:
    """The two inputs, and the values that all layers share.

    SLOTS of a layer [1, heads, S, R]. LEAST [1, heads, 1, R], the precedence that still outranks a candidate. lead [S,
    S], the distance by which a new key outranks another. Also the candidates' ranks, and zeros to scatter into.
    """
    for name, dtype in (("eviction_slots", np.int64), ("eviction_precedence", np.float32)):
        graph.input(name, dtype, [d.num_layers, cache_heads(d), "candidates"])
    graph.constant("eviction.axis", np.array(2))
    (length,) = graph.op("Shape", ["input_ids"], "eviction.length", start=1)
    if d.keep_recent:
        _declare_entering(graph, d, length)
    _declare_candidates(graph, d, length)
    _declare_lead(graph, d, length)
    window = graph.constant("eviction.window", np.array([d.keep_window_size - d.keep_sinks]))
    _zeros(graph, d, "eviction.zeros", [length, window])
    if not d.has_mask:
        one = graph.constant("eviction.one", np.array([1]))
        _zeros(graph, d, EQUAL[0], [length, one])
        _zeros(graph, d, EQUAL[1], [one, length])


def _declare_entering(graph: GraphBuilder, d: Dimensions, length: str) -> None:
    """E, how many of the cached keys enter; S - E, as many new ones as enter; the precedence of the cached ones."""
    recent = graph.constant("eviction.recent", np.array([d.keep_recent]))
    (count,) = graph.op("Min", [recent, length], NUM_ENTERING)
    graph.op("Sub", [length, count], "eviction.new")
    (start,) = graph.op("Neg", [count], "eviction.entering.start")
    end, axis = graph.constant("eviction.end", np.array([2**62])), graph.constant("int.2.row", np.array([2]))
    (entering,) = graph.op("Slice", ["eviction_precedence", start, end, axis], f"{ENTERING}.of_layers")
    graph.op("Split", [entering], ENTERING, outputs=d.num_layers, axis=0, num_outputs=d.num_layers)
    pads = graph.constant("eviction.no_pads", np.zeros(7, np.int64))
    graph.op("Concat", [pads, count], "eviction.recent.pads", axis=0)


def _declare_candidates(graph: GraphBuilder, d: Dimensions, length: str) -> None:
    """SLOTS and LEAST of every layer, and the ranks 0 to R - 1 that candidates have in all of them."""
    tie, one = graph.constant("eviction.tie", np.array(_tie(d))), graph.constant("eviction.one", np.array([1]))
    precedence = "eviction_precedence"
    if d.keep_recent:
        start, axis = graph.constant("int.0.row", np.array([0])), graph.constant("int.2.row", np.array([2]))
        inputs = [precedence, start, "eviction.entering.start", axis]
        (precedence,) = graph.op("Slice", inputs, "eviction.candidates.precedence")
    (least,) = graph.op("Sub", [precedence, tie], f"{LEAST}.flat")
    (least,) = graph.op("Unsqueeze", [least, _axis(graph, -2)], f"{LEAST}.of_layers")
    graph.op("Split", [least], LEAST, outputs=d.num_layers, axis=0, num_outputs=d.num_layers)
    (shape,) = graph.op("Concat", [length, one], "eviction.queries.shape", axis=0)
    slots = "eviction_slots"
    if d.keep_sinks:
        (slots,) = graph.op("Sub", [slots, graph.constant("eviction.sinks", np.array(d.keep_sinks))], f"{SLOTS}.behind")
    (slots,) = graph.op("Unsqueeze", [slots, _axis(graph, -2)], f"{SLOTS}.row")
    (slots,) = graph.op("Expand", [slots, shape], f"{SLOTS}.of_layers")
    graph.op("Split", [slots], SLOTS, outputs=d.num_layers, axis=0, num_outputs=d.num_layers)
    (shape,) = graph.op("Shape", [precedence], "eviction.shape", start=2)
    (rank,) = graph.op("Range", _bounds(graph, "candidates", shape), "eviction.rank.long")
    graph.op("Cast", [rank], "eviction.rank", to=TensorProto.INT32)


def _declare_lead(graph: GraphBuilder, d: Dimensions, length: str) -> None:
    """[S, S]: more than -TIE where the row's token is the later one, else more than TIE."""
    tie, behind = (graph.constant(f"eviction.{n}", np.array(t)) for n, t in (("tie", _tie(d)), ("behind", -_tie(d))))
    (order,) = graph.op("Range", _bounds(graph, "length", length), "eviction.order")
    (column,) = graph.op("Unsqueeze", [order, _axis(graph, -1)], "eviction.order.column")
    (later,) = graph.op("Greater", [column, order], "eviction.later")
    graph.op("Where", [later, behind, tie], "eviction.lead")
    if d.keep_recent:
        graph.op("GreaterOrEqual", [column, order], "eviction.entered")
    if d.keep_bonus:
        graph.op("Cast", [order], NEW_POSITIONS, to=TensorProto.FLOAT)


def _tie(d: Dimensions) -> np.float32:
    """Keys whose precedence differs by no more than this tie."""
    return WHOLE_TIE if d.keep_bonus else TIE


def _bounds(graph: GraphBuilder, name: str, shape: str) -> list[str]:
    """The inputs of Range for 0, 1, ... below the one number of a shape."""
    (limit,) = graph.op("Squeeze", [shape], f"eviction.{name}.scalar")
    return [graph.constant("int.0", np.array(0)), limit, graph.constant("int.1", np.array(1))]


def _zeros(graph: GraphBuilder, d: Dimensions, name: str, last: list[str]) -> None:
    """float32 [1, heads, ...] with the last two dimensions given, each a shape of one number."""
    first = graph.constant("eviction.heads", np.array([1, cache_heads(d)]))
    (shape,) = graph.op("Concat", [first, *last], f"{name}.shape", axis=0)
    graph.op("Expand", [_zero(graph), shape], name)


def _of_layer(name: str, index: int) -> str:
    """The output of a Split over the layers."""
    return f"{name}.{index}" if index else name


def _axis(graph: GraphBuilder, axis: int) -> str:
    return graph.constant({-1: "axis.last", -2: "axis.before_last"}[axis], np.array([axis]))


def _evicted(graph: GraphBuilder) -> str:
    return graph.constant("eviction.never", np.array(EVICTED))


def _zero(graph: GraphBuilder) -> str:
    return graph.constant("eviction.zero", np.array(0, np.float32))
