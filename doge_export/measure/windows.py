"""A model in PyTorch with another window than its own, for as long as it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from doge_model import DogeForCausalLM


class Window(NamedTuple):
    """Keys that are kept, the first and last tokens that are always among them, and the largest bonus, 0 for none."""

    keep_window_size: int
    keep_sinks: int
    keep_bonus: int = 0
    keep_recent: int = 0


@contextmanager
def window_set(model: DogeForCausalLM, window: Window) -> Iterator[None]:
    """Within the block, the model has this window.

    Without the bonuses that it has, every A is 0: recency decides, as before they were fitted.
    """
    config = model.config
    before = Window(config.keep_window_size, config.keep_sinks, config.keep_bonus, config.keep_recent)
    masks = [each for name, each in model.named_parameters() if name.endswith(".self_attn.A")]
    kept = [each.data for each in masks]
    config.keep_window_size, config.keep_sinks, config.keep_bonus, config.keep_recent = window
    try:
        if before.keep_bonus and not window.keep_bonus:
            for each in masks:
                each.data = torch.zeros_like(each)
        yield
    finally:
        config.keep_window_size, config.keep_sinks, config.keep_bonus, config.keep_recent = before
        for each, data in zip(masks, kept, strict=True):
            each.data = data
