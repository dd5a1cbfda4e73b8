"""Standard graphs changed for processors on which onnxruntime's product of blocks, MatMulNBits, is slow or coarse.

On an ARM without the dot product it unpacks a matrix for every token, which takes 3.4 times as long as a product in
float32. There the graph unpacks each matrix once, while it opens. On an ARM with it, onnxruntime's KleidiAI kernels
round activations coarser, in products of 4 bits without zero points alone. They can be switched off (docs/arm.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from .model_bytes import (
    BYTES,
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    MODEL_GRAPH,
    TENSOR_DIMS,
    TENSOR_NAME,
    TENSOR_RAW_DATA,
    TENSOR_TYPE,
    Field,
    Node,
    data_of,
    parse,
    tensor,
    values,
    write,
)
from .processor import Processor, available_memory

PRODUCT, MICROSOFT = "MatMulNBits", "com.microsoft"
DATA, SCALES, ZERO_POINTS, BIAS = 1, 2, 3, 5  # inputs of a product
UINT8, INT64, UINT4 = 2, 7, 21  # of onnx.TensorProto.DataType
MEMORY_SHARE = 1.5  # of the bytes of the unpacked matrices: the most that a session takes while it opens


@dataclass(frozen=True)
class Change:
    """The changes that make a graph fit a processor.

    Attributes:
        model: the changed graph; None where it stays as it is.
        entries: of the session's configuration.
    """

    model: bytes | None = None
    entries: Mapping[str, str] = field(default_factory=dict)


def change_for(here: Processor, model: bytes, data_file: Path) -> Change:
    """The changes that this processor needs. A damaged graph stays as it is, and onnxruntime refuses it."""
    if not here.is_arm:
        return Change()
    try:
        products = list(products_of(model))
        if here.dot_product:
            coarse = any(bits_of(each) == 4 and not has_input(each, ZERO_POINTS) for each in products)
            return Change(entries={"mlas.disable_kleidiai": "1"} if coarse else {})
        if not products or not there_is_memory(products):
            return Change()
        # else it keeps nodes of this kind for quantized neighbours, and computes them again for every token
        return Change(unpacked(model, data_file), {"session.disable_quant_qdq": "1"})
    except ValueError:
        return Change()


def products_of(model: bytes) -> Iterator[Node]:
    """The products of blocks in a model; ValueError where it is damaged."""
    for graph in values(parse(model), MODEL_GRAPH):
        for message in values(parse(graph), GRAPH_NODE):
            if is_product(message):
                yield checked(Node.of(message))


def is_product(node: bytes) -> bool:
    """Whether a node is one that multiplies blocks."""
    return PRODUCT.encode() in node and Node.of(node).op_type == PRODUCT


def checked(product: Node) -> Node:
    """A product with the inputs and sizes that every one has; ValueError where it lacks one."""
    sizes = [product.attributes.get(name, 0) for name in ("K", "N", "block_size")]
    if min(sizes) < 1 or bits_of(product) not in (4, 8) or len(product.inputs) <= SCALES or len(product.outputs) != 1:
        raise ValueError(f"the product {product.outputs} lacks an input or a size")
    return product


def has_input(node: Node, place: int) -> bool:
    """Whether an optional input is given."""
    return len(node.inputs) > place and bool(node.inputs[place])


def bits_of(node: Node) -> int:
    """Of a code."""
    return node.attributes.get("bits", 4)


def there_is_memory(products: list[Node]) -> bool:
    """Whether the unpacked matrices fit; a warning where they do not."""
    sizes = {each.inputs[DATA]: 4 * each.attributes["K"] * each.attributes["N"] for each in products}
    needed, free = MEMORY_SHARE * sum(sizes.values()), available_memory()
    if free is None or needed <= free:
        return True
    warnings.warn(
        f"this processor multiplies 8 and 4 bits slowly, and opening its matrices in float32 takes {needed / 1e6:.0f} "
        f"MB, where {free / 1e6:.0f} MB of memory are free; install the operators (docs/operators.md), or take a "
        "smaller model",
        stacklevel=2,
    )
    return False


def unpacked(model: bytes, data_file: Path) -> bytes:
    """The model with its products in float32, of matrices that a session unpacks when it opens.

    Raises:
        ValueError: it is damaged.
    """
    fields = parse(model)
    graphs = [write(unpacked_graph(parse(graph), data_file)) for graph in values(fields, MODEL_GRAPH)]
    others = (each for each in fields if each[0] != MODEL_GRAPH)
    return write([*others, *((MODEL_GRAPH, BYTES, graph) for graph in graphs)])


def unpacked_graph(graph: list[Field], data_file: Path) -> Iterator[Field]:
    """The fields of a graph with its products in float32. Constants that are replaced are left out."""
    tensors = [parse(each) for each in values(graph, GRAPH_INITIALIZER)]
    matrices = FloatMatrices({b"".join(values(each, TENSOR_NAME)).decode(): each for each in tensors}, data_file)
    nodes: list[bytes] = []
    for message in values(graph, GRAPH_NODE):
        nodes += product_in_float(checked(Node.of(message)), matrices) if is_product(message) else [message]
    unread = matrices.replaced - set(chain.from_iterable(Node.of(message).inputs for message in nodes))
    yield from (each for each in graph if each[0] not in (GRAPH_NODE, GRAPH_INITIALIZER))
    yield from ((GRAPH_NODE, BYTES, message) for message in nodes)
    yield from (
        (GRAPH_INITIALIZER, BYTES, write(each)) for name, each in matrices.constants.items() if name not in unread
    )


def product_in_float(product: Node, matrices: FloatMatrices) -> Iterator[bytes]:
    """The nodes instead of a product."""
    yield from (node.message() for node in matrices.unpack(product))
    (y,) = product.outputs
    biased = has_input(product, BIAS)
    unbiased = f"{y}.unbiased" if biased else y
    inputs = [product.inputs[0], matrices.name_of(product)]
    yield Node("FusedMatMul", inputs, [unbiased], {"transB": 1}, MICROSOFT).message()
    if biased:
        yield Node("Add", [unbiased, product.inputs[BIAS]], [y]).message()


class FloatMatrices:
    """The constants of a graph, and those of them that are unpacked.

    Attributes:
        constants: by their names.
        replaced: names of those whose bytes are read by other names now.
    """

    def __init__(self, constants: dict[str, list[Field]], data_file: Path) -> None:
        self.constants = constants
        self._data_file = data_file
        self._unpacked: set[str] = set()
        self.replaced: set[str] = set()

    def name_of(self, product: Node) -> str:
        """The float32 matrix of a product, [N, K]."""
        return f"{product.inputs[DATA]}.float"

    def unpack(self, product: Node) -> Iterator[Node]:
        """The nodes that unpack the matrix of a product, if it is the first one of this matrix."""
        width, rows, block = (product.attributes[name] for name in ("K", "N", "block_size"))
        matrix, blocks = self.name_of(product), -(-width // block)
        if matrix in self._unpacked:
            return
        self._unpacked.add(matrix)
        kind = UINT8 if bits_of(product) == 8 else UINT4
        codes = self._add(f"{matrix}.codes", [rows, blocks * block], kind, self._constant(product.inputs[DATA]))
        zeros = self._add(f"{matrix}.zeros", [rows, blocks], kind, self._zero_points(product, rows, blocks))
        filled = matrix if blocks * block == width else f"{matrix}.filled"  # a row up to whole blocks
        inputs, attributes = [codes, product.inputs[SCALES], zeros], {"axis": 1, "block_size": block}
        yield Node("DequantizeLinear", inputs, [filled], attributes)
        if filled != matrix:
            ends = {"from": 0, "to": width, "axis": 1}
            names = [self._add(f"{matrix}.{end}", [1], INT64, raw_data(number(n))) for end, n in ends.items()]
            yield Node("Slice", [filled, *names], [matrix])

    def _constant(self, name: str) -> list[Field]:
        """One that is replaced; ValueError where there is none."""
        if name not in self.constants:
            raise ValueError(f"the matrix {name} is no constant")
        self.replaced.add(name)
        return self.constants[name]

    def _zero_points(self, product: Node, rows: int, blocks: int) -> list[Field]:
        """Those of all blocks. MatMulNBits begins every row at a byte, DequantizeLinear does not."""
        bits = bits_of(product)
        if not has_input(product, ZERO_POINTS):
            return raw_data(bytes([0x80 if bits == 8 else 0x88]) * -(-rows * blocks * bits // 8))
        constant = self._constant(product.inputs[ZERO_POINTS])
        if bits == 8 or blocks % 2 == 0:
            return constant
        packed = np.frombuffer(data_of(constant, self._data_file), np.uint8).reshape(rows, -1)
        codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, -1)[:, :blocks].reshape(-1)
        codes = np.append(codes, np.zeros(len(codes) % 2, np.uint8))
        return raw_data((codes[::2] | codes[1::2] << 4).tobytes())

    def _add(self, name: str, dims: list[int], kind: int, data: list[Field]) -> str:
        """Add a constant with the data of another one, or of `raw_data`."""
        data = [each for each in data if each[0] not in (TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME)]
        self.constants[name] = parse(tensor(name, dims, kind, data))
        return name


def raw_data(data: bytes) -> list[Field]:
    """The field of a constant that holds its data."""
    return [(TENSOR_RAW_DATA, BYTES, data)]


def number(value: int) -> bytes:
    """An int64 as a constant has it."""
    return value.to_bytes(8, "little")
