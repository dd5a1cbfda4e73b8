"""Beside other runtimes: llama.cpp, onnxruntime-genai, transformers."""
