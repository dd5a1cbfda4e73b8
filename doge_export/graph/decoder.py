"""The whole decoder: embedding, blocks, final norm, logits, and the state that goes in and comes out.

    input_ids ─ embedding ─┬─ attention ─ + ─┬─ feed forward ─ + ─ ... ─ norm ─ output matrix ─ logits
                           └─ residual · h ──┘─ residual · h ──┘

`build_decoder` takes the PyTorch model's tensors as numpy arrays, by their native names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .attention import dynamic_mask_attention
from .builder import MICROSOFT, ConstantPool, GraphBuilder
from .dimensions import DecoderLayout
from .eviction import declare_eviction
from .feed_forward import feed_forward
from .kv_scales import KeyValueScales, declare_scales
from .mask import first_layer_logits
from .matmul import WeightFormat
from .rotary import RotarySpec, rotary_table

Array = NDArray[np.float32]


@dataclass(frozen=True)
class DecoderWeights:
    """The tensors of a model by native name (float32), a tied output matrix left out, and its rotary embedding."""

    tensors: Mapping[str, Array]
    rotary: RotarySpec

    def layer(self, index: int) -> dict[str, Array]:
        """The tensors of one layer, without the prefix."""
        prefix = f"model.layers.{index}."
        return {name.removeprefix(prefix): array for name, array in self.tensors.items() if name.startswith(prefix)}


def build_decoder(
    layout: DecoderLayout,
    weights: DecoderWeights,
    weight_format: WeightFormat,
    pool: ConstantPool,
    scales: KeyValueScales | None = None,
) -> GraphBuilder:
    """Build one of the three graphs; `docs/decoder.md` describes inputs, outputs and state.

    scales: of the cache, where the layout keeps it in 8 bits.
    """
    graph = GraphBuilder(pool)
    declare_interface(graph, layout)
    if scales is not None:
        declare_scales(graph, layout, scales)
    limit = None if layout.recurrent else layout.keep_window_size
    rotary_table(graph, weights.rotary, rotary_positions(graph, layout), limit)
    declare_row_shape(graph)
    if layout.has_mask and layout.looks_up_first_layer:
        embedding = weights.tensors["model.embed_tokens.weight"]
        graph.constant("first_layer_logits", first_layer_logits(layout, weights.layer(0), embedding))
    residual = weight_format.embedding(graph, "embed_tokens", "input_ids", weights.tensors["model.embed_tokens.weight"])
    norm_weight = weights.layer(0)["input_layernorm.weight"]
    hidden = rms_norm(graph, "layers.0.input_layernorm", residual, norm_weight, layout.rms_norm_eps)
    for index in range(layout.num_layers):
        name, tensors = f"layers.{index}", weights.layer(index)
        out = dynamic_mask_attention(graph, layout, index, hidden, tensors, weight_format)
        residual = scaled(graph, f"{name}.input_residual", residual, tensors["input_residual"])
        hidden, residual = add_and_norm(
            graph, f"{name}.post_attention", residual, out, tensors["post_attention_layernorm.weight"], layout
        )
        out = feed_forward(graph, layout, f"{name}.mlp", hidden, tensors, weight_format)
        residual = scaled(graph, f"{name}.post_attention_residual", residual, tensors["post_attention_residual"])
        last = index == layout.num_layers - 1
        norm_weight = (
            weights.tensors["model.norm.weight"] if last else weights.layer(index + 1)["input_layernorm.weight"]
        )
        hidden, residual = add_and_norm(graph, f"{name}.output", residual, out, norm_weight, layout)
    (kept,) = graph.op("Gather", [hidden, "logits_to_keep"], "kept", axis=1)
    output_logits(graph, kept, weights, weight_format)
    graph.output("logits", np.float32, ["batch_size", "num_logits", layout.vocab_size])
    return graph


def output_logits(graph: GraphBuilder, x: str, weights: DecoderWeights, weight_format: WeightFormat) -> None:
    """x [B, N, hidden] -> the output `logits`, by the embedding matrix itself where there is no other."""
    embedding = weights.tensors["model.embed_tokens.weight"]
    matrix = weights.tensors.get("lm_head.weight", embedding)
    storage = "embed_tokens" if matrix is embedding else "lm_head"
    graph.node("Identity", [weight_format.linear(graph, "lm_head", x, matrix, storage=storage)], ["logits"])


def rotary_positions(graph: GraphBuilder, layout: DecoderLayout) -> str:
    """Positions to tabulate: every one that fits the window, or those of the new tokens."""
    if layout.recurrent:
        (positions,) = graph.op("Reshape", ["position_ids", graph.constant("axis.last", np.array([-1]))], "positions")
        return positions
    bounds = [graph.constant(f"int.{i}", np.array(i)) for i in (0, layout.keep_window_size, 1)]
    (positions,) = graph.op("Range", bounds, "positions")
    return positions


def declare_interface(graph: GraphBuilder, layout: DecoderLayout) -> None:
    """Declare tokens, positions, lengths and the past of every layer, and the present as outputs."""
    drafted = layout.draft_tokens
    rows: list[int | str] = [1, drafted] if drafted else ["batch_size", "sequence_length"]
    graph.input("input_ids", np.int64, rows)
    graph.input("position_ids", np.int64, rows)
    graph.input("seqlens_k", np.int32, [drafted or "batch_size"])
    graph.input("total_sequence_length", np.int32, [drafted] if drafted else [])
    for name in ("seqlens_k", "total_sequence_length") if drafted else ():
        lengths = graph.constant("draft.ones", np.ones(drafted, np.int64))
        graph.op("Split", [name, lengths], f"draft.{name}", outputs=drafted, axis=0)
    graph.input("logits_to_keep", np.int64, ["num_logits"])
    number = np.int8 if layout.kv_int8 else np.float32
    for index in range(layout.num_layers):
        for part in ("key", "value"):
            shape: list[int | str] = ["batch_size", layout.cache_heads, "slots", layout.channels]
            graph.input(f"past_key_values.{index}.{part}", number, shape)
            for j in range(drafted - 1):
                graph.output(f"present.{index}.{part}.{j}", number, shape)
            graph.output(f"present.{index}.{part}", number, shape)
        if layout.separate_precedence:
            graph.output(f"new_precedence.{index}", np.float32, [*rows, layout.num_mask_heads])
    if layout.recurrent:
        declare_eviction(graph, layout)


def declare_row_shape(graph: GraphBuilder) -> None:
    """The shape [B, S, -1] that turns rows of heads, [B * S, heads, width], back into rows."""
    (rows,) = graph.op("Shape", ["input_ids"], "rows.batch_and_length")
    graph.op("Concat", [rows, graph.constant("axis.last", np.array([-1]))], "rows.shape", axis=0)


def rms_norm(graph: GraphBuilder, name: str, x: str, weight: Array, eps: float) -> str:
    """Root mean square norm over the last axis, times weight."""
    inputs = [x, graph.constant(f"{name}.weight", weight)]
    (y,) = graph.op("SimplifiedLayerNormalization", inputs, name, axis=-1, epsilon=eps, stash_type=1)
    return y


def add_and_norm(
    graph: GraphBuilder, name: str, residual: str, out: str, weight: Array, layout: DecoderLayout
) -> tuple[str, str]:
    """residual + out, and its norm, in one node: returns (normed, sum)."""
    inputs, outputs = (
        [residual, out, graph.constant(f"{name}.norm.weight", weight)],
        [f"{name}.norm", "", "", f"{name}.sum"],
    )
    graph.node("SkipSimplifiedLayerNormalization", inputs, outputs, MICROSOFT, epsilon=layout.rms_norm_eps)
    return outputs[0], outputs[3]


def scaled(graph: GraphBuilder, name: str, x: str, factor: Array) -> str:
    """x times a learned vector; nothing where the vector is all ones (every lifted Llama)."""
    if np.all(factor == 1):
        return x
    (y,) = graph.op("Mul", [x, graph.constant(f"{name}.weight", factor)], name)
    return y
