"""Direct preference optimisation: chosen answers become likelier than rejected ones.

python -m train.dpo --config train/recipes/doge-tiny/dpo.yaml
"""

from __future__ import annotations

from .command import run_stage

if __name__ == "__main__":
    run_stage("dpo")
