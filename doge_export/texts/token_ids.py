"""Texts as the token ids of a checkpoint, each of which its model must embed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError

if TYPE_CHECKING:
    from doge_model import Checkpoint

TEXT_FILE = Path(__file__).parent / "alice.txt"


def long_text(checkpoint: Checkpoint, length: int) -> tuple[str, NDArray[np.int64]]:
    """The text that exports are measured on: its name and at most `length` token ids, random ones without tokenizer."""
    if checkpoint.tokenizer is None:
        return "random tokens", np.random.default_rng(0).integers(checkpoint.model.config.vocab_size, size=length)
    return TEXT_FILE.name, text_ids(checkpoint, TEXT_FILE.read_text(encoding="utf-8"))[:length]


def text_ids(checkpoint: Checkpoint, text: str, add_special_tokens: bool = True) -> NDArray[np.int64]:
    """Token ids, int64 [S]; ExportError where the model has no embedding for one of them."""
    assert checkpoint.tokenizer is not None
    ids = np.array(
        checkpoint.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"], np.int64
    )
    vocabulary = checkpoint.model.config.vocab_size
    if len(ids) and ids.max() >= vocabulary:
        raise ExportError(
            f"the tokenizer has a token {ids.max()}, but the model embeds {vocabulary}; put the model's own beside it"
        )
    return ids
