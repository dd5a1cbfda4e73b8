"""Checkpoints by hub id: huggingface_hub itself, against a stand-in of the hub on this machine.

huggingface_hub reads HF_ENDPOINT when it is imported, so a process of its own loads every source, one after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.checkpoints import save_doge, save_tokenizer
from tests.helpers.hub import Hub, Repository, environment, running

pytestmark = pytest.mark.slow

Case = tuple[str, str, dict[str, Any]]  # a label, a source, options of load_checkpoint
ROOT = Path(__file__).parents[2]
LOADER = """
import json, sys
from pathlib import Path
from doge_model import load_checkpoint
from doge_common.errors import CheckpointError

results = {}
for label, source, options in json.loads(sys.argv[1]):
    try:
        loaded = load_checkpoint(source, **options)
        results[label] = [loaded.form, loaded.model.config.hidden_size, loaded.tokenizer is not None]
    except CheckpointError as error:
        results[label] = str(error)
Path(sys.argv[2]).write_text(json.dumps(results))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with a repository of two revisions, of 32 and 64 channels, and one that is gated."""
    hub = Hub()
    for revision, hidden_size in {"main": 32, "v1": 64}.items():
        folder = tmp_path_factory.mktemp(revision)
        save_doge(folder, hidden_size=hidden_size)
        save_tokenizer(folder)
        (folder / "pytorch_model.bin").write_bytes(b"a pickle")
        (folder / "modeling_doge.py").write_text("raise SystemExit('ran')")
        (folder / "consolidated.safetensors").write_bytes(b"the same weights once more")
        (folder / "checkpoint-5").mkdir()
        (folder / "checkpoint-5" / "model.safetensors").write_bytes(b"a trainer's step")
        hub.add("doge/tiny", folder, revision)
    hub.repositories["doge/gated"] = Repository(gated=True)
    with running(hub):
        yield hub


def load(cases: list[Case], endpoint: str, home: Path, **others: str) -> dict[str, Any]:
    """Load each case; by its label, the form, the hidden size and whether there is a tokenizer, or the refusal."""
    command = [sys.executable, "-c", LOADER, json.dumps(cases), str(home / "results.json")]
    variables = environment(endpoint, home, **others)
    subprocess.run(command, check=True, cwd=ROOT, env=variables, capture_output=True)
    results: dict[str, Any] = json.loads((home / "results.json").read_text())
    return results


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def online(hub: Hub, home: Path) -> dict[str, Any]:
    cases: list[Case] = [
        ("main", "doge/tiny", {}),
        ("tag", "doge/tiny", {"revision": "v1"}),
        ("commit", "doge/tiny", {"revision": hub.repositories["doge/tiny"].revisions["v1"]}),
        ("other cache", "doge/tiny", {"cache_dir": str(home / "other")}),
        ("from the cache", "doge/tiny", {"local_files_only": True}),
        ("not in the cache", "doge/tiny", {"local_files_only": True, "revision": "v2"}),
        ("unknown revision", "doge/tiny", {"revision": "v2"}),
        ("unknown repository", "doge/nothing", {}),
        ("gated", "doge/gated", {}),
        ("a folder's path", "./doge/tiny", {}),
    ]
    return load(cases, hub.endpoint, home)


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


def test_neither_pickles_nor_code_are_downloaded(online: dict[str, Any], hub: Hub) -> None:
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= hub.downloaded
    assert not any(name.endswith((".bin", ".py")) for name in hub.downloaded)


def test_what_repeats_the_weights_is_not_downloaded(online: dict[str, Any], hub: Hub) -> None:
    assert not any("consolidated" in path or "checkpoint-5" in path for path in hub.asked)


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
    code = f"from doge_common.hub import download; download('doge/tiny', None, {str(tmp_path)!r}, False)"
    variables = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(
        command, check=False, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=20
    )
    assert ran.stderr.splitlines()[-1] == f"doge_common.errors.CheckpointError: {sentence}"


def test_without_network_what_is_not_cached_is_one_sentence(offline: dict[str, Any]) -> None:
    assert offline["never loaded"] == "doge/other is not in the local cache and the hub is not asked (offline)"
