"""The demo with a window that has learned, in PyTorch: fitted once, and kept in a file for the next run."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from doge_export.bonuses import calibrate_window
from doge_export.measure.window_cost import Window
from doge_export.names import DEMO
from doge_export.options import BUILT_IN_TEXT
from doge_model import Checkpoint, load_checkpoint
from doge_model.modeling import DogeAttention

PARTS = ("A", "dt_proj.weight", "dt_proj.bias")


def learned_demo(window: int, text: str | None, fit: Path | None) -> tuple[Checkpoint, Window]:
    """The demo with bonuses for a window, and that window.

    fit: a file that keeps them; read where it exists, written where it does not. Give each window and text its own.
    """
    checkpoint = load_checkpoint(DEMO)
    config = checkpoint.model.config
    if fit is not None and fit.is_file():
        tensors = load_file(fit)
        config.keep_bonus = int(tensors.pop("keep_bonus"))
        for name, module in attentions(checkpoint).items():
            module.dt_proj = nn.Linear(module.dt_proj.in_features, module.dt_proj.out_features)
            for part in PARTS:
                module.get_parameter(part).data = tensors[f"{name}.{part}"]
        return checkpoint, Window(window, config.keep_sinks, config.keep_bonus)
    told = calibrate_window(
        checkpoint, text or BUILT_IN_TEXT, window, config.keep_sinks, lambda step: click.echo(step, err=True)
    )
    click.echo(told.summary(), err=True)
    if fit is not None:
        tensors = {
            f"{name}.{part}": module.get_parameter(part).data
            for name, module in attentions(checkpoint).items()
            for part in PARTS
        }
        save_file(tensors | {"keep_bonus": torch.tensor(config.keep_bonus)}, fit)
    return checkpoint, Window(window, config.keep_sinks, config.keep_bonus)


def attentions(checkpoint: Checkpoint) -> dict[str, DogeAttention]:
    """The attention of every layer by its name."""
    modules = checkpoint.model.named_modules()
    return {name: module for name, module in modules if isinstance(module, DogeAttention)}
