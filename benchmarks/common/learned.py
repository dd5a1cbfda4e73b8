"""The demo with a window that has learned, in PyTorch: fitted once, and kept in a file for the next run."""

from __future__ import annotations

from pathlib import Path

import click
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from doge_export.bonuses import calibrate_window
from doge_export.measure.windows import Window
from doge_export.names import DEMO
from doge_export.options import BUILT_IN_TEXT
from doge_model import Checkpoint, load_checkpoint
from doge_model.modeling import DogeAttention

PARTS = ("A", "dt_proj.weight", "dt_proj.bias")
RULE = ("keep_window_size", "keep_sinks", "keep_bonus", "keep_recent")  # the window that bonuses were fitted for


def learned_demo(window: int, text: str | None, fit: Path | None) -> tuple[Checkpoint, Window]:
    """The demo with bonuses for a window, and that window.

    fit: a file that keeps them; read where it exists, written where it does not.

    Raises:
        UsageError: the file is of another window, of another text, or no fit.
    """
    checkpoint = load_checkpoint(DEMO)
    config, text = checkpoint.model.config, text or BUILT_IN_TEXT
    if fit is not None and fit.is_file():
        rule = rule_of(fit, window, text)
        config.keep_bonus, config.keep_recent = rule.keep_bonus, rule.keep_recent
        take(checkpoint, load_file(fit))
        return checkpoint, rule
    told = calibrate_window(checkpoint, text, window, config.keep_sinks, lambda step: click.echo(step, err=True))
    click.echo(told.summary(), err=True)
    rule = Window(window, config.keep_sinks, config.keep_bonus, config.keep_recent)
    if fit is not None:
        metadata = {name: str(number) for name, number in zip(RULE, rule, strict=True)}
        save_file(tensors_of(checkpoint), fit, metadata | {"text": text})
    return checkpoint, rule


def rule_of(fit: Path, window: int, text: str) -> Window:
    """The window that the bonuses in a file were fitted for.

    Raises:
        UsageError: it is another one, was fitted to another text, or the file is no fit.
    """
    try:
        with safe_open(fit, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise click.UsageError(f"--fit is {fit}, which is no safetensors file ({error}); name another file") from error
    if any(not metadata.get(name, "").isdigit() for name in RULE):
        raise click.UsageError(f"--fit is {fit}, which does not name its window; remove it, so that it is fitted anew")
    rule = Window(*(int(metadata[name]) for name in RULE))
    if rule.keep_window_size != window:
        raise click.UsageError(
            f"--fit is {fit}, which was fitted for {rule.keep_window_size} keys; give --window "
            f"{rule.keep_window_size}, or another file for {window}"
        )
    if metadata.get("text") != text:
        raise click.UsageError(
            f"--fit is {fit}, which was fitted to {metadata.get('text')}; give that as --calibration, or another file"
        )
    return rule


def take(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """Put the tensors of a fit into the model."""
    for name, module in attentions(checkpoint).items():
        module.dt_proj = nn.Linear(module.dt_proj.in_features, module.dt_proj.out_features)
        for part in PARTS:
            module.get_parameter(part).data = tensors[f"{name}.{part}"]


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a fit."""
    return {
        f"{name}.{part}": module.get_parameter(part).data
        for name, module in attentions(checkpoint).items()
        for part in PARTS
    }


def attentions(checkpoint: Checkpoint) -> dict[str, DogeAttention]:
    """The attention of every layer by its name."""
    modules = checkpoint.model.named_modules()
    return {name: module for name, module in modules if isinstance(module, DogeAttention)}
