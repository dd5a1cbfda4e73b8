"""Reasoning with verifiable rewards (GRPO): completions that earn more than others to their prompt become likelier.

python -m train.grpo --config train/recipes/doge-sums/grpo.yaml
"""

from __future__ import annotations

from .command import run_stage

if __name__ == "__main__":
    run_stage("grpo")
