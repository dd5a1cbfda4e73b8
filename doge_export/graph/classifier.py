"""The graph of a classifier: input_ids, attention_mask -> logits, one row for each text.

input_ids ─ packed ─ embedding ─ blocks ─ norm ─ score ─ logits

Padding is left out first (`packing`). The last block needs every token's keys and values, and of all else only the rows
of the tokens whose logits count. Its attention is a step of decoding: one query for each text, over keys of the past.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .attention import query_key_value
from .builder import ConstantPool, GraphBuilder
from .decoder import add_and_norm, rms_norm, scaled
from .dimensions import Dimensions
from .feed_forward import feed_forward
from .folding import HEAD, FoldedDecoder
from .matmul import Plan, Weights
from .packing import (
    LAST_KEYS,
    LAST_POSITIONS,
    LONGEST,
    POSITIONS,
    TOKENS,
    declare_packing,
    last_of_texts,
    pack,
    unpack,
)
from .rotary import rotary_table
from .variants.interface import group_query_attention, window_positions
from .whole_mask import whole_text_bias

WITHIN = "position_within_keep_window_size"  # names the limit in onnxruntime's error


def evicts(d: Dimensions) -> bool:
    """Whether the graph takes texts beyond the window: with a mask that chooses their keys, and without sinks."""
    return d.has_mask and not d.keep_sinks


class WholeTexts:
    """Packed tokens; see `TokenRows`."""

    token_ids = TOKENS

    def __init__(self, positions: str) -> None:
        self._positions = positions

    def rotary_rows(self, graph: GraphBuilder) -> str:
        """A token's position in its text."""
        return self._positions

    def dt(self, graph: GraphBuilder, d: Dimensions, name: str, rows: str) -> str:
        """In one digit: there is no cache."""
        return rows


def build_classifier(folded: FoldedDecoder, plan: Plan, pool: ConstantPool, pad_token_id: int | None) -> GraphBuilder:
    """Build the graph; plan: the stored parts of every matrix. pad_token_id: see `declare_packing`."""
    graph, d, weights = GraphBuilder(pool), folded.dimensions, Weights(folded, plan)
    declare_packing(graph, pad_token_id)
    texts = WholeTexts(declare_positions(graph, folded))
    declare_flat_shape(graph)
    if "first_layer_logits" in weights:
        weights.constant(graph, "first_layer_logits")
    residual = weights.embedding(graph, "embed_tokens", TOKENS)
    hidden = rms_norm(graph, d, "layers.0.input_layernorm", residual, weights)
    for index in range(d.num_layers):
        name, is_last = f"layers.{index}", index == d.num_layers - 1
        projected = weights.linear(graph, f"{name}.self_attn.qkv_proj", hidden)
        parts = query_key_value(graph, d, texts, index, projected, weights)
        attended = attend_last(graph, d, index, parts) if is_last else attend(graph, d, index, parts)
        out = weights.linear(graph, f"{name}.self_attn.o_proj", attended)
        if is_last:
            residual = last_of_texts(graph, f"{name}.residual.last", residual)
        residual = scaled(graph, f"{name}.input_residual", residual, weights)
        hidden, residual = add_and_norm(graph, d, f"{name}.post_attention", residual, out, weights)
        out = feed_forward(graph, d, f"{name}.mlp", hidden, weights)
        residual = scaled(graph, f"{name}.post_attention_residual", residual, weights)
        hidden, residual = add_and_norm(graph, d, f"{name}.output", residual, out, weights)
    output_logits(graph, hidden, folded, weights)
    return graph


def declare_positions(graph: GraphBuilder, folded: FoldedDecoder) -> str:
    """The rotary table, and the rows of it that belong to the packed tokens.

    A table of the window is made when the file is opened. A text beyond it needs one of its own length, or is an error.
    """
    d = folded.dimensions
    if evicts(d):
        bounds = [graph.constant("int.0", np.array(0)), LONGEST, graph.constant("int.1", np.array(1))]
        (positions,) = graph.op("Range", bounds, "positions")
        rotary_table(graph, folded.rotary, positions, None)
        return POSITIONS
    positions, limit = window_positions(graph, d)
    rotary_table(graph, folded.rotary, positions, limit)
    graph.op("Gather", [positions, POSITIONS], WITHIN)
    return WITHIN


def declare_flat_shape(graph: GraphBuilder) -> None:
    """The shape [N, 1, -1] that turns rows of heads, [N, heads, width], back into packed rows."""
    (rows,) = graph.op("Shape", [TOKENS], "rows.batch_and_length")
    graph.op("Concat", [rows, graph.constant("axis.last", np.array([-1]))], "rows.shape", axis=0)


def attend(graph: GraphBuilder, d: Dimensions, index: int, parts: list[str]) -> str:
    """Causal attention within each text: packed queries, keys and values -> [N, 1, heads * channels]."""
    name = f"layers.{index}.self_attn"
    by_text = [unpack(graph, f"{name}.{part}.by_text", x) for part, x in zip("qkv", parts, strict=True)]
    if evicts(d):
        out = f"{name}.attention.chosen"
        short, long = GraphBuilder(graph.pool), GraphBuilder(graph.pool)
        whole_attention(short, d, index, f"{name}.attention.short", by_text, "")
        bias = whole_text_bias(long, d, index, by_text[2])
        whole_attention(long, d, index, f"{name}.attention.long", by_text, bias)
        graph.choose(too_long(graph, d), out, (long, f"{name}.attention.long"), (short, f"{name}.attention.short"))
    else:
        out = whole_attention(graph, d, index, f"{name}.attention", by_text, "")
    return pack(graph, f"{name}.attention.packed", out, d.num_heads * d.channels)


def too_long(graph: GraphBuilder, d: Dimensions) -> str:
    """Whether a text of the batch is longer than the window: a truth []."""
    return graph.once("Greater", [LONGEST, graph.constant("window", np.array(d.keep_window_size))], "texts.too_long")


def whole_attention(graph: GraphBuilder, d: Dimensions, index: int, name: str, by_text: list[str], bias: str) -> str:
    """GroupQueryAttention of whole texts: [B, S, heads * channels]; bias [B, 1 or heads, S, S], or ""."""
    total = total_length(graph, name)
    inputs = [*by_text, "", "", LAST_KEYS, total, *(["", "", "", bias] if bias else [])]
    present = [f"{name}.{part}" for part in ("present_key", "present_value")]
    return group_query_attention(graph, d, name, inputs, present, d.num_kv_heads, rotates=False)


def total_length(graph: GraphBuilder, name: str) -> str:
    """The longest text, as GroupQueryAttention takes it: int32 []."""
    (total,) = graph.op("Cast", [LONGEST], f"{name}.total", to=TensorProto.INT32)
    return total


def attend_last(graph: GraphBuilder, d: Dimensions, index: int, parts: list[str]) -> str:
    """Attention of the last tokens alone: packed queries, keys and values -> [B, 1, heads * channels]."""
    name, out = f"layers.{index}.self_attn", f"layers.{index}.self_attn.attention.last"
    if not evicts(d):
        return one_query(graph, d, index, out, parts)
    short, long = GraphBuilder(graph.pool), GraphBuilder(graph.pool)
    one_query(short, d, index, f"{out}.short", parts)
    by_text = [unpack(long, f"{name}.{part}.by_text", x) for part, x in zip("qkv", parts, strict=True)]
    bias = whole_text_bias(long, d, index, by_text[2])
    whole = whole_attention(long, d, index, f"{name}.attention.long", by_text, bias)
    packed = pack(long, f"{name}.attention.packed", whole, d.num_heads * d.channels)
    graph.choose(too_long(graph, d), out, (long, last_of_texts(long, f"{out}.long", packed)), (short, f"{out}.short"))
    return out


def one_query(graph: GraphBuilder, d: Dimensions, index: int, out: str, parts: list[str]) -> str:
    """The last token of each text as a step of decoding, over its text's keys as the past: [B, 1, heads * channels].

    The step writes the key of its own token, which the past has in the same slot.
    """
    name = f"layers.{index}.self_attn.last"
    new = [last_of_texts(graph, f"{name}.{part}", x) for part, x in zip("qkv", parts, strict=True)]
    heads = graph.constant("past.shape", np.array([0, 0, d.num_kv_heads, d.channels]))
    past = []
    for part, x in zip("kv", parts[1:], strict=True):
        by_text = unpack(graph, f"{name}.{part}.by_text", x)
        (by_head,) = graph.op("Reshape", [by_text, heads], f"{name}.{part}.by_head")
        (turned,) = graph.op("Transpose", [by_head], f"{name}.{part}.past", perm=[0, 2, 1, 3])
        past.append(turned)
    inputs = [*new, *past, LAST_POSITIONS, total_length(graph, name)]
    present = [f"{name}.{part}" for part in ("present_key", "present_value")]
    return group_query_attention(graph, d, out, inputs, present, d.num_kv_heads, rotates=False)


def output_logits(graph: GraphBuilder, x: str, folded: FoldedDecoder, weights: Weights) -> None:
    """x [B, 1, hidden] -> the output `logits` [B, labels], by the head in float32."""
    (row,) = graph.op("Squeeze", [x, graph.constant("axis.1", np.array([1]))], "last.hidden")
    score = weights.constant(graph, HEAD)
    graph.node("Gemm", [row, score], ["logits"], transB=1)
    graph.output("logits", np.float32, ["batch_size", folded.columns])
