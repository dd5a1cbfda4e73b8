"""doge-chat with a model that is not exported yet: it names the command, and runs it for whoever says yes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

import doge_export
from doge_export.commands import bench, chat, eval, export, missing_export
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


COMMANDS: dict[str, tuple[click.Command, list[str]]] = {
    "doge-chat": (chat.main, ["FOLDER", "--prompt", "Hi"]),
    "doge-bench": (bench.main, ["FOLDER"]),
    "doge-eval": (eval.main, ["FOLDER", "--perplexity", "text.txt"]),
    "doge-export --check": (export.main, ["--check", "FOLDER"]),
}
NAMES = [(command, name) for command in COMMANDS for name in ("smollm2-135m", "smollm2-135m-int8", "smollm2-135m-int4")]


@pytest.mark.parametrize(("command", "name"), [each for each in NAMES if each != ("doge-eval", "smollm2-135m")])
def test_every_command_names_the_one_that_makes_the_demo(command: str, name: str) -> None:
    Path("text.txt").write_text("A text.")
    main, arguments = COMMANDS[command]
    result = CliRunner().invoke(main, [name if word == "FOLDER" else word for word in arguments])
    recipe = "int4" if name.endswith("int4") else "int8"
    assert f"doge-export smollm2-135m smollm2-135m-{recipe} --{recipe} makes smollm2-135m-{recipe}" in result.stderr
    assert result.exit_code in (1, 2) and len(result.stderr.splitlines()) <= 3


@pytest.mark.parametrize("name", ["smollm2-135m", "smollm2-135m-fp32", "./smollm2-135m/", "runs/my chat", "a.gguf"])
def test_the_library_names_the_command_too(name: str) -> None:
    Path("runs").mkdir()
    checkpoint("runs/my chat")
    Path("a.gguf").touch()
    with pytest.raises(PackageError, match=r"is a model that is not exported yet; doge-export .+ --(int8|fp32) makes "):
        doge_export.load(name)


def test_an_export_of_the_same_name_is_of_that_very_checkpoint() -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        checkpoint(f"{folder}/model")
    Path("model-int8").mkdir()
    (Path("model-int8") / "export_report.json").write_text('{"options": {"model": "./a/model/"}}')
    assert missing_export.found_or_made(Path("a/model")) == Path("model-int8")
    with pytest.raises(PackageError, match="model-int8 is none of it; give another OUT: doge-export b/model OUT"):
        missing_export.found_or_made(Path("b/model"))


def test_a_name_that_begins_with_a_dash_is_no_option() -> None:
    with pytest.raises(PackageError, match=r"doge-export \./-m \./-m-int8 --int8 makes -m-int8"):
        missing_export.found_or_made(checkpoint("-m"))


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
    wanted = ["-m", "doge_export.commands.export", "--int8", "--", "smollm2-135m", "smollm2-135m-int8"]
    assert commands == [wanted] * reply
