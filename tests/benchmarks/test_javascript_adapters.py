"""The benchmark of adapters in JavaScript, with another program in the place of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.speed import javascript_adapters

LINES: list[dict[str, Any]] = [
    {"adapter": None, "tokens_per_s": [[10.0, 5.0], [20.0, 9.0], [40.0, 10.0]], "change_ms": [1.0, 2.0, 9.0]},
    {"adapter": "legal", "tokens_per_s": [[9.0, 4.0], [16.0, 9.0], [36.0, 8.0]], "change_ms": [3.0, 4.0, 5.0]},
    {"mb_before": 100.0, "mb_behind": 120.0},
]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("status", [0, 3])
def test_ratios_are_those_of_the_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    script = tmp_path / "adapters.mjs"
    lines = [f"console.log(`{json.dumps(line)}`);" for line in LINES]
    script.write_text("\n".join([*lines, f"process.exitCode = {status};"]))
    monkeypatch.setattr(javascript_adapters, "SCRIPT", script)
    done = CliRunner().invoke(javascript_adapters.main, [str(tmp_path), "--threads", "1"])
    assert done.exit_code == (1 if status else 0)
    assert ("legal                16.0 tokens/s (0.900, of processor time 0.800), 4.0 ms" in done.output) == (
        not status
    )
    assert ("node ended with exit status 3" in done.output) == bool(status)
