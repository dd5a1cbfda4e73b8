"""Folders that doge-eval is given: a damaged or old export is told as such, and no checkpoint is looked for in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from doge_export.errors import PackageError
from doge_export.evaluation.evaluation import load_model
from tests.helpers.evaluation_data import export_talking, save_talking_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_talking(save_talking_checkpoint(tmp_path / "checkpoint"), tmp_path / "export")


def test_a_missing_graph_is_named(folder: Path) -> None:
    (folder / "onnx" / "decoder.onnx").unlink()
    with pytest.raises(PackageError, match=r"decoder\.onnx is missing"):
        load_model(str(folder), threads=1)


def test_an_export_of_an_earlier_version_is_told_as_one(folder: Path) -> None:
    for graph in (folder / "onnx").glob("decoder*.onnx"):
        graph.unlink()
    with pytest.raises(PackageError, match="exported by an earlier version, or "):
        load_model(str(folder), threads=1)
