"""The decoder's ONNX graph, built by hand: one module per concern, numpy in, onnx out."""

from .builder import ConstantPool
from .decoder import DecoderWeights, build_decoder
from .dimensions import DecoderLayout
from .kv_scales import KeyValueScales
from .matmul import Part, Plan, StoredWeights, WeightFormat
from .rotary import RotarySpec

__all__ = [
    "ConstantPool",
    "DecoderLayout",
    "DecoderWeights",
    "KeyValueScales",
    "Part",
    "Plan",
    "RotarySpec",
    "StoredWeights",
    "WeightFormat",
    "build_decoder",
]
