"""The export from Python, and the cost of importing it."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from doge_export.export import ExportReport, export, pipeline

NO_TORCH = "import sys; sys.modules['torch'] = None; "


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "from doge_export.export import ExportOptions, ExportReport, export",
        "import doge_export.commands.export, doge_export.export.integrity",
        "import doge_export.commands.bench",
    ],
)
def test_importing_it_takes_no_torch(line: str) -> None:
    subprocess.run([sys.executable, "-c", NO_TORCH + line], check=True)


@pytest.mark.slow
def test_export_without_the_extra_says_what_to_install() -> None:
    code = "from doge_export.export import ExportOptions, export; export(ExportOptions('no-such-model'))"
    done = subprocess.run([sys.executable, "-c", NO_TORCH + code], capture_output=True, text=True, check=False)
    assert "ExportError: exporting needs torch: pip install" in done.stderr.splitlines()[-1]


def test_the_described_function_and_the_walk_take_the_same() -> None:
    described, walk = inspect.signature(export), inspect.signature(pipeline.export)
    assert list(described.parameters) == list(walk.parameters)
    assert described.return_annotation == ExportReport.__name__ == walk.return_annotation
