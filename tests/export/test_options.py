"""The options of an export are checked before anything is loaded: places, names and values."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from doge_export.errors import OptionError
from doge_export.options import ExportOptions


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_default_name_says_how_an_export_differs_from_others_of_the_model() -> None:
    assert ExportOptions("owner/name").folder == Path("name-int8")
    assert ExportOptions("x/name.gguf", weights="fp32").folder == Path("name-fp32")
    assert ExportOptions("name/", kv_int8=True).folder == Path("name-int8-kv-int8")
    assert ExportOptions("name", kv_int8=True, keep_window=1024).folder == Path("name-int8-kv-int8-window-1024")
    assert ExportOptions("name", keep_window=1024, keep_sinks=0).folder == Path("name-int8-window-1024-sinks-0")


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ({"bits": 6.0}, "int4-bits-6.0"),
        ({"wide": ("v", "down")}, "int4-wide-v-down"),
        ({"calibration": "owner/texts"}, "int4-by-texts"),
        ({"calibration_tokens": 512, "seed": 7}, "int4-tokens-512-seed-7"),
        ({"revision": "refs/pr/1"}, "refs-pr-1-int4"),
        ({"report_tokens": 0, "threads": 2, "overwrite": True}, "int4"),
    ],
    ids=str,
)
def test_each_option_that_makes_another_model_stands_in_the_default_name(given: dict[str, Any], end: str) -> None:
    assert ExportOptions("owner/name", weights="int4", **given).folder == Path(f"name-{end}")


def test_the_current_folder_as_a_model_has_a_name(place: Path) -> None:
    assert ExportOptions(".").folder == Path(f"{place.name}-int8")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("runs/doge-tiny/sft", "doge-tiny-sft-int8"),
        ("runs/doge-tiny/dpo/checkpoint-200", "doge-tiny-dpo-checkpoint-200-int8"),
        ("runs/doge-tiny/my-sft", "my-sft-int8"),
    ],
)
def test_a_default_name_of_a_stage_says_whose_it_is(folder: str, name: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    assert ExportOptions(str(tmp_path / folder)).default_name == name


def test_an_empty_folder_is_free_and_a_full_one_is_not(place: Path) -> None:
    (place / "out").mkdir()
    assert ExportOptions("x", Path("out")).folder == Path("out")
    (place / "out" / "notes.txt").touch()
    with pytest.raises(OptionError, match="out exists already; give another OUT"):
        ExportOptions("x", Path("out"))
    with pytest.raises(OptionError, match="holds something else than an export"):
        ExportOptions("x", Path("out"), overwrite=True)


def test_a_file_or_a_link_is_never_replaced(place: Path) -> None:
    (place / "file").touch()
    (place / "empty").mkdir()
    (place / "link").symlink_to("empty")
    (place / "broken").symlink_to("nowhere")
    for name in ("file", "link", "broken"):
        with pytest.raises(OptionError, match="exists already"):
            ExportOptions("x", Path(name))
        with pytest.raises(OptionError, match="is not a folder, so --overwrite leaves it alone"):
            ExportOptions("x", Path(name), overwrite=True)


def test_a_mount_point_is_refused_before_the_export_and_not_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "out")
    with pytest.raises(OptionError, match="out is a mount point"):
        ExportOptions("x", Path("out"))


def test_an_export_as_the_model_is_named_as_one(place: Path) -> None:
    (place / "my export").mkdir()
    (place / "my export" / "export_report.json").touch()
    with pytest.raises(OptionError, match=r"is an export already; give the checkpoint .* doge-chat 'my export'"):
        ExportOptions("my export")


@pytest.mark.parametrize("field", ["model", "out"])
def test_a_folder_whose_name_is_not_utf_8_is_refused_in_one_sentence(field: str, place: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (place / name).mkdir()
    fields: Any = {"model": name, "out": Path("out")} if field == "model" else {"model": "x", "out": Path(name, "out")}
    with pytest.raises(OptionError, match="its name must be readable as UTF-8, rename it or give another"):
        ExportOptions(**fields)


def test_a_current_folder_whose_name_is_not_utf_8_matters_only_where_it_is_part_of_out(place: Path) -> None:
    (place / os.fsdecode(b"caf\xe9")).mkdir()
    os.chdir(os.fsdecode(b"caf\xe9"))
    assert ExportOptions("x", Path("out")).folder == Path("out")
    with pytest.raises(OptionError, match="must be readable as UTF-8"):
        ExportOptions("x", Path("."))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("x", "café"), ("café", "out")])
def test_the_c_locale_names_the_variable_to_set_where_a_name_is_not_ascii(
    arguments: tuple[str, str], place: Path
) -> None:
    (place / "café").mkdir()
    command = [sys.executable, "-m", "doge_export.commands.export", *arguments]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "set PYTHONUTF8=1 in the environment" in done.stderr


def test_a_name_that_is_too_long_is_refused() -> None:
    for fields in ({"model": "x", "out": Path("a" * 300)}, {"model": "a" * 300}):
        with pytest.raises(OptionError, match="which cannot be used: File name too long"):
            ExportOptions(**fields)


VALUES = {
    "weights": ("int3", "weights is 'int3'; it must be one of int8, int4, "),
    "keep_window": (0, "keep_window is 0; it must be at least 1"),
    "keep_sinks": (-1, "keep_sinks is -1; it must be at least 0"),
    "report_tokens": (15, "report_tokens is 15; it must be 0, for no report, or at least 16"),
    "seed": (-1, r"seed is -1; it must be from 0 to 2\^64 - 1"),
    "bits": (float("nan"), "bits is nan; it must be from 4.625 to 8.25"),
    "wide": (("v", "x"), "wide is 'x'; it must be one of q, k, v, "),
    "calibration": ("no.txt", "the calibration text no.txt is missing; give a file, or the name of a dataset"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_is_not_allowed_is_named_with_the_rule(name: str) -> None:
    value, message = VALUES[name]
    fields: Any = {"weights": "int4", name: value}
    with pytest.raises(OptionError, match=message):
        ExportOptions("x", **fields)


def test_calibration_and_seed_go_with_a_state_in_8_bits_too() -> None:
    assert ExportOptions("x", kv_int8=True, seed=3, calibration="owner/dataset").seed == 3
    with pytest.raises(OptionError, match="seed goes with int4 and with kv_int8; leave it out with int8"):
        ExportOptions("x", seed=3)
    with pytest.raises(OptionError, match="wide goes with int4; leave it out with int8"):
        ExportOptions("x", kv_int8=True, wide=("v",))


def test_a_float32_state_is_asked_for_where_the_default_is_another() -> None:
    assert ExportOptions("name", kv_float32=True).folder == Path("name-int8-kv-float32")
    with pytest.raises(OptionError, match="kv_float32 goes with int8, int4 and keep-grid; leave it out with fp32"):
        ExportOptions("name", weights="fp32", kv_float32=True)
    with pytest.raises(OptionError, match="kv_int8 and kv_float32 exclude each other"):
        ExportOptions("name", kv_int8=True, kv_float32=True)
