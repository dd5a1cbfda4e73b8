"""The files of a recipe come from a server whole and unchanged, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from train import fetch
from train.fetch import CHECKSUMS, data_files, main, read_checksums
from train.stages.recall import STREAMS_FILE
from train.stages.sums import CONVERSATIONS_FILE, PROBLEMS_FILE

TEXT = b"Once upon a time.\n\nThe end.\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server of a folder with one text."""
    (tmp_path / "served/texts").mkdir(parents=True)
    (tmp_path / "served/texts/story.txt").write_bytes(TEXT)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe that reads that text and a data set of the hub."""
    (tmp_path / "sha256.txt").write_text(f"{hashlib.sha256(TEXT).hexdigest()}  texts/story.txt\n")
    monkeypatch.setattr(fetch, "CHECKSUMS", tmp_path / "sha256.txt")
    (tmp_path / "recipe.yaml").write_text("datasets:\n- path: texts/story.txt\n- path: owner/name\n")
    return str(tmp_path / "recipe.yaml")


def run(url: str, recipe: str, folder: Path) -> None:
    main(["--url", url, "--config", recipe, "--data_folder", str(folder)])


def test_a_file_is_fetched_once(server: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("fetched, 0.0 MB", "there"):
        run(server, recipe, tmp_path / "data")
        assert capsys.readouterr().out == f"{tmp_path}/data/texts/story.txt: {words}\n"
    assert (tmp_path / "data/texts/story.txt").read_bytes() == TEXT


def test_another_file_of_that_name_is_left_out(
    server: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "served/texts/story.txt").write_bytes(TEXT + b"!")
    with pytest.raises(SystemExit) as stop:
        run(server, recipe, tmp_path / "data")
    assert stop.value.code == 1
    assert "/texts/story.txt has SHA-256 " in capsys.readouterr().err
    assert list((tmp_path / "data/texts").iterdir()) == []


def test_an_address_that_does_not_answer_is_named(
    server: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url, reason in ((f"{server}/nowhere", "File not found"), ("http://127.0.0.1:1", "[Errno 111]")):
        with pytest.raises(SystemExit):
            run(url, recipe, tmp_path / "data")
        assert f"Error: {url}/texts/story.txt cannot be fetched: {reason}" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_damaged_file_is_fetched_again(server: str, recipe: str, tmp_path: Path) -> None:
    run(server, recipe, tmp_path / "data")
    (tmp_path / "data/texts/story.txt").write_bytes(TEXT[:5])
    run(server, recipe, tmp_path / "data")
    assert (tmp_path / "data/texts/story.txt").read_bytes() == TEXT


def test_a_folder_is_no_address(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("texts", recipe, tmp_path)
    assert stop.value.code == 2
    assert "url is texts; it must begin with one of http://, https://, file://" in capsys.readouterr().err


def test_every_file_of_every_recipe_is_drawn_here_or_has_a_checksum() -> None:
    recipes = Path("train/recipes").glob("*/*.yaml")
    named = {name for path in recipes for name in data_files(yaml.safe_load(path.read_text()))}
    drawn = {STREAMS_FILE, PROBLEMS_FILE, CONVERSATIONS_FILE}  # by train.recall and train.sums
    assert named > drawn
    assert named - drawn <= set(read_checksums(CHECKSUMS))
