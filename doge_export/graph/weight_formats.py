"""How large matrices are stored and multiplied: one class per format, all with the same two operations.

Matrices come as float32 [out_features, in_features], the layout of torch.nn.Linear. `storage` names the stored matrix;
two operations that name the same one share it, as the tied embedding and output matrix do.
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

    def linear(
        self, graph: GraphBuilder, name: str, x: str, weight: Array, bias: Array | None = None, storage: str = ""
    ) -> str:
        """x [..., in] -> x weight^T + bias [..., out]; storage is `name` unless given."""

    def embedding(self, graph: GraphBuilder, name: str, indices: str, table: Array) -> str:
        """Rows of table [n, width]: indices int64 [...] -> float32 [..., width]; stored as `name`."""


class Float32:
    """Plain float32 weights."""

    def linear(
        self, graph: GraphBuilder, name: str, x: str, weight: Array, bias: Array | None = None, storage: str = ""
    ) -> str:
        """FusedMatMul reads the matrix transposed, so a tied one needs no second copy."""
        matrix = graph.constant(f"{storage or name}.weight", weight)
        (y,) = graph.op("FusedMatMul", [x, matrix], name, domain=MICROSOFT, transB=1)
        if bias is not None:
            (y,) = graph.op("Add", [y, graph.constant(f"{name}.bias", bias)], f"{name}.biased")
        return y

    def embedding(self, graph: GraphBuilder, name: str, indices: str, table: Array) -> str:
        """A plain Gather of rows."""
        (rows,) = graph.op("Gather", [graph.constant(f"{name}.weight", table), indices], name, axis=0)
        return rows


class Int8:
    """8 bits symmetric in blocks along the input axis, 8-bit activations in the products.

    Without accuracy_level=4 (8-bit activations) MatMulNBits unpacks to float32 on every call.
    """

    bits = 8

    def __init__(self) -> None:
        self._stored: dict[str, BlockQuantized] = {}

    def linear(
        self, graph: GraphBuilder, name: str, x: str, weight: Array, bias: Array | None = None, storage: str = ""
    ) -> str:
        """MatMulNBits: data uint8 [out, blocks, block_size], scales float32 [out, blocks]."""
        storage = storage or name
        q = self._quantized(storage, weight)
        out_features, in_features = weight.shape
        inputs = [x, graph.constant(f"{storage}.data", q.data), graph.constant(f"{storage}.scales", q.scales)]
        if bias is not None:
            inputs += ["", "", graph.constant(f"{name}.bias", bias)]
        sizes = {"K": in_features, "N": out_features, "bits": self.bits, "block_size": q.block_size}
        (y,) = graph.op("MatMulNBits", inputs, name, domain=MICROSOFT, accuracy_level=4, **sizes)
        return y

    def embedding(self, graph: GraphBuilder, name: str, indices: str, table: Array) -> str:
        """GatherBlockQuantized over the same bytes; padding that blocks needed at the end of a row is cut off."""
        q = self._quantized(name, table)
        rows, width = table.shape
        data = q.data.reshape(rows, -1)
        inputs = [graph.constant(f"{name}.rows", data), indices, graph.constant(f"{name}.scales", q.scales)]
        sizes = {"gather_axis": 0, "quantize_axis": 1, "bits": self.bits, "block_size": q.block_size}
        (y,) = graph.op("GatherBlockQuantized", inputs, name, domain=MICROSOFT, **sizes)
        if data.shape[1] == width:
            return y
        ends = [graph.constant(f"{name}.{end}", np.array([i])) for end, i in (("from", 0), ("to", width), ("axis", -1))]
        (y,) = graph.op("Slice", [y, *ends], f"{name}.cut")
        return y

    def _quantized(self, storage: str, weight: Array) -> BlockQuantized:
        """Quantize a matrix the first time its storage is named."""
        if storage not in self._stored:
            self._stored[storage] = quantize_blocks(weight)
        return self._stored[storage]


WEIGHT_FORMATS: dict[str, type[WeightFormat]] = {"fp32": Float32, "int8": Int8}
