"""The curves of doge-tiny's stages: python benchmarks/training_curves.py runs/doge-tiny --out docs/doge-tiny.png

Reads what each stage's trainer logged (trainer_state.json in the folders window, sft, sft-moe and dpo).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt

PANELS = {  # title: (what is drawn of a stage: folder, logged figure, label)
    "Pre-training; simplest text and decay from step 2,200, a window of 256 from 2,400": (
        ("window", "loss", "training"),
        ("window", "eval_loss", "held out"),
    ),
    "SFT: loss on answers": (
        ("sft", "loss", "dense, training"),
        ("sft", "eval_loss", "dense, held out"),
        ("sft-moe", "loss", "experts, training"),
        ("sft-moe", "eval_loss", "experts, held out"),
    ),
    "DPO": (
        ("dpo", "rewards/accuracies", "accuracy, training"),
        ("dpo", "eval_rewards/accuracies", "accuracy, held out"),
        ("dpo", "loss", "loss, training"),
        ("dpo", "eval_loss", "loss, held out"),
    ),
    "Experts of the worst layer": (
        ("sft-moe", "experts_used", "share used since the last log"),
        ("sft-moe", "experts_evenness", "evenness"),
    ),
}


def curve(folder: Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one logged figure."""
    history: list[dict[str, Any]] = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    points = [(entry["step"], entry[name]) for entry in history if name in entry]
    return [step for step, _ in points], [value for _, value in points]


@click.command()
@click.argument("runs", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="PNG to write.")
def main(runs: Path, out: Path) -> None:
    """Draw the curves of all stages."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    for axis, (title, curves) in zip(axes.flat, PANELS.items(), strict=True):
        for folder, name, label in curves:
            steps, values = curve(runs / folder, name)
            held_out = name.startswith("eval_")
            axis.plot(steps, values, label=label, marker="o" if held_out else None, markersize=3, linewidth=1.2)
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    main()
