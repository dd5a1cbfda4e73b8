"""The ceiling of decoding: one row is multiplied by every weight matrix, pass after pass, and nothing else is computed.

A decoding step cannot be faster than these products. Their graph consists of the exported file's own nodes over the
same data file, so kernels, block sizes and threads are those of the step. Experts are left out: a step looks up a few
of their rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from ..errors import PackageError
from ..runtime.description import DECODER_FILE
from ..runtime.sessions import open_changed

PRODUCTS = ("MatMulNBits", "FusedMatMul", "MatMul")


class Products:
    """The products of a decoder's weight matrices, ready to be timed."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Open the products of an exported folder's decoder.

        Args:
            folder: written by doge-export.
            threads: of one operator.

        Raises:
            PackageError: the decoder has no products.
        """
        model, inputs, outputs = products_graph(folder / DECODER_FILE)
        self._session = open_changed(model.SerializeToString(), (folder / DECODER_FILE).parent, threads)
        self._binding = self._session.io_binding()
        rng = np.random.default_rng(0)
        self._arrays = {name: rng.standard_normal((1, 1, width), np.float32) for name, width in inputs.items()}
        self._arrays |= {name: np.zeros((1, 1, width), np.float32) for name, width in outputs.items()}
        for name, array in self._arrays.items():
            bind = self._binding.bind_ortvalue_input if name in inputs else self._binding.bind_ortvalue_output
            bind(name, ort.OrtValue.ortvalue_from_numpy(array))

    def seconds(self, passes: int) -> float:
        """Median seconds of a pass through all matrices."""
        times = []
        for _ in range(passes):
            start = time.perf_counter()
            self._session.run_with_iobinding(self._binding)
            times.append(time.perf_counter() - start)
        return float(np.median(times))


def products_graph(path: Path) -> tuple[onnx.ModelProto, dict[str, int], dict[str, int]]:
    """The products of a decoder file as a model of their own.

    Returns:
        The model, and the widths of its inputs and outputs by name. Each is float32 [1, 1, width]. Matrices with the
        same input width share an input.

    Raises:
        PackageError: the decoder has no products.
    """
    whole = onnx.load(path, load_external_data=False)
    constants = {tensor.name: tensor for tensor in whole.graph.initializer}
    nodes = [node for node in whole.graph.node if is_product(node, constants)]
    if not nodes:
        raise PackageError(
            f"{path} has no products of weight matrices, so its ceiling is unknown; export the model again"
        )
    inputs, outputs = {}, {}
    for node in nodes:
        width_in, width_out = widths(node, constants[node.input[1]])
        node.input[0] = f"row_{width_in}"
        inputs[node.input[0]], outputs[node.output[0]] = width_in, width_out
    used = dict.fromkeys(name for node in nodes for name in node.input if name in constants)
    graph = helper.make_graph(nodes, "products", values(inputs), values(outputs), [constants[name] for name in used])
    model = helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    return model, inputs, outputs


def is_product(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node multiplies rows by a stored matrix."""
    return node.op_type in PRODUCTS and node.input[0] not in constants and node.input[1] in constants


def widths(node: onnx.NodeProto, weight: onnx.TensorProto) -> tuple[int, int]:
    """Width of a product's input and of its output."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "MatMulNBits":
        return attributes["K"], attributes["N"]
    rows, columns = weight.dims
    return (columns, rows) if attributes.get("transB") else (rows, columns)


def values(shapes: dict[str, int]) -> Sequence[onnx.ValueInfoProto]:
    """Declarations of float32 [1, 1, width]."""
    return [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, n]) for name, n in shapes.items()]
