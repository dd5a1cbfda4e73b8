"""Measurements behind constants of the code, for the next onnxruntime or the next processor."""
