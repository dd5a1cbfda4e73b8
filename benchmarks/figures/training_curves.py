"""How did a model's training go? The figures of docs/training.md.

    python -m benchmarks.figures.training_curves runs/doge-tiny --out docs/doge-tiny.png

The curves are those that each stage's trainer logged: trainer_state.json in the folders pretrain or decay, sft, sft-moe
and dpo.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

PANELS = {  # title: curves, each a stage's folder, the name it is logged by, and its label
    "Pre-training": (("pretrain", "loss", "training"),),
    "Pre-training; the simplest text and the decay from step 3,200": (
        ("decay", "loss", "training"),
        ("decay", "eval_loss", "held out"),
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


def draw(axis: Axes, runs: Path, title: str, curves: tuple[tuple[str, str, str], ...]) -> None:
    """One panel: logged figures over the steps."""
    for folder, name, label in curves:
        steps, values = curve(runs / folder, name)
        marker = "o" if name.startswith("eval_") else None
        axis.plot(steps, values, label=label, marker=marker, markersize=3, linewidth=1.2)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


@click.command()
@click.argument("runs", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="PNG to write.")
def main(runs: Path, out: Path) -> None:
    """Draw the curves of the stages that were run."""
    panels = {}
    for title, curves in PANELS.items():
        missing = {folder for folder, _, _ in curves if not (runs / folder / "trainer_state.json").is_file()}
        if missing:
            click.echo(f"not drawn: {title} (no trainer_state.json of {', '.join(sorted(missing))})")
        else:
            panels[title] = curves
    rows = (len(panels) + 1) // 2
    figure, axes = plt.subplots(rows, 2, figsize=(11, 3.5 * rows), layout="constrained", squeeze=False)
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        draw(axis, runs, title, curves)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    main()
