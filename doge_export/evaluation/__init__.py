"""Evaluation of exported folders and PyTorch models: the tasks of a model card, and the perplexity of a text.

The tasks are those of EleutherAI's lm-evaluation-harness and need the extra `eval`. `perplexity` needs only
onnxruntime and numpy.
"""
