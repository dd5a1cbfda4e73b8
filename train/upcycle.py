"""From a dense Doge to one with experts: the MLP becomes the shared expert; router and experts are new.

    python -m train.upcycle --config train/recipes/Doge-20M-MoE/upcycle.yaml

The output rows of the experts (up_embed) start at zero, so the model computes the same function until it is trained.
"""

from __future__ import annotations

from .command import run_stage

if __name__ == "__main__":
    run_stage("upcycle")
