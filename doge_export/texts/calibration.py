"""Calibration texts as token ids: weights are rounded by them, and a state's scales are made of them."""

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

from doge_common.errors import one_line
from doge_model.checkpoint import AnyCheckpoint

from ..errors import ExportError, OptionError
from .calibration_source import DATASET_FILES, is_text_file, read_text_file
from .token_ids import text_ids

BUILT_IN = Path(__file__).parent / "calibration.txt"
SEQUENCE = 1024  # tokens at once, where the window has room for them
LEAST_TOKENS = 256  # fewer say nothing about a model
CHARACTERS = 16  # a token has hardly ever more; bounds the part of a dataset that is read


@dataclass(frozen=True)
class Calibration:
    """The calibration text of an export.

    Attributes:
        text: its name.
        tokens: number of tokens used.
        sha256: of the token ids used, int64.
    """

    text: str
    tokens: int
    sha256: str


def describe_calibration(source: str | None, ids: NDArray[np.int64]) -> Calibration:
    """Describe the token ids, int64 [N], that were used of a text."""
    name = BUILT_IN.name if source is None else source
    return Calibration(name, ids.size, hashlib.sha256(ids.tobytes()).hexdigest())


def calibration_sequences(checkpoint: AnyCheckpoint, source: str | None, tokens: int, seed: int) -> Tensor:
    """Pieces of a text, drawn without repetition: int64 [N, S] of at most `tokens` tokens.

    Args:
        checkpoint: its tokenizer is used, and its window bounds S.
        source: as `ExportOptions.calibration`.
        tokens: number of tokens wanted; a shorter text gives fewer.
        seed: of the draw.

    Raises:
        ExportError: the checkpoint has no tokenizer.
        OptionError: the text cannot be read, or is too short.
    """
    if checkpoint.tokenizer is None:
        raise ExportError(
            f"the tokenizer of {checkpoint.source} is missing, and a calibration text needs it; add one to the "
            "checkpoint, or export with --int8 and without --calibration"
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
    if is_text_file(Path(source)):
        return read_text_file(Path(source))
    return "\n\n".join(dataset_texts(source, characters))


def dataset_texts(source: str, characters: int) -> Iterator[str]:
    """Texts of a dataset's column `text`, from its train split, until there are so many characters.

    Raises:
        OptionError: the dataset cannot be read, has no such column, or a row of it holds no text.
    """
    read = 0
    for number, row in enumerate(dataset_rows(source), 1):
        if "text" not in row:
            raise OptionError(f"dataset {source} has the columns {', '.join(row)}; one of them must be called text")
        if not isinstance(row["text"], str):
            raise OptionError(f"the text in row {number} of dataset {source} is {row['text']!r}; it must be a string")
        if row["text"].strip():
            read += len(row["text"])
            yield row["text"]
        if read > characters:
            return


def dataset_rows(source: str) -> Iterator[dict[str, Any]]:
    """Rows of a data file, of a folder of such files, or of a dataset of the hub.

    Raises:
        OptionError: there is no such dataset, or it cannot be read.
    """
    try:
        from datasets import load_dataset  # noqa: PLC0415 - takes seconds, and belongs to an extra
    except ModuleNotFoundError as error:
        raise OptionError(
            f"the text file {source} is missing; a dataset of that name needs: pip install -c constraints.txt '.[eval]'"
        ) from error
    path = Path(source)
    builder, data_files = (DATASET_FILES[path.suffix.lower()], source) if path.is_file() else (source, None)
    try:
        yield from load_dataset(builder, data_files=data_files, split="train", streaming=True)
    except (OSError, ValueError, StopIteration) as error:  # of datasets and pyarrow; the last for an empty file
        reason = "it holds nothing" if isinstance(error, StopIteration) else one_line(error)
        found = f"dataset {source}" if path.exists() else f"there is no file {source}, and a dataset of that name"
        raise OptionError(f"{found} cannot be loaded: {reason}; give a text file, or another dataset") from error
