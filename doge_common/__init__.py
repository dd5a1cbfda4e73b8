"""The ground of `doge_model`, `doge_export` and `train`: their errors, and the model hub.

It imports neither torch nor transformers. So the onnxruntime runtime has its errors from here, and `import doge_model`
is free to load both.
"""
