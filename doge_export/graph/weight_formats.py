"""How large matrices are stored and multiplied: one class per format, all with the same three operations.

Matrices come as float32 [out_features, in_features], the layout of torch.nn.Linear. The vocabulary matrix is used twice
when embeddings are tied: `embedding` and `linear` called with the same array store it once.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..quantization import BlockQuantized, quantize_blocks
from .builder import MICROSOFT, GraphBuilder

Array = NDArray[np.float32]


class WeightFormat(Protocol):
    """What a graph needs of a format."""

    def linear(self, graph: GraphBuilder, name: str, x: str, weight: Array, bias: Array | None = None) -> str:
        """x [..., in] -> x weight^T + bias [..., out]."""

    def embedding(self, graph: GraphBuilder, name: str, indices: str, table: Array) -> str:
        """Rows of table [n, width]: indices int64 [...] -> float32 [..., width]."""


class Float32:
    """Plain float32 weights."""

    def linear(self, graph: GraphBuilder, name: str, x: str, weight: Array, bias: Array | None = None) -> str:
        """FusedMatMul reads the matrix transposed, so a tied one needs no second copy."""
        matrix = graph.constant(_storage_name(graph, name, weight), weight)
        (y,) = graph.op("FusedMatMul", [x, matrix], name, domain=MICROSOFT, transB=1)
        if bias is not None:
            (y,) = graph.op("Add", [y, graph.constant(f"{name}.bias", bias)], f"{name}.biased")
        return y

    def embedding(self, graph: GraphBuilder, name: str, indices: str, table: Array) -> str:
        """A plain Gather of rows."""
        (rows,) = graph.op("Gather", [graph.constant(_storage_name(graph, name, table), table), indices], name, axis=0)
        return rows


class Int8:
    """8 bits symmetric in blocks along the input axis, 8-bit activations in the products.

    Without accuracy_level=4 (8-bit activations) MatMulNBits unpacks to float32 on every call, some hundred times slower.
    """

    bits = 8

    def __init__(self) -> None:
        self._quantized: dict[int, tuple[Array, str, BlockQuantized]] = {}

    def linear(self, graph: GraphBuilder, name: str, x: str, weight: Array, bias: Array | None = None) -> str:
        """MatMulNBits: data uint8 [out, blocks, block_size], scales float32 [out, blocks]."""
        storage, q = self._store(name, weight)
        out_features, in_features = weight.shape
        inputs = [x, graph.constant(f"{storage}.data", q.data), graph.constant(f"{storage}.scales", q.scales)]
        if bias is not None:
            inputs += ["", "", graph.constant(f"{name}.bias", bias)]
        sizes = {"K": in_features, "N": out_features, "bits": self.bits, "block_size": q.block_size}
        (y,) = graph.op("MatMulNBits", inputs, name, domain=MICROSOFT, accuracy_level=4, **sizes)
        return y

    def embedding(self, graph: GraphBuilder, name: str, indices: str, table: Array) -> str:
        """GatherBlockQuantized over the same bytes; padding that blocks needed at the end of a row is cut off."""
        storage, q = self._store(name, table)
        rows, width = table.shape
        data = graph.constant(f"{storage}.rows", q.data.reshape(rows, -1))
        scales = graph.constant(f"{storage}.scales", q.scales)
        sizes = {"gather_axis": 0, "quantize_axis": 1, "bits": self.bits, "block_size": q.block_size}
        (y,) = graph.op("GatherBlockQuantized", [data, indices, scales], name, domain=MICROSOFT, **sizes)
        if data_width(q) == width:
            return y
        ends = [graph.constant(f"{name}.{end}", np.array([i])) for end, i in (("from", 0), ("to", width), ("axis", -1))]
        (y,) = graph.op("Slice", [y, *ends], f"{name}.cut")
        return y

    def _store(self, name: str, weight: Array) -> tuple[str, BlockQuantized]:
        """Quantize a matrix the first time it is seen; id() is safe as a key because the array is kept alive here."""
        if id(weight) not in self._quantized:
            self._quantized[id(weight)] = (weight, name, quantize_blocks(weight))
        _, storage, quantized = self._quantized[id(weight)]
        return storage, quantized


def data_width(q: BlockQuantized) -> int:
    """Stored values of a row, padding included."""
    return q.data.shape[1] * q.data.shape[2]


def _storage_name(graph: GraphBuilder, name: str, weight: Array) -> str:
    """The name under which this very array is already stored, else a new one."""
    known = (key for key, value in graph.constants.items() if value is weight)
    return next(known, f"{name}.weight")


WEIGHT_FORMATS: dict[str, type[WeightFormat]] = {"fp32": Float32, "int8": Int8}
