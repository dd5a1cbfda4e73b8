"""Supervised fine-tuning on conversations, with the loss on the answers alone.

python -m train.sft --config train/recipes/doge-tiny/sft.yaml
"""

from __future__ import annotations

from .command import run_stage

if __name__ == "__main__":
    run_stage("sft")
