"""A narrower window is a different model beyond its length; how different is measured on a long text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from doge_model import KeepWindowCache

from ..errors import OptionError
from ..texts.token_ids import long_text
from .agreement import kl_divergence, log_softmax

if TYPE_CHECKING:
    from doge_model import Checkpoint, DogeForCausalLM

TOKENS_BEYOND = 1024  # tokens behind the narrowed window that are compared
CHUNK = 128


@dataclass(frozen=True)
class NarrowedWindow:
    """The cost of a narrower window: tokens at positions from keep_window_size on, compared with the original.

    Attributes:
        keep_window_size, original_keep_window_size: tokens.
        text: that was read: a file of this package, or random tokens for a model without tokenizer.
        tokens: compared; 0 where the text is too short.
        kl_mean: Kullback-Leibler divergence from the original, nats per token; None without tokens.
        top1: share of the tokens at which both find the same next token most likely; None without tokens.
    """

    keep_window_size: int
    original_keep_window_size: int
    text: str
    tokens: int
    kl_mean: float | None
    top1: float | None

    def summary(self) -> str:
        """For the user, in a line."""
        if self.keep_window_size == self.original_keep_window_size:
            return f"{self.keep_window_size} tokens, as the checkpoint has it"
        change = (
            f"{self.keep_window_size} tokens instead of {self.original_keep_window_size}: another model beyond that"
        )
        if self.kl_mean is None:
            return f"{change} (not measured: the text is too short)"
        return f"{change}; KL {self.kl_mean:.1e} nats, same most likely token {self.top1:.1%}, on {self.tokens} tokens"


def narrow_window(checkpoint: Checkpoint, keep_window: int) -> NarrowedWindow:
    """Narrow a checkpoint's window in place and measure how the model changes.

    Raises:
        OptionError: the checkpoint's window is smaller already.
    """
    config = checkpoint.model.config
    original = config.keep_window_size
    if keep_window > original:
        raise OptionError(f"keep_window is {keep_window}; the checkpoint has {original}, and it can only be narrowed")
    text, ids = long_text(checkpoint, keep_window + TOKENS_BEYOND)
    divergences, same = [], []
    for before, after in compare_windows(checkpoint.model, ids, keep_window):
        log_p, log_q = (log_softmax(logits.astype(np.float64)) for logits in (before, after))
        divergences.append(kl_divergence(log_p, log_q))
        same.append(log_p.argmax(-1) == log_q.argmax(-1))
    config.keep_window_size = keep_window
    tokens = sum(map(len, divergences))
    return NarrowedWindow(
        keep_window_size=keep_window,
        original_keep_window_size=original,
        text=text,
        tokens=tokens,
        kl_mean=float(np.concatenate(divergences).mean()) if tokens else None,
        top1=float(np.concatenate(same).mean()) if tokens else None,
    )


def compare_windows(
    model: DogeForCausalLM, ids: NDArray[np.int64], keep_window: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Logits before and after narrowing, float32 [chunk, vocab] each, for every chunk of tokens beyond `keep_window`.

    ids: int64 [S]. The model's own window is untouched whenever a pair comes out, and after any exception.
    """
    windows = (model.config.keep_window_size, keep_window)
    caches = []
    for window in windows:
        with window_set(model, window):
            caches.append(KeepWindowCache(model.config))
    for start in range(0, len(ids), CHUNK):
        chunk = torch.from_numpy(ids[start : start + CHUNK])[None]
        pair = []
        for window, cache in zip(windows, caches, strict=True):
            with window_set(model, window), torch.inference_mode():
                pair.append(model(chunk, past_key_values=cache).logits[0].float().numpy())
        skip = max(0, keep_window - start)
        if skip < chunk.shape[1]:
            yield pair[0][skip:], pair[1][skip:]


@contextmanager
def window_set(model: DogeForCausalLM, tokens: int) -> Iterator[None]:
    """Within the block, the model's window has so many tokens."""
    before = model.config.keep_window_size
    model.config.keep_window_size = tokens
    try:
        yield
    finally:
        model.config.keep_window_size = before
