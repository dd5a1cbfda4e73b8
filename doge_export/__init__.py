"""doge-export: Doge language models as stateful ONNX decoders, and the onnxruntime loop that makes them talk.

    import doge_export

    model = doge_export.load("smollm2-135m-int8")
    print(model.generate("The capital of France is", max_new_tokens=20).text)

The errors a user can meet are in `doge_export.errors`.
"""

from __future__ import annotations

from .runtime.batch_stream import BatchStream
from .runtime.conversation import Conversation
from .runtime.generation_options import GenerationOptions
from .runtime.loading import load
from .runtime.logprobs import TokenLogprobs
from .runtime.model import Model
from .runtime.scoring import Score
from .runtime.state import State
from .runtime.streaming import GenerationResult, TextStream

__version__ = "0.1.0"
__all__ = [
    "BatchStream",
    "Conversation",
    "GenerationOptions",
    "GenerationResult",
    "Model",
    "Score",
    "State",
    "TextStream",
    "TokenLogprobs",
    "__version__",
    "load",
]
