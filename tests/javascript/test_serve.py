"""The server of the page, started as its user starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "examples" / "browser" / "serve.py"


def test_a_folder_that_is_no_export_ends_in_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SERVER, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{tmp_path} has no onnx/decoder.onnx; give a folder that doge-export wrote\n")


def test_every_file_of_the_page_lies_beside_the_server() -> None:
    page = (SERVER.parent / "index.html").read_text()
    named = {name for name in ("style.css", "page.js") if f'"{name}"' in page}
    assert named | {"worker.js", "service_worker.js"} <= {path.name for path in SERVER.parent.iterdir()}
    assert len(named) == 2
