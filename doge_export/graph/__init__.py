"""The decoder's ONNX graph, built by hand: one module per concern, numpy in, onnx out."""

from .builder import ConstantPool
from .decoder import DecoderWeights, build_decoder
from .kv_scales import KeyValueScales
from .layout import DecoderLayout
from .rotary import RotarySpec
from .weight_formats import WEIGHT_FORMATS, WeightFormat

__all__ = [
    "WEIGHT_FORMATS",
    "ConstantPool",
    "DecoderLayout",
    "DecoderWeights",
    "KeyValueScales",
    "RotarySpec",
    "WeightFormat",
    "build_decoder",
]
