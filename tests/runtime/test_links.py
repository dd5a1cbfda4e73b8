"""A folder of links, as the hub's cache has it, and links to several places."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from doge_export.runtime import sessions
from doge_export.runtime.decoder import Decoder
from tests.helpers.models import exported, random_ids, tiny_model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["blobs", "where its name ends"])
@pytest.mark.parametrize("follows_links", [True, False])
def test_a_folder_of_links_into_others_runs_as_the_files_do(
    place: str, follows_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, ids = exported(tiny_model(keep_window_size=8), tmp_path / "files", "int8"), random_ids(20)
    expected = decoder.forward(decoder.new_state(), ids, "all").copy()
    links = tmp_path / "snapshot" / "onnx"
    links.mkdir(parents=True)
    for file in (tmp_path / "files" / "onnx").iterdir():
        blobs = tmp_path / (place if place == "blobs" else file.suffix)
        blobs.mkdir(exist_ok=True)
        (links / file.name).symlink_to(file.rename(blobs / file.name))
    monkeypatch.setattr(sessions, "FOLLOWS_LINKS", follows_links and sessions.FOLLOWS_LINKS)
    linked = Decoder(tmp_path / "snapshot", threads=1)
    np.testing.assert_array_equal(linked.forward(linked.new_state(), ids, "all"), expected)


@pytest.mark.parametrize("follows_links", [True, False])
def test_the_bytes_are_read_only_where_onnxruntime_would_refuse(
    follows_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(tiny_model(), tmp_path / "files")
    (tmp_path / "links").mkdir()
    for file in (tmp_path / "files" / "onnx").iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    opened: list[str] = []
    monkeypatch.setattr(sessions, "FOLLOWS_LINKS", follows_links)
    monkeypatch.setattr(sessions, "open_with_bytes", lambda model, data, threads, purpose: opened.append(data.name))
    sessions.open_session(tmp_path / "files" / "onnx" / "decoder.onnx", 1)
    assert opened == []
    sessions.open_session(tmp_path / "links" / "decoder.onnx", 1)
    assert opened == ([] if follows_links else ["model.onnx_data"])
