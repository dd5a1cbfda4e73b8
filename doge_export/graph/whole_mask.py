"""The keys that a whole text evicts, as the full-matrix form has it: `doge_model.mask.kept_keys` in a graph.

A query evicts a key once keep_window_size of the keys up to the query outrank it. Keys get a number in the order of
precedence, closer ones than TIE by their place. Outranking is then a comparison of these numbers, and a running sum
along the queries counts. That is a matrix [S, S] for each mask head, so it is computed for longer texts alone.

Where the last keep_recent keys are safe, the count is that of the query so many tokens before.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .builder import GraphBuilder
from .dimensions import Dimensions
from .eviction import EVICTED, TIE
from .mask import gather_precedence, kept_until
from .packing import LENGTHS, LONGEST

PADDING = np.float32(-1e30)  # precedence behind the end of a text: far from that of every key


def whole_text_bias(graph: GraphBuilder, d: Dimensions, index: int, value: str) -> str:
    """Added to scores: values float32 [B, S, kv heads * channels] -> [B, 1 or num_heads, S, S], EVICTED or 0."""
    name = f"layers.{index}.eviction"
    rank = _ranks(graph, name, _precedence(graph, d, index, name, value))
    row = graph.constant("axis.before_last", np.array([-2]))
    column = graph.constant("axis.last", np.array([-1]))
    (above,) = graph.op("Unsqueeze", [rank, column], f"{name}.rank.column")
    (below,) = graph.op("Unsqueeze", [rank, row], f"{name}.rank.row")
    (outranks,) = graph.op("Greater", [above, below], f"{name}.outranks")  # [B, M, outranking, outranked]
    (counted,) = graph.op("Cast", [outranks], f"{name}.outranks.count", to=TensorProto.FLOAT)
    (count,) = graph.op("CumSum", [counted, graph.constant("int.2", np.array(2))], f"{name}.count")
    window = graph.constant("eviction.window.count", np.array(d.keep_window_size - d.keep_recent - 0.5, np.float32))
    if d.keep_recent:
        count = _of_earlier_queries(graph, d, name, count)
    (gone,) = graph.op("Greater", [count, window], f"{name}.gone")
    numbers = [graph.constant("eviction.never", np.array(EVICTED)), graph.constant("zero", np.array(0, np.float32))]
    (bias,) = graph.op("Where", [gone, *numbers], f"{name}.bias")
    if d.num_mask_heads in (1, d.num_heads):  # the attention takes one mask for all heads, or one for each
        return bias
    order = graph.constant(
        "eviction.order_of_heads", np.arange(d.num_mask_heads).repeat(d.num_heads // d.num_mask_heads)
    )
    (bias,) = graph.op("Gather", [bias, order], f"{name}.bias.heads", axis=1)
    return bias


def _of_earlier_queries(graph: GraphBuilder, d: Dimensions, name: str, count: str) -> str:
    """The count of the query keep_recent tokens before, 0 of the keys since then: [B, M, S, S] -> the same shape."""
    bounds = [graph.constant("int.0", np.array(0)), LONGEST, graph.constant("int.1", np.array(1))]
    (places,) = graph.op("Range", bounds, f"{name}.queries")
    recent = graph.constant("eviction.recent.scalar", np.array(d.keep_recent))
    (earlier,) = graph.op("Sub", [places, recent], f"{name}.earlier")
    (rows,) = graph.op("Max", [earlier, graph.constant("int.0", np.array(0))], f"{name}.earlier.rows")
    (shifted,) = graph.op("Gather", [count, rows], f"{name}.count.earlier", axis=2)
    (column,) = graph.op("Unsqueeze", [earlier, graph.constant("axis.last", np.array([-1]))], f"{name}.earlier.column")
    (competes,) = graph.op("GreaterOrEqual", [column, places], f"{name}.competes")  # [S, S], query by key
    zero = graph.constant("zero", np.array(0, np.float32))
    (counted,) = graph.op("Where", [competes, shifted, zero], f"{name}.count.competing")
    return counted


def _precedence(graph: GraphBuilder, d: Dimensions, index: int, name: str, value: str) -> str:
    """Precedence of the keys of every mask head, PADDING behind the end of a text: -> float32 [B, M, S]."""
    rows = gather_precedence(graph, d, index, value)
    (by_head,) = graph.op("Transpose", [rows], f"{name}.precedence.all", perm=[0, 2, 1])
    bounds = [graph.constant("int.0", np.array(0)), LONGEST, graph.constant("int.1", np.array(1))]
    (places,) = graph.op("Range", bounds, f"{name}.places")
    if d.keep_bonus:
        (positions,) = graph.op("Cast", [places], f"{name}.positions", to=TensorProto.FLOAT)
        by_head = kept_until(graph, d, name, by_head, positions)
    axes = graph.constant("axes.1_2", np.array([1, 2]))
    (lengths,) = graph.op("Unsqueeze", [LENGTHS, axes], f"{name}.lengths")
    (real,) = graph.op("Less", [places, lengths], f"{name}.real")  # [B, 1, S]
    padding = graph.constant("eviction.padding", np.array(PADDING))
    (precedence,) = graph.op("Where", [real, by_head, padding], f"{name}.precedence")
    return precedence


def _ranks(graph: GraphBuilder, name: str, precedence: str) -> str:
    """A number of each key: larger where the key outranks another, by class and then by place. int64 [B, M, S]."""
    (length,) = graph.op("Unsqueeze", [LONGEST, graph.constant("axis.0", np.array([0]))], f"{name}.length")
    ordered, order = graph.op("TopK", [precedence, length], f"{name}.ordered", outputs=2, largest=0, sorted=1)
    last = graph.constant("axis.last", np.array([-1]))
    ends = [graph.constant(f"int.{i}.row", np.array([i])) for i in (0, 1, -1, 2**62)]
    (upper,) = graph.op("Slice", [ordered, ends[1], ends[3], last], f"{name}.upper")
    (lower,) = graph.op("Slice", [ordered, ends[0], ends[2], last], f"{name}.lower")
    (lead,) = graph.op("Sub", [upper, lower], f"{name}.lead")
    (apart,) = graph.op("Greater", [lead, graph.constant("eviction.tie", np.array(TIE))], f"{name}.apart")
    (steps,) = graph.op("Cast", [apart], f"{name}.steps", to=TensorProto.INT64)
    pads = graph.constant("eviction.first.pads", np.array([0, 0, 1, 0, 0, 0]))
    (steps,) = graph.op("Pad", [steps, pads], f"{name}.steps.all")
    (classes,) = graph.op("CumSum", [steps, graph.constant("int.2", np.array(2))], f"{name}.classes")
    (shifted,) = graph.op("Mul", [classes, LONGEST], f"{name}.classes.shifted")
    (numbers,) = graph.op("Add", [shifted, order], f"{name}.numbers")
    (ranks,) = graph.op("ScatterElements", [order, order, numbers], f"{name}.ranks", axis=-1)
    return ranks
