"""A batch of unequal texts without its padding: [B, T] tokens and their mask become N real tokens in a row.

    packed     [N, 1, ...]    all real tokens, text after text: products, norms and rotations cost nothing for padding
    by text    [B, S, ...]    attention alone wants a row for each text; S is the longest text, not the width T

The mask may have its zeros on the left or on the right. A token's position counts real tokens, so both compute the
same. A text without any real token keeps its first one, for attention needs a key.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .builder import GraphBuilder

TOKENS = "packed.input_ids"  # int64 [N, 1]
POSITIONS = "packed.position_ids"  # int64 [N, 1]
LONGEST = "texts.longest"  # int64 [], S
LAST_KEYS = "texts.last_keys"  # int32 [B], GroupQueryAttention's seqlens_k: the length of a text less one
LAST_PLACES = "texts.last_places"  # int64 [B], the packed place of the token whose logits count
LAST_POSITIONS = "texts.last_positions"  # int32 [B], its position
LENGTHS = "texts.lengths"  # int64 [B]
BY_TEXT = "texts.places"  # int64 [B, S], the packed place of each token of a text
PACKED = "packed.places"  # int64 [N], the place of each packed token among [B * S]


def declare_packing(graph: GraphBuilder, pad_token_id: int | None) -> None:
    """The two inputs, and all names above.

    pad_token_id: the last token that is another one has the logits, as in transformers; None takes the last real token.
    """
    for name in ("input_ids", "attention_mask"):
        graph.input(name, np.int64, ["batch_size", "sequence_length"])
    real = _real_tokens(graph)
    (count,) = graph.op("Cast", [real], "mask.count", to=TensorProto.INT64)
    (upto,) = graph.op("CumSum", [count, graph.constant("int.1", np.array(1))], "mask.up_to")
    (position,) = graph.op("Sub", [upto, graph.constant("int.1", np.array(1))], "mask.positions")  # [B, T]
    (flat,) = graph.op("Reshape", [real, _axis(graph, -1)], "mask.flat")
    (places,) = graph.op("NonZero", [flat], "packed.flat.row")  # [1, N] among [B * T]
    (places,) = graph.op("Transpose", [places], "packed.flat", perm=[1, 0])
    for source, packed in (("input_ids", TOKENS), (position, POSITIONS)):
        (line,) = graph.op("Reshape", [source, _axis(graph, -1)], f"{packed}.line")
        graph.op("Gather", [line, places], packed)
    graph.op("ReduceSum", [count, _axis(graph, 1)], LENGTHS, keepdims=0)
    graph.op("ReduceMax", [LENGTHS], LONGEST, keepdims=0)
    (last,) = graph.op("Sub", [LENGTHS, graph.constant("int.1", np.array(1))], f"{LAST_KEYS}.long")
    graph.op("Cast", [last], LAST_KEYS, to=TensorProto.INT32)
    starts = "texts.starts"
    graph.node("CumSum", [LENGTHS, graph.constant("int.0", np.array(0))], [starts], exclusive=1)
    _last_tokens(graph, real, position, starts, pad_token_id)
    _places(graph, places, starts)


def _real_tokens(graph: GraphBuilder) -> str:
    """The mask as truths [B, T], the first token of a text added where there would be none."""
    (mask,) = graph.op("Cast", ["attention_mask"], "mask.given", to=TensorProto.BOOL)
    (sums,) = graph.op("ReduceMax", ["attention_mask", _axis(graph, 1)], "mask.any", keepdims=1)
    (empty,) = graph.op("Equal", [sums, graph.constant("int.0", np.array(0))], "mask.empty")  # [B, 1]
    (width,) = graph.op("Shape", ["attention_mask"], "mask.width", start=1)
    (columns,) = graph.op("Range", _up_to(graph, "mask.width.scalar", width), "mask.columns")
    (first,) = graph.op("Equal", [columns, graph.constant("int.0", np.array(0))], "mask.first")
    (added,) = graph.op("And", [empty, first], "mask.added")
    (real,) = graph.op("Or", [mask, added], "mask.real")
    return real


def _last_tokens(graph: GraphBuilder, real: str, position: str, starts: str, pad_token_id: int | None) -> None:
    """LAST_PLACES and LAST_POSITIONS; 0 counts where a text is padding alone."""
    if pad_token_id is not None:
        pad = graph.constant("pad_token_id", np.array(pad_token_id))
        (padding,) = graph.op("Equal", ["input_ids", pad], "mask.padding")
        (other,) = graph.op("Not", [padding], "mask.other")
        (real,) = graph.op("And", [real, other], "mask.counts")
    (counted,) = graph.op("Where", [real, position, graph.constant("int.0", np.array(0))], "mask.counted")
    (last,) = graph.op("ReduceMax", [counted, _axis(graph, 1)], f"{LAST_POSITIONS}.long", keepdims=0)
    graph.op("Cast", [last], LAST_POSITIONS, to=TensorProto.INT32)
    graph.op("Add", [starts, last], LAST_PLACES)


def _places(graph: GraphBuilder, flat: str, starts: str) -> None:
    """BY_TEXT and PACKED. Behind the end of a text stand other tokens, which its own do not see."""
    (inner,) = graph.op("Range", _up_to(graph, "", LONGEST), "texts.inner")  # [S]
    (column,) = graph.op("Unsqueeze", [starts, _axis(graph, 1)], "texts.starts.column")
    (free,) = graph.op("Add", [column, inner], f"{BY_TEXT}.free")
    (count,) = graph.op("Shape", [flat], "packed.count", end=1)
    (end,) = graph.op("Sub", [count, graph.constant("int.1", np.array(1))], "packed.end")
    graph.op("Min", [free, end], BY_TEXT)
    (line,) = graph.op("Squeeze", [flat, _axis(graph, 1)], "packed.line")
    (width,) = graph.op("Shape", ["input_ids"], "packed.width", start=1)
    (text,) = graph.op("Div", [line, width], "packed.text")
    (shift,) = graph.op("Mul", [text, LONGEST], "packed.text.start")
    (inside,) = graph.op("Squeeze", [POSITIONS, _axis(graph, 1)], "packed.inside")
    graph.op("Add", [shift, inside], PACKED)


def _up_to(graph: GraphBuilder, scalar: str, limit: str) -> list[str]:
    """The inputs of Range for 0, 1, ... below a limit; scalar: the name for the number in a shape, or ""."""
    if scalar:
        (limit,) = graph.op("Squeeze", [limit], scalar)
    return [graph.constant("int.0", np.array(0)), limit, graph.constant("int.1", np.array(1))]


def _axis(graph: GraphBuilder, axis: int) -> str:
    return graph.constant("axis.last" if axis == -1 else f"axis.{axis}", np.array([axis]))


def unpack(graph: GraphBuilder, name: str, x: str) -> str:
    """[N, 1, width] -> [B, S, width]."""
    (line,) = graph.op("Squeeze", [x, _axis(graph, 1)], f"{name}.line")
    (rows,) = graph.op("Gather", [line, BY_TEXT], name, axis=0)
    return rows


def pack(graph: GraphBuilder, name: str, x: str, width: int) -> str:
    """[B, S, width] -> [N, 1, width]."""
    shape = graph.constant(f"line_of_{width}.shape", np.array([-1, 1, width]))
    (line,) = graph.op("Reshape", [x, shape], f"{name}.line")
    (rows,) = graph.op("Gather", [line, PACKED], name, axis=0)
    return rows


def last_of_texts(graph: GraphBuilder, name: str, x: str) -> str:
    """The rows of LAST_PLACES: [N, 1, width] -> [B, 1, width]."""
    (rows,) = graph.op("Gather", [x, LAST_PLACES], name, axis=0)
    return rows
