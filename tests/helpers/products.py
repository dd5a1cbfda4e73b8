"""One product of onnxruntime's MatMulNBits, to see how its kernels round on this processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OUT, IN = 3072, 576


def product(bits: int, block_size: int) -> onnxruntime.InferenceSession:
    """x float32 [rows, IN] -> y float32 [rows, OUT], by a random matrix in blocks, with activations in 8 bits."""
    rng, blocks = np.random.default_rng(0), IN // block_size
    data = rng.integers(0, 256, (OUT, blocks, block_size * bits // 8), dtype=np.uint8)
    scales = rng.uniform(0.001, 0.01, (OUT, blocks)).astype(np.float32)
    sizes: dict[str, Any] = {"K": IN, "N": OUT, "bits": bits, "block_size": block_size, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "data", "scales"], ["y"], domain="com.microsoft", **sizes)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", n]) for name, n in (("x", IN), ("y", OUT)))
    constants = [numpy_helper.from_array(data, "data"), numpy_helper.from_array(scales, "scales")]
    graph = helper.make_graph([node], "product", [x], [y], constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)
