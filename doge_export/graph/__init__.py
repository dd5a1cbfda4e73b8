"""The decoder's ONNX graph, built by hand: one module per concern, numpy in, onnx out."""

from .decoder import DecoderWeights, build_decoder
from .layout import DecoderLayout
from .weight_formats import WEIGHT_FORMATS, WeightFormat

__all__ = ["WEIGHT_FORMATS", "DecoderLayout", "DecoderWeights", "WeightFormat", "build_decoder"]
