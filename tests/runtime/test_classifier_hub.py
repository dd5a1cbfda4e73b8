"""Classifiers by hub id: an exported one is loaded, a checkpoint is exported, against a stand-in of the hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import doge_export
from doge_export.export import ExportOptions, export_classifier
from tests.helpers.classifiers import classifier_checkpoint
from tests.helpers.hub import Hub, environment, running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOADER = """
import json, sys
import doge_export

model = doge_export.load("doge/exported", threads=1)
print(json.dumps(model.classify("ab 12").scores))
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
EXPORTER = "from doge_export.commands.export import main; main()"


def run(code: str, variables: dict[str, str], *words: str) -> str:
    """The standard output of a process."""
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, check=False, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_classifier_of_the_hub_is_loaded_and_exported(tmp_path: Path) -> None:
    classifier_checkpoint(tmp_path / "checkpoint")
    options = ExportOptions(str(tmp_path / "checkpoint"), tmp_path / "out", "fp32", report_tokens=0)
    folder = export_classifier(options).folder
    hub = Hub()
    hub.add("doge/exported", folder)
    hub.add("doge/checkpoint", tmp_path / "checkpoint")
    with running(hub):
        variables = environment(hub.endpoint, tmp_path / "home")
        found = json.loads(run(LOADER, variables))
        assert found == pytest.approx(doge_export.load(folder).classify("ab 12").scores, rel=1e-5)
        assert {"onnx/model.onnx", "onnx/model.onnx_data", "config.json", "tokenizer.json"} <= hub.downloaded
        words = ("doge/checkpoint", str(tmp_path / "from-hub"), "--fp32", "--report-tokens", "0")
        assert "3 (single_label_classification): animals, history, sports" in run(EXPORTER, variables, *words)
    assert (tmp_path / "from-hub" / "onnx" / "model.onnx").is_file()
