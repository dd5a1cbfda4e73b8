"""The gated MLP, and the mixture of single-neuron experts that shares it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError
from .builder import MICROSOFT, GraphBuilder
from .layout import DecoderLayout
from .weight_formats import WeightFormat

Array = NDArray[np.float32]

# config.hidden_act -> operator, its domain and attributes
ACTIVATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "silu": ("QuickGelu", MICROSOFT, {"alpha": 1.0}),
    "swish": ("QuickGelu", MICROSOFT, {"alpha": 1.0}),
    "gelu": ("Gelu", "", {"approximate": "none"}),
    "gelu_new": ("Gelu", "", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", "", {"approximate": "tanh"}),
    "relu": ("Relu", "", {}),
}


def activation(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str) -> str:
    """The configured activation function.

    Raises:
        ExportError: there is no operator for it.
    """
    if layout.hidden_act not in ACTIVATIONS:
        raise ExportError(
            f"hidden_act {layout.hidden_act!r} cannot be exported; exportable are {', '.join(ACTIVATIONS)}"
        )
    op_type, domain, attributes = ACTIVATIONS[layout.hidden_act]
    (y,) = graph.op(op_type, [x], name, domain=domain, **attributes)
    return y


def feed_forward(
    graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, tensors: Mapping[str, Array], fmt: WeightFormat
) -> str:
    """x float32 [B, S, hidden] -> [B, S, hidden]."""
    out = gated_mlp(graph, layout, name, x, tensors, fmt)
    if layout.num_experts is None:
        return out
    routed = routed_experts(graph, layout, name, x, tensors, fmt)
    (total,) = graph.op("Add", [out, routed], f"{name}.shared_and_routed")
    return total


def gated_mlp(
    graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, tensors: Mapping[str, Array], fmt: WeightFormat
) -> str:
    """down(act(gate x) * up x), gate and up as one matrix."""
    weight = np.concatenate([tensors["mlp.gate_proj.weight"], tensors["mlp.up_proj.weight"]])
    bias = None
    if "mlp.gate_proj.bias" in tensors:
        bias = np.concatenate([tensors["mlp.gate_proj.bias"], tensors["mlp.up_proj.bias"]])
    both = fmt.linear(graph, f"{name}.gate_up_proj", x, weight, bias)
    gate, up = graph.op("Split", [both], f"{name}.gate", outputs=2, axis=-1, num_outputs=2)
    (product,) = graph.op("Mul", [activation(graph, layout, f"{name}.act", gate), up], f"{name}.gated")
    down = tensors["mlp.down_proj.weight"]
    return fmt.linear(graph, f"{name}.down_proj", product, down, tensors.get("mlp.down_proj.bias"))


def routed_experts(
    graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, tensors: Mapping[str, Array], fmt: WeightFormat
) -> str:
    """Sum over the token's experts of softmax(score) * act(down . x) * up: [B, S, hidden] -> [B, S, hidden]."""
    (row,) = graph.op("Unsqueeze", [x, _integers(graph, "axis.before_last", [-2])], f"{name}.row")  # [B, S, 1, hidden]
    scores, experts = choose_experts(graph, layout, name, x, tensors)  # [B, S, 1, k], [B, S, k]
    (probability,) = graph.op("Softmax", [scores], f"{name}.router.softmax", axis=-1)
    down = fmt.embedding(graph, f"{name}.down_embed", experts, tensors["mlp.down_embed.weight"])
    up = fmt.embedding(graph, f"{name}.up_embed", experts, tensors["mlp.up_embed.weight"])
    (dot,) = graph.op("FusedMatMul", [row, down], f"{name}.experts.dot", domain=MICROSOFT, transB=1)
    neuron = activation(graph, layout, f"{name}.experts.act", dot)
    (neuron,) = graph.op("Mul", [neuron, probability], f"{name}.experts.weighted")
    (routed,) = graph.op("MatMul", [neuron, up], f"{name}.experts.sum")
    (routed,) = graph.op("Squeeze", [routed, "axis.before_last"], f"{name}.experts.out")
    return routed


def choose_experts(
    graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, tensors: Mapping[str, Array]
) -> tuple[str, str]:
    """The best experts of x [B, S, hidden] by each token's own product keys.

    Returns scores float32 [B, S, 1, experts_per_tok] and indices int64 [B, S, experts_per_tok]. The router stays in
    float32: it is small, and a rounded score can choose another expert.
    """
    assert layout.num_experts is not None
    num_keys, top_k = math.isqrt(layout.num_experts), layout.num_experts_per_tok
    # The matrix on the left makes it a product per token; on the right, tokens would be multiplied together, in another
    # order than one by one.
    (column,) = graph.op("Unsqueeze", [x, _integers(graph, "axis.last", [-1])], f"{name}.column")
    router = graph.constant(f"{name}.router_gate.weight", tensors["mlp.router_gate.weight"])
    (logits,) = graph.op("MatMul", [router, column], f"{name}.router_gate")  # [B, S, 2 * num_keys, 1]
    if "mlp.router_gate.bias" in tensors:
        bias = graph.constant(f"{name}.router_gate.bias", tensors["mlp.router_gate.bias"][:, None])
        (logits,) = graph.op("Add", [logits, bias], f"{name}.router_gate.biased")
    (halves,) = graph.op("Reshape", [logits, _integers(graph, "router.halves", [0, 0, 2, num_keys])], f"{name}.halves")
    width = min(top_k, num_keys)
    best, keys = graph.op("TopK", [halves, _integers(graph, "router.width", [width])], f"{name}.router.best", outputs=2)
    strides = graph.constant("router.strides", np.array([[num_keys], [1]]))
    (keys,) = graph.op("Mul", [keys, strides], f"{name}.router.strided")
    scores = pair_sums(graph, f"{name}.router.scores", best, width, top_k)
    indices = pair_sums(graph, f"{name}.router.indices", keys, width, top_k)
    inputs = [scores, _integers(graph, "router.top_k", [top_k])]
    top, place = graph.op("TopK", inputs, f"{name}.router.top", outputs=2, sorted=0)
    (experts,) = graph.op("GatherElements", [indices, place], f"{name}.router.chosen", axis=-1)
    (experts,) = graph.op("Squeeze", [experts, "axis.before_last"], f"{name}.router.experts")
    return top, experts


def pair_sums(graph: GraphBuilder, name: str, halves: str, width: int, top_k: int) -> str:
    """x_i + y_j of the pairs that can be among the top_k, halves [B, S, 2, width] in descending order: [B, S, 1, n].

    Pair (i, j) has (i + 1) (j + 1) - 1 others at least as large, so beyond top_k of them it is out: 50 pairs of 256 are
    left for 16 experts, 119 of 1024 for 32.
    """
    i, j = np.nonzero(np.multiply.outer(np.arange(1, width + 1), np.arange(1, width + 1)) <= top_k)
    (row,) = graph.op("Reshape", [halves, _integers(graph, "router.row", [0, 0, 1, 2 * width])], f"{name}.row")
    parts = [
        graph.op("Gather", [row, _integers(graph, f"router.{half}", places)], f"{name}.{half}", axis=-1)[0]
        for half, places in (("x", i), ("y", width + j))
    ]
    (sums,) = graph.op("Add", parts, name)
    return sums


def _integers(graph: GraphBuilder, name: str, values: list[int] | NDArray[np.int64]) -> str:
    """An int64 constant that layers share by name."""
    return graph.constant(name, np.array(values, np.int64))
