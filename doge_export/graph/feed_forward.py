"""The gated MLP, and the mixture of single-neuron experts that shares it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError
from .builder import MICROSOFT, GraphBuilder
from .dimensions import DecoderLayout
from .matmul import WeightFormat

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
    (column,) = graph.op("Unsqueeze", [x, _integers(graph, "axis.last", [-1])], f"{name}.column")  # [B, S, hidden, 1]
    scores, experts = choose_experts(graph, layout, name, column, tensors)
    (probability,) = graph.op("Softmax", [scores], f"{name}.router.softmax", axis=-1)
    before_last = _integers(graph, "axis.before_last", [-2])
    (probability,) = graph.op("Unsqueeze", [probability, before_last], f"{name}.router.weights")  # [B, S, 1, k]
    down = fmt.embedding(graph, f"{name}.down_embed", experts, tensors["mlp.down_embed.weight"])
    up = fmt.embedding(graph, f"{name}.up_embed", experts, tensors["mlp.up_embed.weight"])
    (dot,) = graph.op("FusedMatMul", [column, down], f"{name}.experts.dot", domain=MICROSOFT, transA=1, transB=1)
    neuron = activation(graph, layout, f"{name}.experts.act", dot)
    (neuron,) = graph.op("Mul", [neuron, probability], f"{name}.experts.weighted")
    (routed,) = graph.op("MatMul", [neuron, up], f"{name}.experts.sum")
    (routed,) = graph.op("Squeeze", [routed, "axis.before_last"], f"{name}.experts.out")
    return routed


def choose_experts(
    graph: GraphBuilder, layout: DecoderLayout, name: str, column: str, tensors: Mapping[str, Array]
) -> tuple[str, str]:
    """The best experts of each token [B, S, hidden, 1] by its own product keys: scores float32 and indices int64.

    Both are [B, S, experts_per_tok]. The router stays in float32: it is small, and a rounded score can choose another
    expert. All num_keys^2 scores are added up and searched: the pairs of the best halves alone are fewer, and the nodes
    that find them cost more than that saves (benchmarks/experts.py).
    """
    assert layout.num_experts is not None
    num_keys = math.isqrt(layout.num_experts)
    # The matrix on the left makes it a product per token; on the right, tokens would be multiplied together, in another
    # order than one by one.
    halves = []
    for half, rows in (("x", slice(num_keys)), ("y", slice(num_keys, None))):
        weight = graph.constant(f"{name}.router_gate.{half}.weight", tensors["mlp.router_gate.weight"][rows])
        (logits,) = graph.op("MatMul", [weight, column], f"{name}.router_gate.{half}")  # [B, S, num_keys, 1]
        if "mlp.router_gate.bias" in tensors:
            bias = graph.constant(f"{name}.router_gate.{half}.bias", tensors["mlp.router_gate.bias"][rows, None])
            (logits,) = graph.op("Add", [logits, bias], f"{name}.router_gate.{half}.biased")
        halves.append(logits)
    (row,) = graph.op("Reshape", [halves[1], _integers(graph, "router.row", [0, 0, 1, num_keys])], f"{name}.router.y")
    (grid,) = graph.op("Add", [halves[0], row], f"{name}.router.grid")  # expert x * num_keys + y
    (scores,) = graph.op("Reshape", [grid, _integers(graph, "router.flat", [0, 0, num_keys**2])], f"{name}.router.all")
    inputs = [scores, _integers(graph, "router.top_k", [layout.num_experts_per_tok])]
    top, experts = graph.op("TopK", inputs, f"{name}.router.top", outputs=2, sorted=0)
    return top, experts


def _integers(graph: GraphBuilder, name: str, values: list[int] | NDArray[np.int64]) -> str:
    """An int64 constant that layers share by name."""
    return graph.constant(name, np.array(values, np.int64))
