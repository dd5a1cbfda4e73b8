"""The benchmark of a long stream in JavaScript, with another program in the place of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.speed import javascript_stream

ROW = {"tokens": 100, "ms_per_token": 1.5, "rss_mb": 2.0, "heap_mb": 3.0}


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("status", [0, 3])
def test_a_stream_that_fails_fails_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    script = tmp_path / "stream.mjs"
    script.write_text(f"console.log(`{json.dumps(ROW)}`); process.exitCode = {status};")
    monkeypatch.setattr(javascript_stream, "SCRIPT", script)
    done = CliRunner().invoke(javascript_stream.main, [str(tmp_path)])
    assert (done.exit_code, "100 tokens" in done.output) == (1 if status else 0, True)
    assert ("node ended with exit status 3" in done.output) == bool(status)
