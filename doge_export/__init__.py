"""doge-export: Doge language models as stateful ONNX decoders, and the onnxruntime loop that makes them talk.

`load` opens an exported folder; the errors a user can meet are in `doge_export.errors`.
"""

from __future__ import annotations

__version__ = "0.1.0"
