"""Figures of a trained checkpoint: held-out perplexity, preferences, the spread of its dynamic mask, and samples.

    python -m train.measure --model_name_or_path runs/doge-tiny/sft --datasets data/stories.txt --kind text \\
        --keep_window_sizes 64 256 --prompts "Once upon a time"

With eval_share, the records are those that a stage with the same share and seed has held out. The last line printed is
one JSON object with all figures.
"""

from __future__ import annotations

from .command import run_stage

if __name__ == "__main__":
    run_stage("measure")
