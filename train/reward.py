"""A reward model from preferences: a chosen answer gets a larger number than a rejected one.

python -m train.reward --config train/recipes/doge-tiny/reward.yaml
"""

from __future__ import annotations

from .command import run_stage

if __name__ == "__main__":
    run_stage("reward")
