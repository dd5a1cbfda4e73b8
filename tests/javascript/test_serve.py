"""The server of the page, started as its user starts it."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "examples" / "browser" / "serve.py"


def test_a_folder_that_is_no_export_ends_in_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SERVER, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{tmp_path} has no onnx/decoder.onnx; give a folder that doge-export wrote\n")


@pytest.mark.parametrize("port", ["99999", "65536", "-1", "80.5", "x", "\u0662", ""])
def test_a_port_that_there_is_not_ends_in_a_sentence(tmp_path: Path, port: str) -> None:
    command = [sys.executable, str(SERVER), str(tmp_path), f"--port={port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"--port: {port} is no port; it must be a whole number from 0 to 65535\n")


@contextmanager
def served(work: Path) -> Iterator[tuple[int, Path]]:
    """The port of the server in a copy of the clone's two folders, and a file for all that it says."""
    page = Path(shutil.copytree(SERVER.parent, work / "examples" / "browser"))
    files = {"javascript/browser/index.js": "package", "folder/onnx/decoder.onnx": "graph"}
    for name, text in files.items():
        (work / name).parent.mkdir(parents=True)
        (work / name).write_text(text)
    said, command = work / "said", [sys.executable, str(page / "serve.py"), str(work / "folder"), "--port", "0"]
    with said.open("w") as out, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline().split(":")[3].partition("/")[0]), said
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    with served(tmp_path_factory.mktemp("served")) as found:
        yield found


def get(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str, str]:
    """Status, body and Location of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers.get("Location", "")


def test_the_page_the_package_and_the_model_are_served(server: tuple[int, Path]) -> None:
    port, _ = server
    assert get(port, "/doge-export/index.js")[:2] == (200, "package")
    assert get(port, "/model/any%20name/onnx/decoder.onnx?x=1", "localhost:" + str(port))[:2] == (200, "graph")
    for name in ("index.html", "style.css", "page.js", "worker.js", "service_worker.js", "?model=model/a"):
        assert get(port, "/" + name)[0] == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_page_without_a_model_is_sent_to_the_one_that_is_served(server: tuple[int, Path], method: str) -> None:
    assert get(server[0], "/", method=method)[::2] == (302, "/?model=model/folder")
    assert get(server[0], "/?threads=2", method=method)[::2] == (302, "/?model=model/folder&threads=2")


@pytest.mark.parametrize(
    "path", ["/serve.py", "/%00", "/%ed%a0%80", "/model/a/%00", "/onnx/x", "/model/", "/page.js/a"]
)
def test_all_else_is_not_found_and_no_traceback_is_printed(server: tuple[int, Path], path: str) -> None:
    port, said = server
    assert [get(port, path, method=method)[0] for method in ("GET", "HEAD")] == [404, 404]
    assert "Traceback" not in said.read_text()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "", "127.0.0.1:1"])
def test_another_name_of_the_server_is_refused(server: tuple[int, Path], host: str) -> None:
    assert get(server[0], "/page.js", host)[0] == 403


def test_the_log_names_a_file_that_is_not_there(server: tuple[int, Path]) -> None:
    port, said = server
    get(port, "/model/any/tokenizer_config.json")
    lines = said.read_text().splitlines()
    assert lines[-1].endswith("code 404, message File not found: GET /model/any/tokenizer_config.json HTTP/1.1")


def test_a_reader_that_goes_away_prints_no_traceback(tmp_path: Path) -> None:
    with served(tmp_path) as (port, said):
        with (tmp_path / "folder" / "big").open("wb") as big:
            os.truncate(big.fileno(), 64 * 2**20)
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/model/folder/big")
            connection.getresponse().read(1000)
            connection.close()
        time.sleep(0.5)  # for the server to notice
        assert get(port, "/page.js")[0] == 200
        assert "Traceback" not in said.read_text()
