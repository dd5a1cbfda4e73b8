"""The whole decoder: embedding, blocks, final norm, logits, and the state that goes in and comes out.

input_ids ─ embedding ─┬─ attention ─ + ─┬─ feed forward ─ + ─ ... ─ norm ─ output matrix ─ logits
                       └─ residual · h ──┘─ residual · h ──┘
"""

from __future__ import annotations

import numpy as np

from .attention import dynamic_mask_attention
from .builder import MICROSOFT, ConstantPool, GraphBuilder
from .dimensions import Dimensions
from .feed_forward import feed_forward
from .folding import FoldedDecoder
from .kv_scales import KeyValueScales, declare_scales
from .matmul import Plan, Weights
from .rotary import rotary_table
from .sinks import declare_sinks
from .variants import Variant


def build_decoder(
    variant: Variant,
    folded: FoldedDecoder,
    plan: Plan,
    pool: ConstantPool,
    scales: KeyValueScales | None = None,
    weights_type: type[Weights] = Weights,
) -> GraphBuilder:
    """Build one graph; `docs/decoder.md` describes inputs, outputs and state.

    plan: the stored parts of every matrix. pool: the constants that the graphs of one decoder share. scales: of the
    cache, where the dimensions keep it in 8 bits. weights_type: `AdaptedWeights` leaves places for an adapter.
    """
    graph, d, weights = GraphBuilder(pool), folded.dimensions, weights_type(folded, plan)
    variant.declare(graph, d)
    if scales is not None:
        declare_scales(graph, d, variant.cache_heads(d), scales)
    positions, limit = variant.rotary_positions(graph, d)
    angles = rotary_table(graph, folded.rotary, positions, limit)
    if limit is None and d.keep_sinks and not variant.takes_projection(d):
        declare_sinks(graph, d, folded.rotary, positions, angles)
    declare_row_shape(graph)
    if "first_layer_logits" in weights:
        weights.constant(graph, "first_layer_logits")
    residual = weights.embedding(graph, "embed_tokens", variant.token_ids)
    hidden = rms_norm(graph, d, "layers.0.input_layernorm", residual, weights)
    for index in range(d.num_layers):
        name = f"layers.{index}"
        out = dynamic_mask_attention(graph, d, variant, index, hidden, weights)
        residual = scaled(graph, f"{name}.input_residual", residual, weights)
        hidden, residual = add_and_norm(graph, d, f"{name}.post_attention", residual, out, weights)
        out = feed_forward(graph, d, f"{name}.mlp", hidden, weights)
        residual = scaled(graph, f"{name}.post_attention_residual", residual, weights)
        hidden, residual = add_and_norm(graph, d, f"{name}.output", residual, out, weights)
    output_logits(graph, d, variant.kept_rows(graph, hidden), folded, weights)
    return graph


def output_logits(graph: GraphBuilder, d: Dimensions, x: str, folded: FoldedDecoder, weights: Weights) -> None:
    """x [B, N, hidden] -> the output `logits`, by the embedding matrix itself where there is no other."""
    storage = "lm_head" if "lm_head" in folded.matrices else "embed_tokens"
    graph.node("Identity", [weights.linear(graph, "lm_head", x, storage)], ["logits"])
    graph.output("logits", np.float32, ["batch_size", "num_logits", d.vocab_size])


def declare_row_shape(graph: GraphBuilder) -> None:
    """The shape [B, S, -1] that turns rows of heads, [B * S, heads, width], back into rows."""
    (rows,) = graph.op("Shape", ["input_ids"], "rows.batch_and_length")
    graph.op("Concat", [rows, graph.constant("axis.last", np.array([-1]))], "rows.shape", axis=0)


def rms_norm(graph: GraphBuilder, d: Dimensions, name: str, x: str, weights: Weights) -> str:
    """Root mean square norm over the last axis, times a weight."""
    inputs = [x, weights.constant(graph, f"{name}.weight")]
    (y,) = graph.op("SimplifiedLayerNormalization", inputs, name, axis=-1, epsilon=d.rms_norm_eps, stash_type=1)
    return y


def add_and_norm(
    graph: GraphBuilder, d: Dimensions, name: str, residual: str, out: str, weights: Weights
) -> tuple[str, str]:
    """residual + out, and its norm, in one node: returns (normed, sum)."""
    inputs = [residual, out, weights.constant(graph, f"{name}.norm.weight")]
    outputs = [f"{name}.norm", "", "", f"{name}.sum"]
    graph.node("SkipSimplifiedLayerNormalization", inputs, outputs, MICROSOFT, epsilon=d.rms_norm_eps)
    return outputs[0], outputs[3]


def scaled(graph: GraphBuilder, name: str, x: str, weights: Weights) -> str:
    """x times a learned vector, where the model has one that is not all ones."""
    if f"{name}.weight" not in weights:
        return x
    (y,) = graph.op("Mul", [x, weights.constant(graph, f"{name}.weight")], name)
    return y
