"""The gated MLP, and the mixture of single-neuron experts that shares it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError
from .builder import MICROSOFT, GraphBuilder
from .dimensions import Dimensions
from .matmul import Weights

# config.hidden_act -> operator, its domain and attributes
ACTIVATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "silu": ("QuickGelu", MICROSOFT, {"alpha": 1.0}),
    "swish": ("QuickGelu", MICROSOFT, {"alpha": 1.0}),
    "gelu": ("Gelu", "", {"approximate": "none"}),
    "gelu_new": ("Gelu", "", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", "", {"approximate": "tanh"}),
    "relu": ("Relu", "", {}),
}


def activation(graph: GraphBuilder, d: Dimensions, name: str, x: str) -> str:
    """The configured activation function.

    Raises:
        ExportError: there is no operator for it.
    """
    if d.hidden_act not in ACTIVATIONS:
        raise ExportError(f"hidden_act {d.hidden_act!r} cannot be exported; exportable are {', '.join(ACTIVATIONS)}")
    op_type, domain, attributes = ACTIVATIONS[d.hidden_act]
    (y,) = graph.op(op_type, [x], name, domain=domain, **attributes)
    return y


def feed_forward(graph: GraphBuilder, d: Dimensions, name: str, x: str, weights: Weights) -> str:
    """x float32 [B, S, hidden] -> [B, S, hidden]."""
    out = gated_mlp(graph, d, name, x, weights)
    if d.num_experts is None:
        return out
    routed = routed_experts(graph, d, name, x, weights)
    (total,) = graph.op("Add", [out, routed], f"{name}.shared_and_routed")
    return total


def gated_mlp(graph: GraphBuilder, d: Dimensions, name: str, x: str, weights: Weights) -> str:
    """down(act(gate x) * up x), gate and up as one matrix."""
    both = weights.linear(graph, f"{name}.gate_up_proj", x)
    gate, up = graph.op("Split", [both], f"{name}.gate", outputs=2, axis=-1, num_outputs=2)
    (product,) = graph.op("Mul", [activation(graph, d, f"{name}.act", gate), up], f"{name}.gated")
    return weights.linear(graph, f"{name}.down_proj", product)


def routed_experts(graph: GraphBuilder, d: Dimensions, name: str, x: str, weights: Weights) -> str:
    """Sum over the token's experts of softmax(score) * act(down . x) * up: [B, S, hidden] -> [B, S, hidden]."""
    (column,) = graph.op("Unsqueeze", [x, _integers(graph, "axis.last", [-1])], f"{name}.column")  # [B, S, hidden, 1]
    scores, experts = choose_experts(graph, d, name, column, weights)
    (probability,) = graph.op("Softmax", [scores], f"{name}.router.softmax", axis=-1)
    before_last = _integers(graph, "axis.before_last", [-2])
    (probability,) = graph.op("Unsqueeze", [probability, before_last], f"{name}.router.weights")  # [B, S, 1, k]
    down = weights.embedding(graph, f"{name}.down_embed", experts)
    up = weights.embedding(graph, f"{name}.up_embed", experts)
    (dot,) = graph.op("FusedMatMul", [column, down], f"{name}.experts.dot", domain=MICROSOFT, transA=1, transB=1)
    neuron = activation(graph, d, f"{name}.experts.act", dot)
    (neuron,) = graph.op("Mul", [neuron, probability], f"{name}.experts.weighted")
    (routed,) = graph.op("MatMul", [neuron, up], f"{name}.experts.sum")
    (routed,) = graph.op("Squeeze", [routed, "axis.before_last"], f"{name}.experts.out")
    return routed


def choose_experts(graph: GraphBuilder, d: Dimensions, name: str, column: str, weights: Weights) -> tuple[str, str]:
    """The best experts of each token [B, S, hidden, 1] by its own product keys: scores float32 and indices int64.

    Both are [B, S, experts_per_tok]. The router stays in float32: it is small, and a rounded score can choose another
    expert. All num_keys^2 scores are added up and searched. The pairs of the best halves alone are fewer, but the nodes
    that find them cost more than that saves (docs/log.md).
    """
    assert d.num_experts is not None
    num_keys = math.isqrt(d.num_experts)
    # The matrix on the left makes it a product per token. On the right, tokens would be multiplied together, in another
    # order than one by one.
    halves = []
    for half in (f"{name}.router_gate.x", f"{name}.router_gate.y"):
        (logits,) = graph.op("MatMul", [weights.constant(graph, f"{half}.weight"), column], half)  # [B, S, num_keys, 1]
        if f"{half}.bias" in weights:
            (logits,) = graph.op("Add", [logits, weights.constant(graph, f"{half}.bias")], f"{half}.biased")
        halves.append(logits)
    (row,) = graph.op("Reshape", [halves[1], _integers(graph, "router.row", [0, 0, 1, num_keys])], f"{name}.router.y")
    (grid,) = graph.op("Add", [halves[0], row], f"{name}.router.grid")  # expert x * num_keys + y
    (scores,) = graph.op("Reshape", [grid, _integers(graph, "router.flat", [0, 0, num_keys**2])], f"{name}.router.all")
    inputs = [scores, _integers(graph, "router.top_k", [d.num_experts_per_tok])]
    top, experts = graph.op("TopK", inputs, f"{name}.router.top", outputs=2, sorted=0)
    return top, experts


def _integers(graph: GraphBuilder, name: str, values: list[int] | NDArray[np.int64]) -> str:
    """An int64 constant that layers share by name."""
    return graph.constant(name, np.array(values, np.int64))
