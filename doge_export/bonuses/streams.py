"""The streams of a text that bonuses are fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from doge_model import Checkpoint

from ..errors import ExportError, OptionError
from ..options import BUILT_IN_TEXT, RECENT, check_least_window
from ..texts.calibration import BUILT_IN, CHARACTERS, Calibration, describe_calibration, read_text
from ..texts.token_ids import text_ids
from .facts import with_facts
from .fit import FittedBonuses, Progress, fit_bonuses
from .layer import Window

STREAM = 3072  # tokens
TOKENS = 12_288  # of the text
MOST = 4096  # tokens of a bonus


@dataclass(frozen=True)
class WindowCalibration:
    """How bonuses were fitted.

    Attributes:
        text: that was read, with the number of tokens and their hash.
        errors: of the layers' outputs, without bonuses and with them.
        keep_bonus: the most tokens by which a key counts as younger.
        keep_recent: the last tokens, whose keys stay whatever the text is.
    """

    text: Calibration
    errors: FittedBonuses
    keep_bonus: int
    keep_recent: int

    def summary(self) -> str:
        """For the user, in a line."""
        before, after = self.errors.with_sinks, self.errors.with_bonuses
        return (
            f"from {self.text.tokens} tokens of {self.text.text}; squared error of layers {after:.4f}, by sinks alone "
            f"{before:.4f}; every key stays for {self.keep_recent} tokens"
        )


def calibrate_window(
    checkpoint: Checkpoint, source: str, keep_window: int, keep_sinks: int, progress: Progress
) -> WindowCalibration:
    """Give a checkpoint bonuses for a narrow window, in place, fitted to a text; its window stays as it is.

    source: BUILT_IN_TEXT, which has planted facts, or a text as `ExportOptions.calibration` may be.

    Raises:
        ExportError: the checkpoint has no tokenizer.
        OptionError: the model has a mask, the window does not suit it, or the text is too short or cannot be read.
    """
    model = checkpoint.model
    check_least_window(keep_window, keep_sinks)
    if any(bool(each.any()) for name, each in model.named_parameters() if name.endswith(".self_attn.A")):
        raise OptionError("the model has a mask of its own; calibrate_window is for models without, such as a Llama")
    context = model.config.keep_window_size
    if 2 * keep_window > context:
        raise OptionError(
            f"keep_window is {keep_window}; with calibrate_window it must be at most {context // 2}, half of the "
            "checkpoint's window, so that keys leave that queries still ask for"
        )
    most = min(MOST, context - keep_window)
    streams = streams_of(checkpoint, source, min(context, max(STREAM, 2 * keep_window)))
    window = Window(keep_window, keep_sinks, most, RECENT)
    errors = fit_bonuses(model, [torch.from_numpy(stream) for stream in streams], window, progress)
    named = f"{BUILT_IN.name} with planted facts" if source == BUILT_IN_TEXT else source
    return WindowCalibration(describe_calibration(named, np.concatenate(streams)), errors, most, RECENT)


def streams_of(checkpoint: Checkpoint, source: str, length: int) -> list[NDArray[np.int64]]:
    """Pieces of a text, int64 [length] each, two at least, from all over it: its parts may have little in common.

    Raises:
        ExportError: the checkpoint has no tokenizer.
        OptionError: the text is too short or cannot be read.
    """
    if checkpoint.tokenizer is None:
        raise ExportError(
            f"the tokenizer of {checkpoint.source} is missing, and calibrate_window reads a text; add one to the "
            "checkpoint, or leave calibrate_window out"
        )
    count = max(2, TOKENS // length)
    built_in = source == BUILT_IN_TEXT
    text = (
        with_facts(BUILT_IN.read_text(encoding="utf-8")) if built_in else read_text(source, count * length * CHARACTERS)
    )
    ids = text_ids(checkpoint, text, add_special_tokens=False)
    if len(ids) < 2 * length:
        raise OptionError(
            f"calibration text {BUILT_IN.name if built_in else source} has {len(ids)} tokens; with calibrate_window it "
            f"must have at least {2 * length}"
        )
    pieces = ids[: len(ids) // length * length].reshape(-1, length)
    return list(pieces[np.linspace(0, len(pieces) - 1, min(count, len(pieces))).astype(int)])
