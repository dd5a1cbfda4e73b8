"""Streams for associative recall, with their tokenizer: pairs among filler, each asked for once.

    python -m train.recall --output_dir data/recall

docs/training.md says how a model learns to recall them from a few slots.
"""

from __future__ import annotations

from .command import run_stage

if __name__ == "__main__":
    run_stage("recall")
