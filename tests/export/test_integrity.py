"""`doge-export --check`: every file is compared with the hash in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from doge_export.commands.export import main
from doge_export.errors import PackageError
from doge_export.export.integrity import check_integrity, file_hashes
from tests.helpers.models import FORMS, tiny_model


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files with a report of their hashes, and the page that has none."""
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx_data").write_bytes(bytes(range(256)))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "export_report.json").write_text(json.dumps({"sha256": file_hashes(tmp_path)}))
    (tmp_path / "export_report.html").write_text("<!doctype html>")
    return tmp_path


@pytest.mark.slow
def test_a_fresh_export_passes_and_its_report_names_every_file(tmp_path: Path) -> None:
    tiny_model(**FORMS["native"]).save_pretrained(tmp_path / "tiny")
    assert run(tmp_path / "tiny", tmp_path / "out", "--report-tokens", 50).exit_code == 0
    result = run("--check", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "export_report.json").read_text())
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{tmp_path / 'out'}: all {len(report['files'])} files are as they were written\n"
    assert list(report["sha256"]) == list(report["files"])
    assert "onnx/model.onnx_data" in report["sha256"]
    assert not any("report" in name for name in report["sha256"])


def test_one_flipped_bit_is_found(folder: Path) -> None:
    assert check_integrity(folder) == 2
    data = folder / "onnx" / "model.onnx_data"
    data.write_bytes(data.read_bytes()[:-1] + b"\xfe")
    with pytest.raises(PackageError, match=r"not as it was exported: onnx/model.onnx_data differs; "):
        check_integrity(folder)


def test_every_file_that_differs_is_missing_or_was_added_is_named_in_one_line(folder: Path) -> None:
    (folder / "onnx" / "model.onnx_data").unlink()
    (folder / "config.json").write_text("{ }")
    (folder / "onnx" / "notes.txt").touch()
    result = run("--check", folder)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    for words in ("config.json differs", "onnx/model.onnx_data is missing", "onnx/notes.txt was added"):
        assert words in result.stderr


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (None, "is no export: export_report.json is missing"),
        ("{}", "has no hashes, as an older version wrote it; export the model again"),
        ("[]", "has no hashes"),
        ('{"sha256": [1]}', "has no hashes"),
        ("{", "is damaged"),
    ],
)
def test_a_folder_without_hashes_says_what_to_do(report: str | None, message: str, folder: Path) -> None:
    path = folder / "export_report.json"
    path.unlink() if report is None else path.write_text(report)
    with pytest.raises(PackageError, match=message):
        check_integrity(folder)


def test_check_refuses_to_be_mixed_with_an_export(folder: Path) -> None:
    for arguments, named in ((["--int8"], "--int8"), (["--seed", "0"], "--seed"), ([folder], "MODEL")):
        result = run("--check", folder, *arguments)
        assert (result.exit_code, named in result.stderr) == (2, True)
