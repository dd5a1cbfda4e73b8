"""Where an export may be read from and written to, checked before anything is loaded."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from .errors import OptionError

REPORT_FILE = "export_report.json"  # every exported folder has one; a folder without it is never overwritten
PAGE_FILE = "export_report.html"
CARD_FILE = "README.md"


def in_shell(path: str | Path) -> str:
    """A path as a word of a command line: quoted, and no option where it begins with a dash."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def check_model(model: str) -> None:
    """Refuse a MODEL that is empty, an export already, or a folder whose name cannot be read.

    Raises:
        OptionError: the model is refused.
    """
    if not model.strip():
        raise OptionError("MODEL is empty; give a checkpoint folder, a .gguf file, a hub id or smollm2-135m")
    if not os.path.isdir(model):
        return
    folder = Path(model)
    check_unicode("MODEL", folder)
    if (folder / REPORT_FILE).is_file() and not any(folder.glob("*.safetensors")):
        raise OptionError(
            f"{model} is an export already; give the checkpoint it was made from, or run doge-chat {in_shell(model)}"
        )


def check_target(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that an export must not or cannot become.

    An export may become a new folder, an empty one, or in place of an earlier export if `overwrite` says so.

    Raises:
        OptionError: the folder is refused.
    """
    check_unicode("OUT", named(folder))
    try:
        parent = Path(os.path.abspath(folder)).parent
        if not parent.is_dir():
            raise OptionError(f"the folder {parent} does not exist; create it first")
        if not os.access(parent, os.W_OK):
            raise OptionError(f"the folder {parent} cannot be written to; give another OUT")
        if folder.is_symlink() or folder.exists():
            check_taken(folder, overwrite)
    except OSError as error:  # a name that is too long, a folder that must not be listed
        raise OptionError(
            f"OUT is {str(folder)[:200]}, which cannot be used: {error.strerror}; give another"
        ) from error


def check_taken(folder: Path, overwrite: bool) -> None:
    """Refuse a folder, file or link that exists, unless it is an empty folder or an earlier export to overwrite.

    Raises:
        OptionError: the folder is refused.
    """
    is_folder = folder.is_dir() and not folder.is_symlink()
    is_empty = is_folder and not any(folder.iterdir())
    if os.path.ismount(folder):
        raise OptionError(f"{folder} is a mount point, which nothing can replace; give a new folder in it as OUT")
    if not is_empty and not overwrite:
        raise OptionError(f"{folder} exists already; give another OUT, or --overwrite to replace an earlier export")
    if not is_folder:
        raise OptionError(f"{folder} is not a folder, so --overwrite leaves it alone; give another OUT")
    if not is_empty and not (folder / REPORT_FILE).is_file():
        raise OptionError(
            f"{folder} holds something else than an export (no {REPORT_FILE}), so --overwrite leaves it alone; "
            "give another OUT"
        )


def named(folder: Path) -> Path:
    """The same folder by a path that ends in its name; a relative path stays relative if it can."""
    return Path(os.path.abspath(folder)) if folder.name in ("", "..") else folder


def check_unicode(option: str, path: Path) -> None:
    """Refuse a path that onnxruntime, tokenizers and safetensors cannot open, because they take UTF-8 only.

    Python holds the bytes of such a path as lone surrogates. They are those that are not UTF-8; in the C locale without
    Python's UTF-8 mode, all that are not ASCII.

    Raises:
        OptionError: the path is refused.
    """
    try:
        readable = os.fsencode(path).decode("utf-8") == str(path)
    except UnicodeError:
        readable = False
    if not readable:
        remedy = "rename it" if sys.getfilesystemencoding() == "utf-8" else "set PYTHONUTF8=1 in the environment"
        raise OptionError(f"{option} is {str(path)!r}; its name must be readable as UTF-8, {remedy} or give another")
