"""Running exported folders: onnxruntime and numpy, no torch, transformers or onnx."""
