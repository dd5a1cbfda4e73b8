"""The text that weights are rounded by and a state's scales are made of: a file, a dataset, or the one that is here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from doge_model import Checkpoint

from ..errors import ExportError, OptionError

BUILT_IN = Path(__file__).parents[1] / "texts" / "calibration.txt"
SEQUENCE = 1024  # tokens at once, where the window has room for them
LEAST_TOKENS = 256  # fewer say nothing about a model
CHARACTERS = 16  # a token has hardly ever more; bounds what is read of a dataset


def calibration_sequences(checkpoint: Checkpoint, source: str | None, tokens: int, seed: int) -> Tensor:
    """Pieces of a text, drawn without repetition: int64 [N, S] of at most `tokens` tokens.

    Args:
        checkpoint: whose tokenizer is used, and whose window bounds S.
        source: a UTF-8 file, the name of a dataset of the hub, or None for the built-in text.
        tokens: wanted; a shorter text gives fewer.
        seed: of the draw.

    Raises:
        ExportError: the checkpoint has no tokenizer.
        OptionError: the text cannot be had, or is too short.
    """
    if checkpoint.tokenizer is None:
        raise ExportError(
            "a calibration text needs a tokenizer, which the checkpoint has not; use --int8 without --calibration"
        )
    name = BUILT_IN.name if source is None else source
    text = BUILT_IN.read_text(encoding="utf-8") if source is None else read_text(source, tokens * CHARACTERS)
    ids = np.array(checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)
    if len(ids) < LEAST_TOKENS:
        raise OptionError(f"calibration text {name} has {len(ids)} tokens; give one of at least {LEAST_TOKENS}")
    length = min(SEQUENCE, checkpoint.model.config.keep_window_size, len(ids))
    pieces = ids[: len(ids) // length * length].reshape(-1, length)
    count = max(1, min(len(pieces), tokens // length))
    chosen = np.random.default_rng(seed).choice(len(pieces), size=count, replace=False)
    return torch.from_numpy(pieces[np.sort(chosen)])


def read_text(source: str, characters: int) -> str:
    """A file, or the beginning of a dataset.

    Raises:
        OptionError: it cannot be read.
    """
    path = Path(source)
    if not path.is_file():
        return "\n\n".join(dataset_texts(source, characters))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"calibration text {source} cannot be read: {error}; give a text file in UTF-8") from error


def dataset_texts(name: str, characters: int) -> Iterator[str]:
    """Texts of the train split of a dataset of the hub, or of a folder, which has a column `text`."""
    try:
        from datasets import load_dataset  # noqa: PLC0415 - takes seconds, and belongs to an extra
    except ModuleNotFoundError as error:
        raise OptionError(
            f"there is no file {name}; for a dataset of that name: pip install 'doge-export[eval]'"
        ) from error
    try:
        rows = iter(load_dataset(name, split="train", streaming=True))
    except (OSError, ValueError) as error:  # datasets' own errors are of these kinds
        reason = str(error).splitlines()[0]
        raise OptionError(f"there is no file {name}, and no dataset that can be loaded: {reason}") from error
    read = 0
    for row in rows:
        if not isinstance(row.get("text"), str):
            raise OptionError(f"dataset {name} has the columns {', '.join(row)}; calibration needs one called text")
        read += len(row["text"])
        yield row["text"]
        if read > characters:
            return
