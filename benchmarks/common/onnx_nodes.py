"""A session on a single node, for timing one of onnxruntime's kernels by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[int | str]  # a name stands for any size


def open_node(
    node: NodeProto,
    inputs: Mapping[str, Shape],
    output: Shape,
    options: ort.SessionOptions,
    constants: Mapping[str, NDArray[Any]] | None = None,
) -> ort.InferenceSession:
    """A session on a node with float32 inputs and one float32 output, and constants of any type.

    Raises:
        onnxruntime's Fail: it has no such kernel.
    """
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    result = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, output)
    stored = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph([node], "node", ends, [result], stored)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options)
