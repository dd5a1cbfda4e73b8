"""Texts as the token ids of a checkpoint, each of which its model must embed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError

if TYPE_CHECKING:
    from doge_model.checkpoint import AnyCheckpoint

TEXT_FILE = Path(__file__).parent / "alice.txt"


def check_tokenizer(checkpoint: AnyCheckpoint) -> None:
    """Refuse a tokenizer with a token that the model has no embedding for.

    Raises:
        CheckpointError: there is such a token.
    """
    if checkpoint.tokenizer is None:
        return
    token, largest = max(checkpoint.tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", -1))
    rows = checkpoint.model.config.vocab_size
    if largest >= rows:
        raise CheckpointError(
            f"the tokenizer of {checkpoint.source} has {token!r} as token {largest}, "
            f"but the model embeds 0 to {rows - 1}; take the model's own tokenizer, or resize its embedding"
        )


def long_text(checkpoint: AnyCheckpoint, length: int) -> tuple[str, NDArray[np.int64]]:
    """The text that exports are measured on: its name, and at most `length` token ids, int64 [S].

    Without a tokenizer they are random tokens.
    """
    if checkpoint.tokenizer is None:
        return "random tokens", np.random.default_rng(0).integers(checkpoint.model.config.vocab_size, size=length)
    return TEXT_FILE.name, text_ids(checkpoint, TEXT_FILE.read_text(encoding="utf-8"))[:length]


def text_ids(checkpoint: AnyCheckpoint, text: str, add_special_tokens: bool = True) -> NDArray[np.int64]:
    """Token ids of a text, int64 [S]."""
    assert checkpoint.tokenizer is not None
    encoding = checkpoint.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)
    return np.array(encoding["input_ids"], np.int64)
