"""The exported folder: what lies in it, and how it appears all at once or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExportError

if TYPE_CHECKING:
    from doge_model import Checkpoint


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to write into; it becomes `target` when the block ends well, else it is removed.

    An existing `target` (the caller has checked that it may go) is replaced, and put back if that fails.

    Raises:
        ExportError: the system refused to write.
    """
    target = Path(os.path.abspath(target))  # "." and "x/.." have a name and a parent too
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        try:
            yield partial
            partial.chmod(0o755)  # mkdtemp makes it private
            replace_folder(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ExportError(f"cannot write {error.filename or target}: {error.strerror}") from error


def replace_folder(new: Path, target: Path) -> None:
    """Rename `new` to `target`; what was there goes only when its successor is in place."""
    if not target.exists():
        new.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent)) / target.name
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def write_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """config.json, generation_config.json and, where the checkpoint has one, the tokenizer with its chat template."""
    checkpoint.model.config.save_pretrained(folder)
    checkpoint.generation_config.save_pretrained(folder)
    if checkpoint.tokenizer is None:
        return
    checkpoint.tokenizer.save_pretrained(folder)
    checkpoint.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)  # half the size
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    # transformers 5 writes a class name that onnxruntime-genai and transformers 4 do not know; this one all of them do
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def folder_bytes(folder: Path) -> dict[str, int]:
    """Size of every file in a folder by its relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
