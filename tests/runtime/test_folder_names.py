"""Folders with names that are not UTF-8, and any names where the locale is ASCII."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from doge_export.errors import PackageError
from doge_export.runtime import huge_pages, threads
from doge_export.runtime.generation_options import GenerationDefaults
from doge_export.runtime.loading import load
from doge_export.runtime.tokenizer import Tokenizer
from tests.helpers.fakes import CHATML, byte_level_tokenizer
from tests.helpers.models import exported, tiny_model

NAMES = [b"caf\xe9", "Größe 模型".encode()]
by_name = pytest.mark.parametrize("name", NAMES, ids=["not UTF-8", "not ASCII"])

# Loads a folder, generates and saves a state, and prints each result or the error as ASCII.
USE = """
import os, sys, doge_export
from doge_export.errors import DogeError
folder = sys.argv[1]
try:
    model = doge_export.load(folder)
    print(ascii(model.name), model.generate([1, 2], max_new_tokens=3).completion_tokens, model.tokenizer.encode("ab"))
    model.prefill([1]).save(folder + "/state")
    print(model.load_state(folder + "/state").position)
except DogeError as error:
    print(ascii(str(error)))
"""
IN_ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def folder_named(name: Any, parent: Any) -> Any:
    if sys.platform != "linux":
        pytest.skip("names of files are Unicode here")
    folder = Path(os.fsdecode(os.fsencode(parent) + b"/" + name))
    folder.mkdir()
    return folder


def write_text_files(folder: Any) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer()._backend, eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder.parent / "plain")
    for file in (folder.parent / "plain").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')


@by_name
def test_tokenizer_template_and_settings_are_read_from_any_folder(name: Any, tmp_path: Path) -> None:
    folder = folder_named(name, tmp_path)
    write_text_files(folder)
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer is not None and tokenizer.chat_templates == {"default": CHATML}
    assert GenerationDefaults.from_folder(folder).eos_token_ids == {2}


@by_name
def test_a_damaged_folder_of_any_name_is_one_sentence(name: Any, tmp_path: Path) -> None:
    folder = folder_named(name, tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(PackageError, match="is not a tokenizer"):
        Tokenizer.from_folder(folder)
    with pytest.raises(PackageError, match="is missing"):
        load(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(NAMES[1], {}, id="not ASCII"),
        pytest.param(NAMES[0], {}, id="not UTF-8"),
        pytest.param(NAMES[0], IN_ASCII, id="not UTF-8 in an ASCII locale"),
        pytest.param(NAMES[1], IN_ASCII, id="not ASCII in an ASCII locale"),
    ],
)
def test_a_folder_of_any_name_runs_in_any_locale(name: Any, settings: Any, tmp_path: Path) -> None:
    exported(tiny_model(vocab_size=259), tmp_path / "export")
    folder = folder_named(name, tmp_path)
    (tmp_path / "export" / "onnx").rename(folder / "onnx")
    write_text_files(folder)
    command: list[Any] = [sys.executable, "-c", USE, os.fsencode(folder)]
    printed = subprocess.run(command, env=os.environ | settings, capture_output=True, check=True, text=True).stdout
    assert printed.splitlines() == [f"{name.decode('utf-8', 'replace')!a} 3 [64, 65]", "1"]


def test_memory_of_files_with_any_name_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = tmp_path / "maps"
    maps.write_bytes(b"10-20 rw-p 0 00:00 7 /caf\xe9/model.onnx_data\n30-40 rw-p 0 00:00 0\n")
    monkeypatch.setattr(huge_pages, "MAPS", maps)
    assert huge_pages.anonymous_ranges(huge_pages.read_maps()) == [(0x30, 0x40)]


def test_a_control_group_of_any_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "OWN_CGROUPS", tmp_path / "own")
    (tmp_path / "own").write_bytes(b"0::/caf\xe9\n")
    group = folder_named(b"caf\xe9", tmp_path)
    (group / "cpu.max").write_text("150000 100000")
    assert threads.cgroup_quota() == 1.5
