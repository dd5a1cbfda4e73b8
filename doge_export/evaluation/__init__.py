"""How good a model is: EleutherAI's lm-evaluation-harness over exported folders and PyTorch models, and perplexity.

`perplexity` needs onnxruntime and numpy only; everything that touches the harness needs the extra `eval`.
"""
