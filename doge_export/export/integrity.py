"""Whether the files of an exported folder are still those that were written: their hashes against the report."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from doge_common.errors import one_line

from ..errors import PackageError
from ..places import CARD_FILE, PAGE_FILE, REPORT_FILE

REPORTS = (REPORT_FILE, PAGE_FILE, CARD_FILE)  # they are written when all other files are hashed


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file by its name in the folder."""
    return {name: path.stat().st_size for name, path in files_in(folder).items()}


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its name in the folder, in hexadecimal digits."""
    return {name: sha256_of(path) for name, path in files_in(folder).items()}


def files_in(folder: Path) -> dict[str, Path]:
    """Every file by its name in the folder, which has slashes on every system; the reports are left out."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in files.items() if name not in REPORTS}


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_integrity(folder: Path) -> int:
    """Compare every file of an exported folder with the hash in its report.

    This finds damage, not deceit: whoever changes a file on purpose can change the report too.

    Returns:
        How many files were compared.

    Raises:
        PackageError: the folder has no hashes; or a file differs, is missing or was added, and all such are named.
    """
    written = written_hashes(folder)
    try:
        found = file_hashes(folder)
    except OSError as error:
        raise PackageError(f"{error.filename} cannot be read: {error.strerror}") from error
    differences = [f"{name} differs" for name in written if name in found and found[name] != written[name]]
    differences += [f"{name} is missing" for name in written if name not in found]
    differences += [f"{name} was added" for name in found if name not in written]
    if differences:
        raise PackageError(f"{folder} is not as it was exported: {', '.join(differences)}; copy or export it again")
    return len(found)


def written_hashes(folder: Path) -> dict[str, Any]:
    """The hashes in a folder's report by file name.

    Raises:
        PackageError: the folder has no report, a damaged one, or one of a version that wrote no hashes.
    """
    path = folder / REPORT_FILE
    if not path.is_file():
        raise PackageError(f"{folder} is no export: {REPORT_FILE} is missing; give the folder that doge-export wrote")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} is damaged: {one_line(error)}; copy or export the folder again") from error
    hashes = report.get("sha256") if isinstance(report, dict) else None
    if not isinstance(hashes, dict):
        raise PackageError(f"{path} has no hashes, as an older version wrote it; export the model again")
    return hashes
