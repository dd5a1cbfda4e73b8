"""Folders that are pushed to the hub: huggingface_hub itself, against a stand-in of the hub on this machine.

The bare functions are called in one process, case by case; whole exports have processes of their own.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import doge_export
from doge_export.errors import OptionError
from doge_export.export import ExportOptions
from tests.helpers.checkpoints import save_doge, save_tokenizer
from tests.helpers.hub import OWNER_TOKEN, READER_TOKEN, Hub, Repository, environment, running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MAIN = "from doge_export.commands.export import main; main()"
PUSHER = """
import json, os, sys
from pathlib import Path
from doge_export.errors import PushError
from doge_export.export.push import check_rights, make_repository, push_folder

said = {}
for label, folder, repo_id, private, token in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    try:
        check_rights(repo_id, private)
        said[label] = make_repository(repo_id, private)
        push_folder(Path(folder), repo_id)
    except PushError as error:
        said[label] = str(error)
Path(sys.argv[2]).write_text(json.dumps(said))
"""
# label: folder, repository, whether it is to be private, token
CASES: dict[str, tuple[str, str, bool, str]] = {
    "new": ("out", "doge/new", False, OWNER_TOKEN),
    "once more": ("second", "doge/new", False, OWNER_TOKEN),
    "private": ("out", "doge/secret", True, OWNER_TOKEN),
    "private once more": ("out", "doge/secret", True, OWNER_TOKEN),
    "public, but to be private": ("out", "doge/new", True, OWNER_TOKEN),
    "no login": ("out", "doge/refused", False, ""),
    "a token that nobody knows": ("out", "doge/refused", False, "hf_x"),
    "a token that may only read": ("out", "doge/refused", False, READER_TOKEN),
    "a token that may only read, old repository": ("out", "doge/old", False, READER_TOKEN),
    "another owner's name": ("out", "other/refused", False, OWNER_TOKEN),
    "another owner's repository": ("out", "other/model", False, OWNER_TOKEN),
    "a large file fails": ("unlucky", "doge/put", False, OWNER_TOKEN),
    "the commit fails": ("out", "doge/status", False, OWNER_TOKEN),
    "the commit is cut off": ("out", "doge/cut", False, OWNER_TOKEN),
}


def python(code: str, *arguments: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=False, cwd=ROOT, env=env, capture_output=True, text=True)


def write_folder(folder: Path, graph: bytes) -> None:
    """Files of the kinds that an export has."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "decoder.onnx").write_bytes(graph)
    (folder / "onnx" / "model.onnx_data").write_bytes(bytes(range(256)))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = Hub({"other/model": Repository(), "doge/old": Repository()})
    hub.failing = {"POST api/models/doge/status/commit": 500, "POST api/models/doge/cut/commit": 0}
    hub.failing[f"PUT lfs/{hashlib.sha256(b'unlucky').hexdigest()}"] = 403
    with running(hub):
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders to push."""
    home = tmp_path_factory.mktemp("home")
    for name, graph in {"out": b"a graph", "second": b"another graph", "unlucky": b"unlucky"}.items():
        write_folder(home / name, graph)
    return home


def push(cases: dict[str, tuple[str, str, bool, str]], hub: Hub, home: Path, **others: str) -> dict[str, str]:
    """The page of the repository, or the refusal, by the label of the case."""
    listed = [(label, str(home / folder), *rest) for label, (folder, *rest) in cases.items()]
    variables = environment(hub.endpoint, home, **others)
    done = python(PUSHER, json.dumps(listed), home / "said.json", env=variables)
    assert done.returncode == 0, done.stderr
    said: dict[str, str] = json.loads((home / "said.json").read_text())
    return said


@pytest.fixture(scope="module")
def said(hub: Hub, home: Path) -> dict[str, str]:
    return push(CASES, hub, home)


def test_a_push_is_one_commit_of_all_files(said: dict[str, str], hub: Hub) -> None:
    assert said["new"] == f"{hub.endpoint}/doge/new"
    repository, title = hub.repositories["doge/new"], f"Export by doge-export {doge_export.__version__}"
    assert repository.titles == ["initial commit", title, title]
    first = list(repository.commits.values())[1]
    names = [".gitattributes", "README.md", "onnx/decoder.onnx", "onnx/model.onnx_data"]
    assert (sorted(first), first["onnx/decoder.onnx"]) == (names, b"a graph")


def test_a_second_push_replaces_files_and_leaves_the_others(said: dict[str, str], hub: Hub) -> None:
    assert said["once more"] == said["new"]
    files = hub.repositories["doge/new"].files()
    assert (files["onnx/decoder.onnx"], ".gitattributes" in files) == (b"another graph", True)


def test_a_repository_is_private_where_that_is_asked(said: dict[str, str], hub: Hub) -> None:
    assert said["private"] == said["private once more"] == f"{hub.endpoint}/doge/secret"
    assert (hub.repositories["doge/secret"].private, hub.repositories["doge/new"].private) == (True, False)
    refusal = "doge/new exists and is public; leave --private out, or make it private on its page"
    assert said["public, but to be private"] == refusal


NOT_YOURS = "you may not write there; give a repository of yours, or a token that may write"


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("no login", "doge/refused cannot be pushed to: there is no login; run `hf auth login`, or set HF_TOKEN"),
        (
            "a token that nobody knows",
            "doge/refused cannot be pushed to: the hub refuses the token; run `hf auth login`, or set HF_TOKEN to a "
            "valid one",
        ),
        ("a token that may only read", f"doge/refused cannot be made: {NOT_YOURS}"),
        ("a token that may only read, old repository", f"doge/old cannot be pushed to: {NOT_YOURS}"),
        ("another owner's name", f"other/refused cannot be made: {NOT_YOURS}"),
        ("another owner's repository", f"other/model cannot be pushed to: {NOT_YOURS}"),
    ],
)
def test_what_is_not_allowed_is_one_sentence_and_changes_nothing(
    label: str, sentence: str, said: dict[str, str], hub: Hub
) -> None:
    assert said[label] == sentence
    assert not {"doge/refused", "other/refused"} & set(hub.repositories)
    assert hub.repositories["other/model"].titles == hub.repositories["doge/old"].titles == []


@pytest.mark.parametrize(
    ("label", "folder", "repo_id", "words"),
    [
        ("a large file fails", "unlucky", "doge/put", "Error while uploading 'onnx/decoder.onnx' to the Hub"),
        ("the commit fails", "out", "doge/status", "the hub answers with status 500"),
        ("the commit is cut off", "out", "doge/cut", "Server disconnected"),
    ],
)
def test_a_push_that_breaks_leaves_both_sides_whole_and_names_the_way_on(
    label: str, folder: str, repo_id: str, words: str, said: dict[str, str], hub: Hub, home: Path
) -> None:
    assert said[label].startswith(f"{home / folder} is exported, but not pushed: {words}")
    assert said[label].endswith(f"; to push it, run `hf upload {repo_id} {home / folder}`")
    assert list(hub.repositories[repo_id].files()) == [".gitattributes"]
    assert (home / folder / "onnx" / "model.onnx_data").read_bytes() == bytes(range(256))


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "the hub is not asked (offline); unset HF_HUB_OFFLINE"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "[Errno 111] Connection refused"),
    ],
)
def test_a_hub_that_cannot_be_asked_is_one_sentence(others: dict[str, str], words: str, hub: Hub, home: Path) -> None:
    said = push({"new": CASES["new"]}, hub, home, **others)
    assert said["new"] == f"doge/new cannot be pushed to: {words}"


def test_the_command_that_a_broken_push_names_works(said: dict[str, str], hub: Hub, home: Path) -> None:
    command = [str(Path(sys.executable).parent / "hf"), *said["the commit fails"].split("`")[1].split()[1:]]
    failing, hub.failing = hub.failing, {}
    variables = environment(hub.endpoint, home, OWNER_TOKEN)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    hub.failing = failing
    assert done.returncode == 0, done.stderr
    assert hub.repositories["doge/status"].files()["onnx/decoder.onnx"] == b"a graph"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"push_to_hub": "name"}, r"push_to_hub is 'name'; it must be a hub id \(owner/name\)"),
        ({"push_to_hub": "a/b--c"}, "it must be a hub id"),
        ({"private": True}, "private goes with push_to_hub; leave it out, or give a repository"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=words):
        ExportOptions("x", tmp_path / "out", **options)


def test_an_export_without_a_login_ends_before_the_checkpoint_is_read(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    arguments = [tmp_path / "tiny", tmp_path / "out", "--push-to-hub", "doge/no"]
    done = python(MAIN, *arguments, env=environment(hub.endpoint, tmp_path / "home"))
    assert (done.returncode, done.stdout, "reading the checkpoint" in done.stderr) == (1, "", False)
    assert done.stderr.splitlines()[-1].startswith("Error: doge/no cannot be pushed to: there is no login")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def pushed(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A revision of a checkpoint on the hub, exported and pushed back: the local folder, and the printed rows."""
    home = tmp_path_factory.mktemp("whole")
    save_doge(home / "tiny", vocab_size=len(save_tokenizer(home / "tiny")))
    (home / "tiny" / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    hub.add("doge/source", home / "tiny", "v1")
    arguments = ["doge/source", home / "out", "--revision", "v1", "--push-to-hub", "doge/whole", "--report-tokens", 32]
    done = python(MAIN, *arguments, env=environment(hub.endpoint, home, OWNER_TOKEN))
    assert done.returncode == 0, done.stderr
    return home / "out", done.stdout


def test_an_export_is_pushed_whole_and_its_page_is_named(pushed: tuple[Path, str], hub: Hub) -> None:
    folder, rows = pushed
    assert f"pushed to                 {hub.endpoint}/doge/whole\n" in rows
    local = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = hub.repositories["doge/whole"].files()
    assert set(files) == {*local, ".gitattributes"}
    assert all(path.read_bytes() == files[name] for name, path in local.items())
    report = json.loads(files["export_report.json"])
    assert (report["hub_url"], report["options"]["push_to_hub"]) == (f"{hub.endpoint}/doge/whole", "doge/whole")


def test_the_card_of_a_pushed_folder_serves_the_reader_of_its_page(pushed: tuple[Path, str], hub: Hub) -> None:
    folder, _ = pushed
    card, report = ModelCard.load(folder / "README.md"), json.loads((folder / "export_report.json").read_text())
    assert (card.data.base_model, card.data.license, card.data.pipeline_tag) == (
        "doge/source",
        "mit",
        "text-generation",
    )
    quality, speed = report["quality"], report["speed"]
    for measured in (
        f"int8, {sum(report['files'].values()) / 1e6:.1f} MB",
        f"| perplexity | {quality['perplexity']:.3f} | {quality['perplexity_fp32']:.3f} |",
        f"{speed['decode_tokens_per_s']:.0f} tokens/s",
    ):
        assert measured in card.text
    snippets = re.findall(r"```(python|js)\n(.*?)```", card.text, re.DOTALL)
    assert [language for language, _ in snippets] == ["python", "python", "python", "js"]
    for language, snippet in snippets:
        assert "doge/whole" in snippet and "'out'" not in snippet and '"out"' not in snippet
        if language == "python":
            compile(snippet, "README.md", "exec")
