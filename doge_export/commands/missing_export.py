"""The FOLDER of a command; where it is a model that is not exported yet, doge-chat offers the export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from doge_common.hub_id import is_hub_id

from ..errors import PackageError
from ..names import WantedExport, wanted_export
from ..talk.notes import note
from ..talk.terminal import stdin_is_terminal


class ExportedFolder(click.Path):
    """A folder that exists, the hub id of one, owner/name, or a model whose export is meant (`wanted_export`)."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a hub id goes through as it is, and so does a model."""
        path = Path(value)
        if wanted_export(path) or (is_hub_id(str(value)) and not path.exists()):
            return path
        return super().convert(value, param, ctx)


def found_or_made(folder: Path) -> Path:
    """The exported folder that is meant: `folder` itself, or the export of the model that it is.

    In a terminal an export that is missing is made if the user wishes. Raises PackageError that names the command
    otherwise, or where that failed.
    """
    wanted = wanted_export(folder)
    if wanted is None:
        return folder
    if wanted.is_there:
        note(f"{click.format_filename(folder)} is a model; its export answers, {wanted.folder}.")
        return wanted.folder
    if wanted.folder.exists() or not (stdin_is_terminal() and sys.stderr.isatty()):
        raise PackageError(wanted.reason)
    return make(wanted)


def make(wanted: WantedExport) -> Path:
    """Ask whether to export, and export in a process of its own, for torch would stay in this one."""
    click.echo(f"{wanted.reason}.", err=True)
    if not click.confirm("Run it now? It takes some minutes", err=True):
        raise click.exceptions.Exit(1)
    options = [f"--{wanted.recipe}", "--", wanted.model, str(wanted.folder)]
    if subprocess.run([sys.executable, "-m", "doge_export.commands.export", *options], check=False).returncode:
        raise click.exceptions.Exit(1)
    return wanted.folder
