"""Exported folders on the model hub: `load("owner/name")`, through huggingface_hub, its cache and its offline mode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from doge_common.hub_id import is_hub_id

from ..errors import CheckpointError, PackageError
from ..extras import needs_extra
from ..names import export_meant
from ..places import REPORT_FILE
from .description import DECODER_FILE, PORTABLE_FILE
from .folder_files import FILES, report_sizes

FIRST_FILES = (DECODER_FILE, REPORT_FILE, "config.json")  # enough to tell an export from another repository
CLASSIFIER_FILES = (*FILES, PORTABLE_FILE)  # all that a classifier has


def folder_of(source: str | Path, revision: str | None = None, local_files_only: bool = False) -> Path:
    """The folder that a source means: a local one, or a hub id's, downloaded where the cache has it not.

    A checkpoint, or the demo's name, means its export by the default name. revision: branch, tag or commit of a hub
    repository. local_files_only: ask the cache alone.

    Raises:
        PackageError: there is no such folder, and no export in such a repository either. Or the hub cannot be reached,
            or a model is not exported yet: the text has its command.
    """
    if not isinstance(source, str | Path):
        raise PackageError(f"the folder is {source!r}; give a path or a hub id (owner/name), a text or a Path")
    path = export_meant(Path(source))
    if path.is_dir():
        if revision:
            raise PackageError(f"revision is {revision!r}; it must be left out, as {path} is a folder")
        return path
    if not is_hub_id(str(source)):
        raise PackageError(
            f"there is no folder {str(path)!r}; give one that doge-export wrote, or a hub id (owner/name)"
        )
    first = fetch(str(source), revision, local_files_only, FIRST_FILES)
    if not (first / DECODER_FILE).is_file() and is_classifier_report(first / REPORT_FILE):
        return fetch(str(source), first.name, local_files_only, CLASSIFIER_FILES)
    if not (first / DECODER_FILE).is_file():
        raise PackageError(no_export(str(source), first))
    return fetch(str(source), first.name, local_files_only, FILES)  # that very commit, whatever comes meanwhile


def is_classifier_report(path: Path) -> bool:
    """Whether a report lists the files of a classifier."""
    files = report_sizes(path) if path.is_file() else {}
    return PORTABLE_FILE in files and DECODER_FILE not in files


def is_export(source: str) -> bool:
    """Whether a source is an exported folder, here or on the hub, rather than a checkpoint or nothing at all.

    Raises:
        PackageError: the source is a hub id that cannot be asked about.
    """
    if is_hub_id(source) and not Path(source).exists():
        return has_export(fetch(source, None, False, FIRST_FILES))
    return has_export(Path(source))


def has_export(folder: Path) -> bool:
    """Whether a folder holds an export, maybe an old or a damaged one, and no checkpoint."""
    if (folder / DECODER_FILE).is_file():
        return True
    return (folder / REPORT_FILE).is_file() and not any(folder.glob("*.safetensors"))


def no_export(repo_id: str, folder: Path) -> str:
    """The sentence about a repository without a decoder."""
    report = folder / REPORT_FILE
    if report.is_file() and DECODER_FILE in report_sizes(report):
        return f"{DECODER_FILE} is missing in {repo_id}; push the folder again"
    if report.is_file():
        return f"{repo_id} was exported by an earlier version; export the checkpoint again"
    return f"{repo_id} is no export: it has no {DECODER_FILE}; export it first: doge-export {repo_id}"


def fetch(repo_id: str, revision: str | None, local_files_only: bool, files: Sequence[str]) -> Path:
    """The folder in the cache that has these files of a repository, as far as they exist; its name is the commit.

    Raises:
        PackageError: huggingface_hub is not installed, or it could not get them.
    """
    with needs_extra("hub", f"loading {repo_id} from the hub", PackageError):
        from doge_common.hub import download  # noqa: PLC0415 - huggingface_hub takes a second to import, and an extra
    try:
        return download(repo_id, revision, None, local_files_only, files, [])
    except CheckpointError as error:
        raise PackageError(str(error)) from error
