"""Which sources a calibration text may come from, checked without torch: a text file, or a dataset."""

from __future__ import annotations

from pathlib import Path

from ..errors import OptionError

DATASET_FILES = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}  # and their builder's name
TEXT_FILES = (".txt", ".md", ".text")


def check_calibration(source: str) -> None:
    """Refuse a source that can only be a file and is missing, or a file without text.

    A source that may be a dataset of the hub passes; reading it later shows whether it exists.

    Raises:
        OptionError: the source is refused.
    """
    if not source.strip():
        raise OptionError("calibration is empty; give a text file, or the name of a dataset")
    path = Path(source)
    if is_text_file(path):
        read_text_file(path)
    elif not path.exists() and must_be_a_file(source):
        raise OptionError(f"the calibration text {source} is missing; give a file, or the name of a dataset")


def is_text_file(path: Path) -> bool:
    """Whether `path` is a file and not one of a dataset."""
    return path.is_file() and path.suffix.lower() not in DATASET_FILES


def must_be_a_file(source: str) -> bool:
    """Whether no dataset of the hub can have this name."""
    return Path(source).suffix.lower() in (*DATASET_FILES, *TEXT_FILES) or source.startswith((".", "/", "~"))


def read_text_file(path: Path) -> str:
    """The text of a file.

    Raises:
        OptionError: the file cannot be read, is not UTF-8, or holds no words.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"calibration text {path} cannot be read: {error}; give a text file in UTF-8") from error
    if not text.replace("\0", "").strip():
        raise OptionError(f"calibration text {path} is empty; give a text like those the model will be asked for")
    return text
