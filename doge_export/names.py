"""Names of exports, and the export that is meant where a model is given in place of one."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import PackageError
from .places import REPORT_FILE, in_shell
from .recipes import DEFAULT, RECIPES

DEMO = "smollm2-135m"  # doge_model.gguf.DEMO; importing that takes seconds
# folders that a training names after its stage or step, in a folder that tells of which model they are
STAGE_FOLDER = re.compile(r"pretrain|upcycle|sft|dpo|checkpoint-\d+")


def model_names(model: str) -> list[str]:
    """The names that tell a model from others: its own, and before that of a stage or step those of its folders."""
    if not os.path.exists(model):
        return [model.rstrip("/").split("/")[-1].removesuffix(".gguf")]
    path = Path(model).resolve()  # the resolved "." has a name
    names = [path.name.removesuffix(".gguf")]
    while STAGE_FOLDER.fullmatch(path.name) and path.parent.name:
        path = path.parent
        names.insert(0, path.name)
    return names


def in_name(text: str) -> str:
    """A text as a part of a folder's name: without slashes and the like."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")


@dataclass(frozen=True)
class WantedExport:
    """The export that is meant by a path, and maybe not made yet.

    Attributes:
        model: the model to export, as doge-export takes it.
        recipe: the name of its recipe.
        folder: the export's place.
    """

    model: str
    recipe: str
    folder: Path

    @property
    def is_there(self) -> bool:
        """Whether the folder exists; of a checkpoint, whether its report names that checkpoint."""
        if not self.folder.is_dir():
            return False
        return self.model == DEMO or is_made_of(self.folder, Path(self.model))

    @property
    def command(self) -> str:
        """The command that makes it, as a line of a shell."""
        words = ["doge-export", in_shell(self.model), in_shell(self.folder), f"--{self.recipe}"]
        return " ".join(words)

    @property
    def reason(self) -> str:
        """The sentence about a model that is not exported yet, with the command to run."""
        text = f"{self.model} is a model that is not exported yet; {self.command} makes {self.folder}"
        if self.folder.exists():
            text = (
                f"{self.model} is a model and no export, and {self.folder} is none of it; "
                f"give another OUT: doge-export {in_shell(self.model)} OUT --{self.recipe}"
            )
        return os.fsencode(text).decode("utf-8", "replace")  # a name may be any bytes


def wanted_export(path: Path) -> WantedExport | None:
    """The export that is meant by the demo's name, by a name of its exports, or by a checkpoint; None for all else.

    A checkpoint is a folder with weights, or a .gguf file. An export itself is all else too.
    """
    name = str(path)
    if is_checkpoint(path):
        return WantedExport(name, DEFAULT, Path("-".join([*model_names(name), DEFAULT])))
    if path.exists():
        return None
    recipe = name.removeprefix(f"{DEMO}-")
    if name == DEMO or (name != recipe and recipe in RECIPES):
        recipe = DEFAULT if name == DEMO else recipe
        return WantedExport(DEMO, recipe, Path(f"{DEMO}-{recipe}"))
    return None


def export_meant(path: Path) -> Path:
    """The path itself, or in place of a model that of its export.

    Raises:
        PackageError: that export is not made yet; the text has the command.
    """
    wanted = wanted_export(path)
    if wanted is None:
        return path
    if not wanted.is_there:
        raise PackageError(wanted.reason)
    return wanted.folder


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a .gguf file, or a folder that holds the weights of a model and no export."""
    if path.is_file():
        return path.suffix.lower() == ".gguf"
    return path.is_dir() and any(path.glob("*.safetensors")) and not (path / REPORT_FILE).is_file()


def is_made_of(folder: Path, model: Path) -> bool:
    """Whether the report of an export names this model, by whatever path."""
    try:
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        return Path(report["options"]["model"]).resolve() == model.resolve()
    except (OSError, ValueError, KeyError, TypeError):  # no report, or a damaged one: no such name
        return False
