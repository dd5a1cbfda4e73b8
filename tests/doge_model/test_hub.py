"""Checkpoints by hub id: huggingface_hub itself, against a stand-in of the hub on this machine.

huggingface_hub reads HF_ENDPOINT when it is imported, so a process of its own loads every source, one after the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.checkpoints import save_doge, save_tokenizer

Case = tuple[str, str, dict[str, Any]]  # a label, a source, options of load_checkpoint
ROOT = Path(__file__).parents[2]
COMMITS = {"main": "a" * 40, "v1": "b" * 40}
LOADER = """
import json, sys
from pathlib import Path
from doge_model import load_checkpoint
from doge_model.errors import CheckpointError

results = {}
for label, source, options in json.loads(sys.argv[1]):
    try:
        loaded = load_checkpoint(source, **options)
        results[label] = [loaded.form, loaded.model.config.hidden_size, loaded.tokenizer is not None]
    except CheckpointError as error:
        results[label] = str(error)
Path(sys.argv[2]).write_text(json.dumps(results))
"""


class HubHandler(BaseHTTPRequestHandler):
    """The few answers of the hub that snapshot_download asks for; every path asked for is noted."""

    protocol_version = "HTTP/1.1"
    folders: dict[str, Path]  # by commit
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        self.asked.append(path)
        api, _, repository = path.partition("api/models/")
        owner_and_name = "/".join((repository if not api else path).split("/")[:2])
        if owner_and_name == "doge/gated":
            self.fail(403, "GatedRepo")
        elif owner_and_name == "doge/broken":
            self.close_connection = True
        elif owner_and_name != "doge/tiny":
            self.fail(404, "RepoNotFound")
        elif not api:
            self.api(*repository.split("/")[2:4])
        else:
            self.file(*path.split("/", 4)[3:5])

    def api(self, question: str, revision: str) -> None:
        """/api/models/ID/revision/REVISION and /api/models/ID/tree/COMMIT"""
        commit = COMMITS.get(revision, revision)
        if commit not in self.folders:
            self.fail(404, "RevisionNotFound")
            return
        folder = self.folders[commit]
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        tree = [{"type": "file", "path": n, "size": f.stat().st_size, "oid": etag(f)} for n, f in files.items()]
        siblings = [{"rfilename": name} for name in files]
        information = {"id": "doge/tiny", "modelId": "doge/tiny", "sha": commit, "siblings": siblings}
        self.answer(
            json.dumps(tree if question == "tree" else information).encode(), {"Content-Type": "application/json"}
        )

    def file(self, commit: str, name: str) -> None:
        """/ID/resolve/COMMIT/FILE"""
        path = self.folders[commit] / name
        self.answer(path.read_bytes(), {"ETag": f'"{etag(path)}"', "X-Repo-Commit": commit})

    def fail(self, status: int, code: str) -> None:
        self.answer(b"", {"X-Error-Code": code, "X-Error-Message": code}, status)

    def answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return []


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, asked: list[str]) -> Iterator[str]:
    """A hub with one repository of two revisions, of 32 and 64 channels."""
    folders = {commit: tmp_path_factory.mktemp(commit) for commit in COMMITS.values()}
    for folder, hidden_size in zip(folders.values(), (32, 64), strict=True):
        save_doge(folder, hidden_size=hidden_size)
        save_tokenizer(folder)
        (folder / "pytorch_model.bin").write_bytes(b"a pickle")
        (folder / "modeling_doge.py").write_text("raise SystemExit('ran')")
        (folder / "consolidated.safetensors").write_bytes(b"the same weights once more")
        (folder / "checkpoint-5").mkdir()
        (folder / "checkpoint-5" / "model.safetensors").write_bytes(b"a trainer's step")
    handler = type("Handler", (HubHandler,), {"folders": folders, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def load(cases: list[Case], endpoint: str, home: Path, **environment: str) -> dict[str, Any]:
    """Load each case; by its label, the form, the hidden size and whether there is a tokenizer, or the refusal."""
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", LOADER, json.dumps(cases), str(home / "results.json")]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | variables | environment, capture_output=True)
    results: dict[str, Any] = json.loads((home / "results.json").read_text())
    return results


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def online(endpoint: str, home: Path) -> dict[str, Any]:
    cases: list[Case] = [
        ("main", "doge/tiny", {}),
        ("tag", "doge/tiny", {"revision": "v1"}),
        ("commit", "doge/tiny", {"revision": COMMITS["v1"]}),
        ("other cache", "doge/tiny", {"cache_dir": str(home / "other")}),
        ("from the cache", "doge/tiny", {"local_files_only": True}),
        ("not in the cache", "doge/tiny", {"local_files_only": True, "revision": "v2"}),
        ("unknown revision", "doge/tiny", {"revision": "v2"}),
        ("unknown repository", "doge/nothing", {}),
        ("gated", "doge/gated", {}),
        ("a folder's path", "./doge/tiny", {}),
    ]
    return load(cases, endpoint, home)


@pytest.fixture(scope="module")
def offline(online: dict[str, Any], home: Path) -> dict[str, Any]:
    cases: list[Case] = [
        ("main", "doge/tiny", {}),
        ("tag", "doge/tiny", {"revision": "v1"}),
        ("never loaded", "doge/other", {}),
    ]
    return load(cases, "http://127.0.0.1:9", home, HF_HUB_OFFLINE="1")


def test_a_repository_is_downloaded_and_loaded(online: dict[str, Any]) -> None:
    assert online["main"] == ["native", 32, True]


@pytest.mark.parametrize("label", ["tag", "commit"])
def test_a_revision_is_a_tag_or_a_commit(label: str, online: dict[str, Any]) -> None:
    assert online[label] == ["native", 64, True]


def test_the_cache_folder_can_be_chosen(online: dict[str, Any], home: Path) -> None:
    assert online["other cache"] == ["native", 32, True]
    assert (home / "other" / "models--doge--tiny").is_dir()


def test_neither_pickles_nor_code_are_downloaded(online: dict[str, Any], asked: list[str]) -> None:
    names = {path.split("/", 4)[-1] for path in asked if "/resolve/" in path}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".py")) for name in names)


def test_what_repeats_the_weights_is_not_downloaded(online: dict[str, Any], asked: list[str]) -> None:
    assert not any("consolidated" in path or "checkpoint-5" in path for path in asked)


def test_what_was_downloaded_loads_from_the_cache_without_asking(online: dict[str, Any]) -> None:
    assert online["from the cache"] == ["native", 32, True]


def test_what_was_downloaded_loads_offline(offline: dict[str, Any]) -> None:
    assert offline["main"] == ["native", 32, True]
    assert offline["tag"] == ["native", 64, True]


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("unknown revision", "doge/tiny has no revision v2; give a branch, tag or commit of it"),
        (
            "unknown repository",
            "there is no folder doge/nothing, and the hub has no repository of that name for you; give another",
        ),
        ("gated", "doge/gated is gated; accept its terms on the hub and log in with `hf auth login`"),
        ("not in the cache", "doge/tiny at revision v2 is not in the local cache and the hub is not asked (offline)"),
        (
            "a folder's path",
            "there is no ./doge/tiny; give a folder, a .gguf file, a hub id (owner/name) or smollm2-135m",
        ),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence(label: str, sentence: str, online: dict[str, Any]) -> None:
    assert online[label] == sentence


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        ("http://127.0.0.1:9", "doge/tiny is not in the local cache and the hub cannot be reached"),
        (
            "hub.example",
            "doge/tiny could not be downloaded: Request URL is missing an 'http://' or 'https://' protocol",
        ),
    ],
)
def test_an_endpoint_that_does_not_answer_is_one_sentence_at_once(endpoint: str, sentence: str, tmp_path: Path) -> None:
    code = f"from doge_model.hub import download; download('doge/tiny', None, {str(tmp_path)!r}, False)"
    variables = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(
        command, check=False, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=20
    )
    assert ran.stderr.splitlines()[-1] == f"doge_model.errors.CheckpointError: {sentence}"


def test_without_network_what_is_not_cached_is_one_sentence(offline: dict[str, Any]) -> None:
    assert offline["never loaded"] == "doge/other is not in the local cache and the hub is not asked (offline)"
