"""The FOLDER of doge-chat; where it is a model that is not exported yet, the export is offered."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from doge_common.hub_id import is_hub_id

from ..errors import PackageError
from ..options import DEMO, ExportOptions
from ..places import REPORT_FILE
from ..talk.terminal import stdin_is_terminal

DEMO_EXPORT = f"{DEMO}-int8"


class ExportedFolder(click.Path):
    """A folder that exists, the hub id of one, owner/name, or the demo's name."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a hub id goes through as it is, and so does the demo."""
        is_name = is_hub_id(str(value)) or str(value) in (DEMO, DEMO_EXPORT)
        if is_name and not Path(value).exists():
            return Path(value)
        return super().convert(value, param, ctx)


def found_or_made(folder: Path) -> Path:
    """The exported folder that is meant: `folder` itself, or the export of the model that it is.

    In a terminal an export that is missing is made if the user wishes. Raises PackageError that names the command
    otherwise, or where that failed.
    """
    target = export_of(folder)
    if target is None or target.is_dir():
        return target or folder
    model = DEMO if folder.name == DEMO_EXPORT else str(folder)
    command = ["doge-export", model, str(target), "--int8"]
    reason = (
        f"{click.format_filename(folder)} is a model that is not exported yet; {shlex.join(command)} makes {target}"
    )
    if not (stdin_is_terminal() and sys.stderr.isatty()):
        raise PackageError(reason)
    click.echo(f"{reason}.", err=True)
    if not click.confirm("Run it now? It takes some minutes", err=True):
        raise click.exceptions.Exit(1)
    # In a process of its own, for torch would stay in this one.
    if subprocess.run([sys.executable, "-m", "doge_export.commands.export", *command[1:]], check=False).returncode:
        raise click.exceptions.Exit(1)
    return target


def export_of(folder: Path) -> Path | None:
    """The place of the export of a model: of the demo, or of a checkpoint folder; None for anything else."""
    if str(folder) in (DEMO, DEMO_EXPORT):
        return None if folder.is_dir() and not is_checkpoint(folder) else Path(DEMO_EXPORT)
    return ExportOptions(str(folder)).folder if folder.is_dir() and is_checkpoint(folder) else None


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds the weights of a model and no export."""
    return any(folder.glob("*.safetensors")) and not (folder / REPORT_FILE).is_file()
