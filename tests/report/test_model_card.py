"""The model card takes the licence from wherever the checkpoint tells it, and names no path of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from doge_export.report.model_card import name_of
from doge_model.licence import licence_of
from tests.helpers.checkpoints import byte_level_llama, save_gguf


@pytest.mark.parametrize(
    ("card", "fields"),
    [
        ("---\nlicense: mit\n---\n", {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n",
            {"license": "other", "license_name": "own", "license_link": "LICENSE"},
        ),
        ("---\nlicense: [mit]\n---\n", {}),
        ("---\nlicense: {\n---\n", {}),
        ("---\n- a list\n---\n", {}),
        ("# no fields", {}),
    ],
)
def test_the_licence_is_that_of_the_checkpoint_s_card(card: str, fields: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == fields


def test_a_card_that_is_no_utf_8_and_a_missing_one_tell_no_licence(tmp_path: Path) -> None:
    assert licence_of(str(tmp_path)) == licence_of(str(tmp_path / "nowhere")) == {}
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xe9\n---\n")
    assert licence_of(str(tmp_path)) == {}


def test_a_gguf_file_tells_its_licence(tmp_path: Path) -> None:
    silent = save_gguf(tmp_path / "silent.gguf", byte_level_llama())
    told = save_gguf(tmp_path / "told.gguf", byte_level_llama(), extra=lambda writer: writer.add_license("mit"))
    assert (licence_of(str(silent)), licence_of(str(told))) == ({}, {"license": "mit"})


def test_a_local_checkpoint_is_named_without_its_path(tmp_path: Path) -> None:
    assert name_of(str(tmp_path / "mine")) == "mine"
    assert name_of("owner/name") == "owner/name"
