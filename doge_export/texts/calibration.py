"""The text that weights are rounded by and a state's scales are made of: a file, a dataset, or the one that is here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from doge_model import Checkpoint
from doge_model.errors import one_line

from ..errors import ExportError, OptionError
from ..options import DATASET_FILES, read_calibration_file
from .token_ids import text_ids

BUILT_IN = Path(__file__).parent / "calibration.txt"
SEQUENCE = 1024  # tokens at once, where the window has room for them
LEAST_TOKENS = 256  # fewer say nothing about a model
CHARACTERS = 16  # a token has hardly ever more; bounds what is read of a dataset


@dataclass(frozen=True)
class Calibration:
    """What an export was calibrated with.

    Attributes:
        text: its name.
        tokens: used.
        sha256: over the token ids used, int64.
    """

    text: str
    tokens: int
    sha256: str


def describe_calibration(source: str | None, ids: NDArray[np.int64]) -> Calibration:
    """Of all the token ids that were used."""
    name = BUILT_IN.name if source is None else source
    return Calibration(name, ids.size, hashlib.sha256(ids.tobytes()).hexdigest())


def calibration_sequences(checkpoint: Checkpoint, source: str | None, tokens: int, seed: int) -> Tensor:
    """Pieces of a text, drawn without repetition: int64 [N, S] of at most `tokens` tokens.

    Args:
        checkpoint: whose tokenizer is used, and whose window bounds S.
        source: as `ExportOptions.calibration`.
        tokens: wanted; a shorter text gives fewer.
        seed: of the draw.

    Raises:
        ExportError: the checkpoint has no tokenizer, or not that of its model.
        OptionError: the text cannot be had, or is too short.
    """
    if checkpoint.tokenizer is None:
        raise ExportError(
            "a calibration text needs a tokenizer, which the checkpoint has not; use --int8 without --calibration"
        )
    name = BUILT_IN.name if source is None else source
    text = (
        BUILT_IN.read_text(encoding="utf-8")
        if source is None
        else read_text(source, max(tokens, LEAST_TOKENS) * CHARACTERS)
    )
    ids = text_ids(checkpoint, text, add_special_tokens=False)
    if len(ids) < LEAST_TOKENS:
        raise OptionError(f"calibration text {name} has {len(ids)} tokens; give one of at least {LEAST_TOKENS}")
    length = min(SEQUENCE, checkpoint.model.config.keep_window_size, len(ids))
    pieces = ids[: len(ids) // length * length].reshape(-1, length)
    count = max(1, min(len(pieces), tokens // length))
    chosen = np.random.default_rng(seed).choice(len(pieces), size=count, replace=False)
    return torch.from_numpy(pieces[np.sort(chosen)])


def read_text(source: str, characters: int) -> str:
    """A text file, or the beginning of a dataset.

    Raises:
        OptionError: it cannot be read.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() not in DATASET_FILES:
        return read_calibration_file(path)
    return "\n\n".join(dataset_texts(source, characters))


def dataset_texts(source: str, characters: int) -> Iterator[str]:
    """Texts of the train split of a dataset which has a column `text`, until there are so many characters."""
    read = 0
    for number, row in enumerate(dataset_rows(source), 1):
        if "text" not in row:
            raise OptionError(f"dataset {source} has the columns {', '.join(row)}; calibration needs one called text")
        if not isinstance(row["text"], str):
            raise OptionError(f"row {number} of dataset {source} has the text {row['text']!r}; give every row a text")
        if row["text"].strip():
            read += len(row["text"])
            yield row["text"]
        if read > characters:
            return


def dataset_rows(source: str) -> Iterator[dict[str, Any]]:
    """Rows of a data file, of a folder of them, or of a dataset of the hub."""
    try:
        from datasets import load_dataset  # noqa: PLC0415 - takes seconds, and belongs to an extra
    except ModuleNotFoundError as error:
        raise OptionError(
            f"{source} is no text file; for a dataset of that name: pip install 'doge-export[eval]'"
        ) from error
    path = Path(source)
    what = (DATASET_FILES[path.suffix.lower()], source) if path.is_file() else (source, None)
    try:
        yield from load_dataset(what[0], data_files=what[1], split="train", streaming=True)
    except (OSError, ValueError, StopIteration) as error:  # those of datasets and pyarrow; the last of an empty file
        reason = "it holds nothing" if isinstance(error, StopIteration) else one_line(error)
        found = f"dataset {source}" if path.exists() else f"there is no file {source}, and a dataset of that name"
        raise OptionError(f"{found} cannot be loaded: {reason}; give a text file, or another dataset") from error
