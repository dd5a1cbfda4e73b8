"""The decoder's ONNX graphs, built by hand: fold a model once, plan its numbers, build each variant from them."""

from .builder import ConstantPool
from .classifier import build_classifier, evicts
from .decoder import build_decoder
from .dimensions import Dimensions
from .folding import FoldedDecoder, Matrix, fold, unfold
from .kv_scales import KeyValueScales
from .matmul import Part, Plan
from .rotary import RotarySpec
from .variants import Draft, Plain, Portable, Recurrent, Variant

__all__ = [
    "ConstantPool",
    "Dimensions",
    "Draft",
    "FoldedDecoder",
    "KeyValueScales",
    "Matrix",
    "Part",
    "Plain",
    "Plan",
    "Portable",
    "Recurrent",
    "RotarySpec",
    "Variant",
    "build_classifier",
    "build_decoder",
    "evicts",
    "fold",
    "unfold",
]
