"""A stand-in of the model hub on this machine, with the answers that huggingface_hub needs to download and upload.

huggingface_hub reads HF_ENDPOINT when it is imported, so its user runs in a process of its own, with `environment`. Xet
is switched off there: the stand-in takes large files as Git LFS does, which the client falls back to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Files = dict[str, bytes]  # content by name
LARGE = (".onnx", ".onnx_data", ".safetensors", ".bin")  # endings of the files that go through LFS
OWNER_TOKEN, READER_TOKEN = "hf_owner", "hf_reader"  # of the user "doge"; the second may read only


@dataclass
class Repository:
    """Its commits, the branches and tags that name them, and who may read it."""

    commits: dict[str, Files] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    gated: bool = False
    private: bool = False

    def commit(self, files: Files, revision: str = "main", title: str = "") -> str:
        """Put a commit at the head of a revision; its id."""
        names = "".join(f"{name} {hashlib.sha1(content).hexdigest()}\n" for name, content in sorted(files.items()))
        commit = hashlib.sha1(f"{len(self.titles)} {names}".encode()).hexdigest()
        self.commits[commit] = files
        self.revisions[revision] = commit
        self.titles.append(title)
        return commit

    def files(self, revision: str = "main") -> Files:
        """The files at a branch, a tag or a commit; KeyError where there is none."""
        return self.commits[self.revisions.get(revision, revision)]


@dataclass
class Hub:
    """The state of the stand-in.

    Attributes:
        repositories: by id.
        large: content of the LFS files by hash, uploaded but maybe in no commit.
        asked: every method and path that was asked, without the slash before it.
        failing: status of the answer to every request whose "METHOD path" has this part; 0 cuts the connection.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    failing: dict[str, int] = field(default_factory=dict)
    endpoint: str = ""

    def add(self, repo_id: str, folder: Path, revision: str = "main") -> str:
        """Commit a folder to a repository, new or old; the commit."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.repositories.setdefault(repo_id, Repository()).commit(files, revision)

    @property
    def downloaded(self) -> set[str]:
        """Names of the files that were downloaded."""
        return {path.split("/", 4)[-1] for path in self.asked if path.startswith("GET ") and "/resolve/" in path}


class Handler(BaseHTTPRequestHandler):
    """The answers of the hub that huggingface_hub 2.4 asks for."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        match self.begin():
            case ["api", "whoami-v2"]:
                self.whoami()
            case ["api", "models", owner, name, *rest]:
                if self.readable(f"{owner}/{name}"):
                    self.model(f"{owner}/{name}", rest)
            case [owner, name, "resolve", revision, *rest]:
                if self.readable(f"{owner}/{name}"):
                    self.file(self.hub.repositories[f"{owner}/{name}"], revision, "/".join(rest))
            case []:
                return
            case _:
                self.fail(404, "RepoNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match self.begin():
            case ["api", "repos", "create"]:
                self.create(json.loads(body))
            case ["api", "validate-yaml"]:
                self.answer_json({"errors": [], "warnings": []})
            case ["api", "models", owner, name, "preupload", _]:
                files = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in files]
                if self.writable(f"{owner}/{name}"):
                    self.answer_json({"files": modes})
            case ["api", "models", owner, name, "commit", revision]:
                if self.writable(f"{owner}/{name}"):
                    self.commit(f"{owner}/{name}", revision, [json.loads(line) for line in body.splitlines()])
            case [owner, name, "info", "lfs", "objects", "batch"]:
                if self.writable(f"{owner}/{name.removesuffix('.git')}"):
                    self.answer_json({"objects": [self.lfs_object(entry) for entry in json.loads(body)["objects"]]})
            case []:
                return
            case _:
                self.fail(404, "RepoNotFound")

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        match self.begin():
            case ["lfs", oid] if hashlib.sha256(content).hexdigest() == oid:
                self.hub.large[oid] = content
                self.answer(b"")
            case ["lfs", _]:
                self.fail(400, "BadRequest")

    def begin(self) -> list[str]:
        """The parts of the path that is asked for; none where the request is to fail, and has been answered so."""
        path = self.path.split("?")[0].strip("/")
        asked = f"{self.command} {path}"
        self.hub.asked.append(asked)
        for part, status in self.hub.failing.items():
            if part in asked:
                if status:
                    self.fail(status, "")
                else:
                    self.close_connection = True
                return []
        return path.split("/")

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def whoami(self) -> None:
        if self.token in (OWNER_TOKEN, READER_TOKEN):
            self.answer_json({"name": "doge", "type": "user", "orgs": []})
        else:
            self.fail(401, "")

    def readable(self, repo_id: str) -> bool:
        """Whether the asker may read a repository; where not, that is answered."""
        repository, is_owner = self.hub.repositories.get(repo_id), self.token in (OWNER_TOKEN, READER_TOKEN)
        if repository is None or (repository.private and not is_owner):
            self.fail(404, "RepoNotFound")
        elif repository.gated and not is_owner:
            self.fail(403, "GatedRepo")
        else:
            return True
        return False

    def writable(self, repo_id: str) -> bool:
        """Whether the asker may write to a repository; where not, that is answered."""
        if not self.readable(repo_id):
            return False
        if self.token != OWNER_TOKEN or not repo_id.startswith("doge/"):
            self.fail(403, "")
            return False
        return True

    def model(self, repo_id: str, question: list[str]) -> None:
        """/api/models/ID and /revision/REVISION, /tree/COMMIT or /auth-check/write behind it"""
        repository = self.hub.repositories[repo_id]
        if question == ["auth-check", "write"]:
            if self.writable(repo_id):
                self.answer_json({})
            return
        revision = question[1] if question else "main"
        commit = repository.revisions.get(revision, revision)
        if question and commit not in repository.commits:
            self.fail(404, "RevisionNotFound")
            return
        files = repository.commits.get(commit, {})
        siblings = [{"rfilename": name} for name in files]
        information = {"id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings}
        tree = [tree_entry(name, content) for name, content in sorted(files.items())]
        self.answer_json(tree if question[:1] == ["tree"] else information | {"private": repository.private})

    def file(self, repository: Repository, revision: str, name: str) -> None:
        """/ID/resolve/REVISION/FILE"""
        commit = repository.revisions.get(revision, revision)
        content = repository.files(commit).get(name)
        if content is None:
            self.fail(404, "EntryNotFound")
        else:
            self.answer(content, {"ETag": f'"{etag(name, content)}"', "X-Repo-Commit": commit})

    def create(self, asked: Mapping[str, Any]) -> None:
        repo_id = f"{asked['organization']}/{asked['name']}"
        if self.token != OWNER_TOKEN or asked["organization"] != "doge":
            self.fail(403, "")
            return
        exists = repo_id in self.hub.repositories
        if not exists:
            self.hub.repositories[repo_id] = Repository(private=asked.get("visibility") == "private")
            self.hub.repositories[repo_id].commit({".gitattributes": b""}, title="initial commit")
        self.answer_json({"url": f"{self.hub.endpoint}/{repo_id}"}, 409 if exists else 200)

    def commit(self, repo_id: str, revision: str, lines: list[dict[str, Any]]) -> None:
        repository = self.hub.repositories[repo_id]
        files = dict(repository.files(revision))
        for line in lines[1:]:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        commit = repository.commit(files, revision, lines[0]["value"]["summary"])
        self.answer_json({"commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{commit}", "commitOid": commit})

    def lfs_object(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Where a large file is to be put; nowhere if its content is here already."""
        known = entry["oid"] in self.hub.large
        actions = {} if known else {"actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{entry['oid']}"}}}
        return {"oid": entry["oid"], "size": entry["size"]} | actions

    def fail(self, status: int, code: str) -> None:
        self.answer(b"", {"X-Error-Code": code, "X-Error-Message": code} if code else {}, status)

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)

    def answer(self, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in (dict(headers or {}) | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""


def mode(name: str) -> str:
    """How a file is uploaded."""
    return "lfs" if name.endswith(LARGE) else "regular"


def etag(name: str, content: bytes) -> str:
    """The id of a file's content: that of LFS, or that of a git blob."""
    if mode(name) == "lfs":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def tree_entry(name: str, content: bytes) -> dict[str, Any]:
    """A file in the listing of a commit."""
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": etag(name, content)[:40]}
    if mode(name) == "lfs":
        entry["lfs"] = {"oid": etag(name, content), "size": len(content), "pointerSize": 130}
    return entry


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """The hub, answering at its `endpoint` until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def environment(endpoint: str, home: Path, token: str | None = None, **others: str) -> dict[str, str]:
    """Variables of a process whose huggingface_hub asks `endpoint`, keeps its cache in `home` and has this token."""
    variables = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_CACHE")}
    variables |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    variables |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return variables | ({"HF_TOKEN": token} if token else {}) | others
