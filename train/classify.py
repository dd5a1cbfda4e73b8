"""A classifier of texts: one label, several, or numbers, with accuracy and F1 on held-out records.

python -m train.classify --config train/recipes/doge-tiny/classify.yaml
"""

from __future__ import annotations

from .command import run_stage

if __name__ == "__main__":
    run_stage("classify")
