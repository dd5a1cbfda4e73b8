"""Pre-training from scratch on packed text, warmup-stable-decay.

    python -m train.pretrain --config train/recipes/doge-tiny/pretrain.yaml

Every checkpoint saved before the decay can be decayed by itself, while the run goes on. For that, give it as
resume_from_checkpoint, with another output_dir and with max_steps = its step + num_decay_steps.
"""

from __future__ import annotations

from .command import run_stage

if __name__ == "__main__":
    run_stage("pretrain")
