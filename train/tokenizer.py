"""A byte-level BPE tokenizer with the family's special tokens and chat template.

python -m train.tokenizer --config train/recipes/doge-tiny/tokenizer.yaml
"""

from __future__ import annotations

from .command import run_stage

if __name__ == "__main__":
    run_stage("tokenizer")
