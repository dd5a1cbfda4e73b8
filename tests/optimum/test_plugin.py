"""The file that optimum-cli runs at its start; what it registers is checked with optimum, by make test-runtimes."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "doge_export" / "optimum" / "plugin" / "register_doge.py"


def test_other_commands_of_optimum_do_without_the_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["optimum-cli", "env"])
    monkeypatch.delitem(sys.modules, "doge_export.optimum.exporter", raising=False)
    runpy.run_path(str(PLUGIN))
    assert "doge_export.optimum.exporter" not in sys.modules


def test_an_export_to_onnx_registers_doge_before_optimum_reads_its_options(tmp_path: Path) -> None:
    exporter = tmp_path / "doge_export" / "optimum" / "exporter.py"
    exporter.parent.mkdir(parents=True)
    exporter.write_text(
        "def register_doge(): print('registered')\ndef users_mistakes_in_one_line(*error): print(error)"
    )
    command = [sys.executable, str(PLUGIN), "export", "onnx", "--model", "x"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout == "registered\n"


def test_optimum_finds_the_file_where_it_looks_for_plugins() -> None:
    setup = (Path(__file__).parents[2] / "setup.py").read_text()
    assert '"optimum.commands.register": "doge_export/optimum/plugin"' in setup
    assert [path.name for path in PLUGIN.parent.glob("*.py")] == ["register_doge.py"]  # PEP 420: no __init__.py
