"""The decoder's ONNX graph, built by hand: one module per concern, numpy in, onnx out."""

from .builder import ConstantPool
from .decoder import DecoderWeights, build_decoder
from .kv_scales import KeyValueScales
from .layout import DecoderLayout
from .rotary import RotarySpec
from .weight_formats import Part, Plan, StoredWeights, WeightFormat

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
