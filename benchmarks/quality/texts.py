"""Held-out texts as the token ids of an exported model."""

from __future__ import annotations

import lzma
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from doge_export.runtime.tokenizer import Tokenizer


def read_text(path: Path) -> str:
    """A text in UTF-8; a name in .xz says that it is compressed."""
    content = path.read_bytes()
    return (lzma.decompress(content) if path.suffix == ".xz" else content).decode()


def token_ids(folder: Path, text: str) -> NDArray[np.int64]:
    """A text in the tokens of an exported folder, int64 [S]."""
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer is None:
        raise click.ClickException(f"{folder} has no tokenizer to read a text with; give a model that has one")
    return np.array(tokenizer.encode(text), np.int64)
