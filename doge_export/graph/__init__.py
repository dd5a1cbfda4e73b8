"""The decoder's ONNX graphs, built by hand: fold a model once, plan its numbers, build each variant from them."""

from .adapters import AdaptedWeights, DraftWeights, Update, fold_updates
from .builder import ConstantPool
from .classifier import build_classifier, evicts
from .decoder import build_decoder
from .dimensions import Dimensions
from .folding import FoldedDecoder, Matrix, fold, unfold
from .kv_scales import KeyValueScales
from .matmul import Part, Plan
from .rotary import RotarySpec
from .variants import Draft, Layered, Plain, Portable, Recurrent, Variant

__all__ = [
    "AdaptedWeights",
    "ConstantPool",
    "Dimensions",
    "Draft",
    "DraftWeights",
    "FoldedDecoder",
    "KeyValueScales",
    "Layered",
    "Matrix",
    "Part",
    "Plain",
    "Plan",
    "Portable",
    "Recurrent",
    "RotarySpec",
    "Update",
    "Variant",
    "build_classifier",
    "build_decoder",
    "evicts",
    "fold",
    "fold_updates",
    "unfold",
]
