"""cos and sin of positions, computed in the graph.

In the decoder the positions are constants, so onnxruntime folds the table when it opens the file, and the file stays
small. In the recurrent decoder they are those of the new tokens, so a stream can go on for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from .builder import GraphBuilder


@dataclass(frozen=True)
class RotarySpec:
    """The numbers of `doge_model.rotary.DogeRotaryEmbedding`; the graph has the same formulas, in float64.

    Attributes:
        inv_freq: angle per position of every channel pair.
        attention_scaling: factor on cos and sin.
        max_position: positions of the training; angles within are rounded to float32, as they were then.
        theta, dynamic_factor: of dynamic RoPE beyond max_position; no factor means none.
    """

    inv_freq: tuple[float, ...]
    attention_scaling: float
    max_position: int
    theta: float
    dynamic_factor: float | None


def rotary_table(graph: GraphBuilder, spec: RotarySpec, positions: str, limit: int | None) -> str:
    """Declare `rotary.cos` and `rotary.sin`, float32 [N, head_dim / 2], of positions int64 [N]; returns the angles.

    limit: positions are below it; None means that there is none.
    """
    angles = rotary_angles(graph, spec, "rotary", positions, limit)
    for op_type in ("Cos", "Sin"):
        _scaled(graph, spec, op_type, angles)
    return angles


def rotary_angles(graph: GraphBuilder, spec: RotarySpec, name: str, positions: str, limit: int | None) -> str:
    """The angles of positions int64 [N]: double [N, head_dim / 2].

    Those that no position below the limit has are not computed, which opens the decoder 5 ms sooner.
    """
    (double,) = graph.op("Cast", [positions], f"{name}.positions", to=TensorProto.DOUBLE)
    (column,) = graph.op("Unsqueeze", [double, graph.constant("rotary.axis", np.array([-1]))], f"{name}.column")
    (free,) = graph.op("Mul", [column, graph.constant("rotary.inv_freq", np.array(spec.inv_freq))], f"{name}.angles")
    (single,) = graph.op("Cast", [free], f"{name}.angles.single", to=TensorProto.FLOAT)
    (angles,) = graph.op("Cast", [single], f"{name}.angles.trained", to=TensorProto.DOUBLE)
    if limit is None or limit > spec.max_position:
        last = graph.constant("rotary.max_position", np.array(spec.max_position - 1.0))
        (beyond,) = graph.op("Greater", [column, last], f"{name}.beyond")
        far = free if spec.dynamic_factor is None else _dynamic_angles(graph, spec, name, column)
        (angles,) = graph.op("Where", [beyond, far, angles], f"{name}.angles.chosen")
    return angles


def _dynamic_angles(graph: GraphBuilder, spec: RotarySpec, name: str, column: str) -> str:
    """Angles under the base that a sequence ending at the position has: double [N, 1] -> [N, head_dim / 2]."""
    assert spec.dynamic_factor is not None
    dim = 2 * len(spec.inv_freq)
    # base = theta * stretch ** (dim / (dim - 2)), stretch = factor * (position + 1) / max_position - (factor - 1)
    slope = graph.constant("rotary.slope", np.array(spec.dynamic_factor / spec.max_position))
    offset = graph.constant(
        "rotary.offset", np.array(spec.dynamic_factor / spec.max_position - spec.dynamic_factor + 1)
    )
    (product,) = graph.op("Mul", [column, slope], f"{name}.stretch.product")
    (stretch,) = graph.op("Add", [product, offset], f"{name}.stretch.free")
    (stretch,) = graph.op("Max", [stretch, graph.constant("rotary.one", np.array(1.0))], f"{name}.stretch")
    # inv_freq_i = base ** -(2 i / dim)
    exponents = -np.arange(0, dim, 2) / dim
    base = graph.constant("rotary.theta", np.power(spec.theta, exponents))
    powers = graph.constant("rotary.powers", exponents * dim / (dim - 2))
    (growth,) = graph.op("Pow", [stretch, powers], f"{name}.growth")
    (inv_freq,) = graph.op("Mul", [growth, base], f"{name}.dynamic_inv_freq")
    (angles,) = graph.op("Mul", [column, inv_freq], f"{name}.angles.dynamic")
    return angles


def _scaled(graph: GraphBuilder, spec: RotarySpec, op_type: str, angles: str) -> None:
    name = f"rotary.{op_type.lower()}"
    (value,) = graph.op(op_type, [angles], f"{name}.double")
    if spec.attention_scaling != 1:
        scaling = graph.constant("rotary.attention_scaling", np.array(spec.attention_scaling))
        (value,) = graph.op("Mul", [value, scaling], f"{name}.scaled")
    graph.op("Cast", [value], name, to=TensorProto.FLOAT)
