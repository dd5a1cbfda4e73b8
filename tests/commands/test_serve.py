"""doge-serve as a process: what it says, how it ends, and what it refuses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from doge_export.errors import OptionError
from doge_export.serve.start import names_of
from tests.helpers.serving import wait_until

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "checkpoints" / "doge-20m-10min-int8"
NAME = FOLDER.name


@contextmanager
def doge_serve(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address."""
    call = [sys.executable, "-m", "doge_export.commands.serve", str(FOLDER), "--port", "0", *options]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines: list[str] = []
        while not (lines and "says how to call it" in lines[-1]):
            lines.append(process.stderr.readline())
            assert process.poll() is None, lines
        found = re.search(r"http://\S+:\d+", lines[-1])
        assert found is not None
        yield process, found[0]
    finally:
        process.kill()
        process.wait()


def body(**fields: Any) -> dict[str, Any]:
    return {"model": NAME, "prompt": "Once", "ignore_eos": True, **fields}


def test_a_termination_signal_finishes_what_runs_and_refuses_what_comes() -> None:
    with doge_serve() as (process, address), ThreadPoolExecutor(2) as pool:
        url = f"{address}/v1/completions"
        running = pool.submit(httpx.post, url, json=body(max_tokens=400), timeout=60)
        wait_until(lambda: 'streams_running{model="doge-20m-10min-int8"} 1.0' in httpx.get(f"{address}/metrics").text)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")
        assert running.result().json()["usage"]["completion_tokens"] == 400
        assert process.wait(20) == 0
        assert process.stderr is not None and process.stderr.read() == ""


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_two_signals_end_it_at_once(second: signal.Signals) -> None:
    with doge_serve() as (process, address), ThreadPoolExecutor(1) as pool:
        pool.submit(httpx.post, f"{address}/v1/completions", json=body(max_tokens=100_000), timeout=60)
        wait_until(lambda: 'streams_running{model="doge-20m-10min-int8"} 1.0' in httpx.get(f"{address}/metrics").text)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(second)
        assert process.wait(10) == 0


def test_a_second_one_on_the_port_gets_a_sentence() -> None:
    with doge_serve() as (_, address):
        port = address.rpartition(":")[2]
        call = [sys.executable, "-m", "doge_export.commands.serve", str(FOLDER), "--port", port]
        second = subprocess.run(call, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr.startswith(f"Error: port {port} of 127.0.0.1 is taken") and second.stderr.count("\n") == 1


def test_the_page_has_the_models_and_the_report() -> None:
    with doge_serve() as (_, address):
        page, report = httpx.get(address), httpx.get(f"{address}/reports/{NAME}")
    assert f'base_url="{address}/v1"' in page.text and f'href="/reports/{NAME}"' in page.text
    assert "<html" in report.text and "sandbox" in report.headers["Content-Security-Policy"]


def test_the_key_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOGE_SERVE_API_KEY", "secret")
    with doge_serve() as (_, address):
        assert httpx.get(f"{address}/v1/models").status_code == 401
        headers = {"Authorization": "Bearer secret"}
        assert json.loads(httpx.get(f"{address}/v1/models", headers=headers).text)["data"][0]["id"] == NAME


@pytest.mark.parametrize("key", [" secret", "secret ", "secret\n"])
def test_a_key_with_spaces_at_its_ends_is_refused(key: str) -> None:
    call = [sys.executable, "-m", "doge_export.commands.serve", str(FOLDER), "--port", "0", "--api-key", key]
    told = subprocess.run(call, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 2 and told.stderr.count("\n") == 1
    assert "the API key begins or ends with a space" in told.stderr


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "model", tmp_path / "b" / "model"]
    with pytest.raises(OptionError, match="two folders have the name 'model'"):
        names_of(folders, folders)


def test_help_needs_no_extra() -> None:
    code = "import sys; sys.modules['fastapi'] = None; from doge_export.commands.serve import main; main()"
    told = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "--max-streams" in told.stdout
    missing = subprocess.run([sys.executable, "-c", code, str(FOLDER)], capture_output=True, text=True, check=False)
    assert "doge-serve needs fastapi: pip install -c constraints.txt '.[serve]'" in missing.stderr
