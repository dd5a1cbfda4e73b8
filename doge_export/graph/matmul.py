"""How stored matrices are multiplied, by what they are stored as; the graph does not know how their numbers came about.

A matrix is stored as one or several parts, which are its rows one after the other: arrays of float32 or float16, or
`BlockQuantized`. The layout is that of torch.nn.Linear, [out_features, in_features]. `storage` names the stored matrix;
two operations that name the same one share it, as the tied embedding and output matrix do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .blocks import BlockQuantized
from .builder import MICROSOFT, GraphBuilder

Array = NDArray[np.float32]
Part = NDArray[np.float32] | NDArray[np.float16] | BlockQuantized
Plan = Mapping[str, tuple[Part, ...]]  # the parts of every matrix by its storage


class WeightFormat(Protocol):
    """What a graph needs of its matrices."""

    def linear(
        self, graph: GraphBuilder, name: str, x: str, weight: Array, bias: Array | None = None, storage: str = ""
    ) -> str:
        """x [..., in] -> x weight^T + bias [..., out]; storage is `name` unless given."""

    def embedding(self, graph: GraphBuilder, name: str, indices: str, table: Array) -> str:
        """Rows of table [n, width]: indices int64 [...] -> float32 [..., width]; stored as `name`."""


class StoredWeights:
    """Matrices as a plan says: of those that are handed in only the shape counts."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def linear(
        self, graph: GraphBuilder, name: str, x: str, weight: Array, bias: Array | None = None, storage: str = ""
    ) -> str:
        """A product per part, side by side."""
        storage, (out_features, in_features) = storage or name, weight.shape
        parts = self._plan[storage]
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

    def embedding(self, graph: GraphBuilder, name: str, indices: str, table: Array) -> str:
        """A gather of rows, which are stored in one part."""
        (part,) = self._plan[name]
        if isinstance(part, BlockQuantized):
            return block_rows(graph, name, indices, part, table.shape[1])
        (rows,) = graph.op("Gather", [graph.constant(f"{name}.weight", part), indices], name, axis=0)
        return rows if part.dtype == np.float32 else graph.float32(rows, f"{name}.float32")


def rows_of(part: Part) -> int:
    """Rows of a stored part."""
    return len(part.data) if isinstance(part, BlockQuantized) else len(part)


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
    """What offsets add to the product of codes around the middle: (offset + middle * scale) by the sum of x in a block.

    x float32 [B, S, in]. MatMulNBits takes float zero points too, but then goes without 8-bit activations: 70 times
    slower (benchmarks/block_products.py).
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
