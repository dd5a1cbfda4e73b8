"""Products with stored matrices, and look-ups in them, by the way each is stored.

A plan stores a matrix as one or several parts, its rows one after the other: arrays of float32 or float16, or
`BlockQuantized`. The layout is that of torch.nn.Linear, [out_features, in_features]. `storage` names the stored matrix.
Two operations that name the same one share it, as the tied embedding and output matrix do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import BlockQuantized
from .builder import MICROSOFT, GraphBuilder
from .folding import FoldedDecoder

Array = NDArray[np.float32]
Part = NDArray[np.float32] | NDArray[np.float16] | BlockQuantized
Plan = Mapping[str, tuple[Part, ...]]  # the parts of every matrix by its storage


def in_blocks(plan: Plan) -> bool:
    """Whether weights are stored in blocks of few bits, some at least."""
    return any(isinstance(part, BlockQuantized) for parts in plan.values() for part in parts)


class Weights:
    """The numbers of one decoder: its matrices as a plan stores them, its constants as they were folded."""

    def __init__(self, folded: FoldedDecoder, plan: Plan) -> None:
        self._folded, self._plan = folded, plan

    def __contains__(self, name: str) -> bool:
        """Whether there is a constant of that name."""
        return name in self._folded.constants

    def constant(self, graph: GraphBuilder, name: str) -> str:
        """Use a folded constant."""
        return graph.constant(name, self._folded.constants[name])

    def linear(self, graph: GraphBuilder, name: str, x: str, storage: str = "") -> str:
        """x float32 [..., in] -> x weight^T + bias, [..., out]; the matrix is stored as `name` unless given.

        A product per part, side by side.
        """
        storage = storage or name
        out_features, in_features = self._folded.matrices[storage].weight.shape
        parts, bias = self._plan[storage], self._folded.constants.get(f"{name}.bias")
        assert sum(map(rows_of, parts)) == out_features, f"the parts of {storage} are not its rows"
        if len(parts) == 1:
            return product(graph, name, x, parts[0], in_features, bias, storage)
        starts = np.cumsum([0, *map(rows_of, parts)])
        outs = []
        for i, part in enumerate(parts):
            own = None if bias is None else np.ascontiguousarray(bias[starts[i] : starts[i + 1]])
            outs.append(product(graph, f"{name}.{i}", x, part, in_features, own, f"{storage}.{i}"))
        (y,) = graph.op("Concat", outs, name, axis=-1)
        return y

    def embedding(self, graph: GraphBuilder, name: str, indices: str) -> str:
        """Rows of a table, which is stored in one part: indices int64 [...] -> float32 [..., width]."""
        (part,) = self._plan[name]
        if isinstance(part, BlockQuantized):
            return block_rows(graph, name, indices, part, self._folded.matrices[name].weight.shape[1])
        (rows,) = graph.op("Gather", [graph.constant(f"{name}.weight", part), indices], name, axis=0)
        return rows if part.dtype == np.float32 else graph.float32(rows, f"{name}.float32")


def rows_of(part: Part) -> int:
    """Rows of a stored part."""
    return len(part.data) if isinstance(part, BlockQuantized) else len(part)


def stored_values(parts: tuple[Part, ...], in_features: int) -> Array:
    """The matrix that stored numbers stand for: float32 [out_features, in_features]."""
    values = [
        part.dequantize(in_features) if isinstance(part, BlockQuantized) else part.astype(np.float32, copy=False)
        for part in parts
    ]
    return values[0] if len(values) == 1 else np.concatenate(values)


def product(
    graph: GraphBuilder, name: str, x: str, part: Part, in_features: int, bias: Array | None, storage: str
) -> str:
    """x [..., in] -> [..., out]."""
    if not isinstance(part, BlockQuantized):
        return float_product(graph, name, x, part, bias, storage)
    if part.offsets is None:
        return block_product(graph, name, x, part, in_features, bias, storage)
    y = block_product(graph, f"{name}.centered", x, part, in_features, bias, storage)
    (total,) = graph.op("Add", [y, offset_product(graph, name, x, part, storage)], name)
    return total


def float_product(
    graph: GraphBuilder, name: str, x: str, weight: NDArray[Any], bias: Array | None, storage: str
) -> str:
    """FusedMatMul reads the matrix transposed, so a tied one needs no second copy."""
    matrix = graph.stored(f"{storage}.weight", weight)
    (y,) = graph.op("FusedMatMul", [x, matrix], name, domain=MICROSOFT, transB=1)
    if bias is not None:
        (y,) = graph.op("Add", [y, graph.constant(f"{name}.bias", bias)], f"{name}.biased")
    return y


def block_product(
    graph: GraphBuilder, name: str, x: str, part: BlockQuantized, in_features: int, bias: Array | None, storage: str
) -> str:
    """MatMulNBits with 8-bit activations; without them (accuracy_level 4) it unpacks to float32 on every call."""
    inputs = [x, graph.constant(f"{storage}.data", part.data), graph.stored(f"{storage}.scales", part.scales)]
    if part.zero_points is not None:
        inputs.append(graph.constant(f"{storage}.zero_points", part.zero_points))
    if bias is not None:
        inputs += [""] * (5 - len(inputs)) + [graph.constant(f"{name}.bias", bias)]
    sizes = {"K": in_features, "N": len(part.data), "bits": part.bits, "block_size": part.block_size}
    (y,) = graph.op("MatMulNBits", inputs, name, domain=MICROSOFT, accuracy_level=4, **sizes)
    return y


def offset_product(graph: GraphBuilder, name: str, x: str, part: BlockQuantized, storage: str) -> str:
    """The share of offsets in a product of codes around the middle: (offset + middle * scale) by a block's sum of x.

    x float32 [B, S, in]. MatMulNBits takes float zero points too, but then goes without 8-bit activations: 70 times
    slower (benchmarks/decisions/block_products.py).
    """
    assert part.offsets is not None
    scales, offsets = (
        graph.stored(f"{storage}.{n}", a) for n, a in (("scales", part.scales), ("offsets", part.offsets))
    )
    middle = graph.constant(f"middle.{part.bits}", np.array(2 ** (part.bits - 1), np.float32))
    (shift,) = graph.op("Mul", [scales, middle], f"{name}.shift")
    (centers,) = graph.op("Add", [offsets, shift], f"{name}.centers")
    shape = graph.constant(f"blocks_of_{part.block_size}.shape", np.array([0, 0, -1, part.block_size]))
    (blocks,) = graph.op("Reshape", [x, shape], f"{name}.blocks")
    axis = graph.constant("axis.last", np.array([-1]))
    (sums,) = graph.op("ReduceSum", [blocks, axis], f"{name}.sums", keepdims=0)
    (y,) = graph.op("FusedMatMul", [sums, centers], f"{name}.offset", domain=MICROSOFT, transB=1)
    return y


def block_rows(graph: GraphBuilder, name: str, indices: str, part: BlockQuantized, width: int) -> str:
    """GatherBlockQuantized over the same bytes; padding that blocks needed at the end of a row is cut off."""
    assert part.offsets is None, f"{name} has offsets, for which there is no operator"
    data = part.data.reshape(len(part.data), -1)
    inputs = [graph.constant(f"{name}.rows", data), indices, graph.stored(f"{name}.scales", part.scales)]
    if part.zero_points is not None:
        inputs.append(graph.constant(f"{name}.zero_points", part.zero_points))
    sizes = {"gather_axis": 0, "quantize_axis": 1, "bits": part.bits, "block_size": part.block_size}
    (y,) = graph.op("GatherBlockQuantized", inputs, name, domain=MICROSOFT, **sizes)
    if data.shape[1] * 8 // part.bits == width:
        return y
    ends = [graph.constant(f"{name}.{end}", np.array([i])) for end, i in (("from", 0), ("to", width), ("axis", -1))]
    (y,) = graph.op("Slice", [y, *ends], f"{name}.cut")
    return y
