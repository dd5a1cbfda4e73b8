"""Sums written step by step: conversations to learn from, problems with their keys, and a tokenizer of a sign a token.

python -m train.sums --output_dir data/sums
"""

from __future__ import annotations

from .command import run_stage

if __name__ == "__main__":
    run_stage("sums")
