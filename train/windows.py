"""The way to a narrow window: the mask is learned on whole rows first, then windows shrink to those of the model.

Eviction has no gradient. A mask that evicts from the first step evicts at random, and a key that is gone teaches
nothing. On whole rows dt is learned as a number that is added to scores. The window then keeps the keys that are
preferred already.

A share of the steps still sees a wider window, drawn anew. Those steps teach dt with keys that the narrow window would
have lost. Without them a few wrong evictions were seen to ruin a model within fifty steps.

Layers whose A is held at 0 keep the most recent keys. Their window goes the opposite way, for attention over a few keys
is close to the one that has to be found.
"""

from __future__ import annotations

import copy
import random
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from doge_common.errors import OptionError
from doge_model import DogeConfig, DogeForCausalLM
from doge_model.modeling import DogeDecoderLayer


class WindowSchedule(TrainerCallback):
    """Gives each layer its window of a step; the model's configuration keeps the final one."""

    def __init__(
        self, model: DogeForCausalLM, steps: tuple[int, int], first: int, first_recent: int, wider: float
    ) -> None:
        """Prepare the layers.

        Args:
            model: the model that is trained.
            steps: the first step of the change, and the first step of the final window.
            first: the window before, of layers whose mask is learned.
            first_recent: the same, of layers whose A is not trained.
            wider: the share of steps whose window is drawn, uniformly in the logarithm, up to `first`.
        """
        self.steps, self.last, self.wider = steps, model.config.keep_window_size, wider
        self.layers: list[tuple[DogeConfig, int, bool]] = []
        for layer in blocks(model):
            own = layer.self_attn.config = copy.copy(model.config)
            learned = layer.self_attn.A.requires_grad
            self.layers.append((own, first if learned else first_recent, learned))
        self.set(0)

    def set(self, step: int) -> None:
        """Give the layers the windows of a step."""
        draw = random.Random(step)  # of the step alone, so that a resumed run draws the same
        share = draw.random() if draw.random() < self.wider else 0.0
        for config, first, learned in self.layers:
            window = window_at(step, self.steps, first, self.last)
            config.keep_window_size = round(window * (first / window) ** share) if learned else window

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the windows of the step that begins, also after a resume."""
        self.set(state.global_step)


def window_at(step: int, steps: tuple[int, int], first: int, last: int) -> int:
    """The window of a step: `first` until steps[0], `last` from steps[1] on, between them by equal factors."""
    start, end = steps
    if step < start:
        return first
    if step >= end:
        return last
    return round(first * (last / first) ** ((step - start) / (end - start)))


def check_windows(steps: list[int], recent: int, wider: float, model: DogeForCausalLM) -> tuple[int, int]:
    """The two steps of a schedule.

    Raises:
        OptionError: they are not two steps in order, a window or share is out of range, or the model has sinks.
    """
    if len(steps) != 2 or not 0 <= steps[0] <= steps[1]:
        raise OptionError(f"window_steps are {steps}; they must be two steps in order, such as 300 600")
    if recent < 1:
        raise OptionError(f"recent_window_from is {recent}; it must be at least 1")
    if not 0 <= wider < 1:
        raise OptionError(f"wider_steps is {wider}; it must be at least 0 and below 1, a share of the steps")
    if model.config.keep_sinks:
        raise OptionError(
            f"window_steps are given with keep_sinks {model.config.keep_sinks}; it must be 0, as the rotation of sinks "
            "depends on the window"
        )
    return steps[0], steps[1]


def hold_recent(model: DogeForCausalLM, layers: int) -> None:
    """Let the first layers keep the most recent keys: their A stays 0, so that all their keys tie.

    Raises:
        OptionError: there are not so many layers.
    """
    if not 0 <= layers <= len(model.model.layers):
        raise OptionError(f"recent_layers is {layers}; it must be from 0 to {len(model.model.layers)}, the layers")
    for layer in blocks(model)[:layers]:
        layer.self_attn.A.data.zero_()
        for parameter in (layer.self_attn.A, *layer.self_attn.dt_proj.parameters()):
            parameter.requires_grad_(False)


def blocks(model: DogeForCausalLM) -> list[DogeDecoderLayer]:
    """The layers, with their type."""
    return [layer for layer in model.model.layers if isinstance(layer, DogeDecoderLayer)]
