"""The paths that a run reads and writes, checked with the standard library alone."""

from __future__ import annotations

from pathlib import Path

from doge_common.errors import OptionError

from .errors import DataError

SUFFIXES = (".jsonl", ".jsonl.xz", ".jsonl.gz", ".txt", ".txt.xz", ".txt.gz", ".parquet")
# The files by which a folder shows that a stage has written to it.
WRITTEN = ("trainer_state.json", "config.json", "adapter_config.json", "tokenizer.json")


def is_data_file(path: str) -> bool:
    """Whether a name ends as that of a local data file."""
    return path.endswith(SUFFIXES)


def check_data_file(path: Path) -> None:
    """Refuse a local data file that is not there.

    Raises:
        DataError: it is missing.
    """
    if not path.is_file():
        raise DataError(f"the file {path} is missing; give a path relative to data_folder")


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints that a run has left in its folder, the oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def check_no_run(output_dir: Path) -> None:
    """Refuse a folder that holds the files of a run, which a new run would mix with its own.

    Raises:
        OptionError: it holds one.
    """
    found = [*(path.name for path in checkpoints(output_dir)), *(n for n in WRITTEN if (output_dir / n).exists())]
    if found:
        raise OptionError(
            f"output_dir is {output_dir}; it must hold no run, but has {found[0]}: give another folder, "
            "--resume_from_checkpoint last to go on, or --overwrite_output_dir to replace the run"
        )
