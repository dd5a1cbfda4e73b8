"""The decoder that an exported folder in 8 bits stores, to build other graphs of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from doge_export.graph import Dimensions, FoldedDecoder, Matrix, Plan, RotarySpec
from doge_export.graph.blocks import BlockQuantized
from doge_export.runtime.description import DECODER_FILE
from doge_model import DogeConfig
from doge_model.rotary import DogeRotaryEmbedding


def stored_decoder(folder: Path, config: DogeConfig) -> tuple[FoldedDecoder, Plan, dict[str, str]]:
    """The constants and the stored parts of a model's folder, and its metadata; matrices have shapes, and zeros."""
    plain = onnx.load(folder / DECODER_FILE)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in plain.graph.initializer}
    d = Dimensions.from_config(config, has_mask="layers.0.self_attn.A" in arrays)
    rotary = DogeRotaryEmbedding(config)
    spec = RotarySpec(
        rotary.inv_freq, rotary.attention_scaling, rotary.max_position, rotary.theta, rotary.dynamic_factor
    )
    names = [name.removesuffix(".data") for name in arrays if name.endswith(".data")]
    plan = {name: (BlockQuantized(arrays[f"{name}.data"], arrays[f"{name}.scales"]),) for name in names}
    widths = {f"{node.input[1].removesuffix('.data')}": attribute(node, "K") for node in products(plain)}
    matrices = {
        name: Matrix(np.broadcast_to(np.float32(0), (len(plan[name][0].data), widths.get(name, d.hidden_size))), {})
        for name in names
    }
    return FoldedDecoder(d, spec, matrices, arrays), plan, {each.key: each.value for each in plain.metadata_props}


def products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that multiply by stored codes."""
    return [node for node in model.graph.node if node.op_type == "MatMulNBits"]


def attribute(node: onnx.NodeProto, name: str) -> int:
    """A number among a node's attributes."""
    return int(next(each.i for each in node.attribute if each.name == name))
