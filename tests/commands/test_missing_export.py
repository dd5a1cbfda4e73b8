"""doge-chat with a model that is not exported yet: it names the command, and runs it for whoever says yes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from doge_export.commands import chat, missing_export
from doge_export.errors import PackageError
from tests.helpers.fakes import ScriptedModel, model_saying


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def checkpoint(name: str) -> Path:
    Path(name).mkdir()
    (Path(name) / "model.safetensors").touch()
    return Path(name)


@pytest.mark.parametrize("name", ["smollm2-135m", "smollm2-135m-int8"])
def test_the_demo_that_is_not_exported_names_its_command(name: str) -> None:
    result = CliRunner().invoke(chat.main, [name, "--prompt", "Hi"])
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
    assert "doge-export smollm2-135m smollm2-135m-int8 --int8 makes smollm2-135m-int8" in result.stderr


def test_a_checkpoint_names_its_command_with_its_path_quoted() -> None:
    with pytest.raises(PackageError, match="doge-export 'my model' 'my model-int8' --int8 makes my model-int8"):
        missing_export.found_or_made(checkpoint("my model"))


def test_a_model_whose_export_is_there_means_that_export(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def load(folder: Path, **options: Any) -> ScriptedModel:
        opened.append(folder)
        return model_saying("Hello!")

    monkeypatch.setattr(chat, "load", load)
    Path("smollm2-135m-int8").mkdir()
    for name in ("smollm2-135m", "smollm2-135m-int8", "."):
        assert CliRunner().invoke(chat.main, [name, "--prompt", "Hi"]).stdout == "Hello!\n"
    assert opened == [Path("smollm2-135m-int8")] * 2 + [Path(".")]


@pytest.mark.parametrize(("reply", "code", "made"), [(True, 0, True), (True, 1, False), (False, 0, False)])
def test_in_a_terminal_the_export_is_offered(
    reply: bool, code: int, made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        commands.append(command[1:])
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(missing_export, "stdin_is_terminal", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda *text, **options: reply)
    monkeypatch.setattr(subprocess, "run", run)
    if made:
        assert missing_export.found_or_made(Path("smollm2-135m")) == Path("smollm2-135m-int8")
    else:
        with pytest.raises(click.exceptions.Exit):
            missing_export.found_or_made(Path("smollm2-135m"))
    wanted = ["-m", "doge_export.commands.export", "smollm2-135m", "smollm2-135m-int8", "--int8"]
    assert commands == [wanted] * reply
