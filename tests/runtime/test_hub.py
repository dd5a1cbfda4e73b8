"""Exported folders by hub id: huggingface_hub itself, against a stand-in of the hub, each time in a new process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import doge_export
from doge_common.hub_id import is_hub_id
from doge_export.errors import PackageError
from doge_export.export import ExportOptions, export
from doge_export.runtime.generation_options import GenerationOverrides
from doge_export.runtime.hub import folder_of
from tests.helpers.checkpoints import save_doge, save_tokenizer
from tests.helpers.hub import Hub, Repository, environment, running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROMPT = [5, 6, 7]
GREEDY: GenerationOverrides = {"max_new_tokens": 90, "temperature": 0.0, "ignore_eos": True}  # the window has 64
READ = {"config.json", "generation_config.json", "export_report.json", "tokenizer.json", "tokenizer_config.json"}
READ |= {
    f"onnx/{name}"
    for name in ("decoder.onnx", "decoder_recurrent.onnx", "decoder_draft.onnx", "decoder_step.onnx", "model.onnx_data")
}
READ |= {"chat_template.jinja", "additional_chat_templates/short.jinja"}
LOADER = """
import json, sys
from pathlib import Path
import doge_export
from doge_export.errors import DogeError
from doge_export.runtime.hub import folder_of

results, (prompt, greedy) = {}, json.loads(sys.argv[3])
for label, source, options in json.loads(sys.argv[1]):
    try:
        model = doge_export.load(source, threads=1, **options)
        links = all(path.is_symlink() for path in folder_of(source, **options).rglob("*.*") if path.is_file())
        results[label] = [model.generate(prompt, **greedy).token_ids, links, sorted(model.tokenizer.chat_templates)]
    except DogeError as error:
        results[label] = str(error)
assert "torch" not in sys.modules and "transformers" not in sys.modules
Path(sys.argv[2]).write_text(json.dumps(results))
"""
# label: source, options of load
ONLINE: dict[str, tuple[str, dict[str, Any]]] = {
    "main": ("doge/tiny", {}),
    "tag": ("doge/tiny", {"revision": "v1"}),
    "from the cache": ("doge/tiny", {"local_files_only": True}),
    "not in the cache": ("doge/tiny", {"local_files_only": True, "revision": "v2"}),
    "unknown revision": ("doge/tiny", {"revision": "v2"}),
    "unknown repository": ("doge/nothing", {}),
    "gated": ("doge/gated", {}),
    "a checkpoint": ("doge/checkpoint", {}),
    "an early export": ("doge/early", {}),
    "no plain graph": ("doge/plain", {}),
    "no recurrent graph": ("doge/partial", {}),
    "a graph of another": ("doge/mixed", {}),
    "no folder": ("./tiny", {}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two exports of random models."""
    home, folders = tmp_path_factory.mktemp("exports"), {}
    for name, seed in {"main": 0, "v1": 1}.items():
        (home / "tiny").mkdir(exist_ok=True)
        save_doge(home / "tiny", seed=seed, vocab_size=len(save_tokenizer(home / "tiny")))
        folders[name] = export(ExportOptions(str(home / "tiny"), home / name, report_tokens=0)).folder
        (folders[name] / "additional_chat_templates").mkdir()
        (folders[name] / "additional_chat_templates" / "short.jinja").write_text("{{ messages }}")
    return folders


@pytest.fixture(scope="module")
def hub(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub({"doge/gated": Repository(gated=True)})
    for revision, folder in folders.items():
        hub.add("doge/tiny", folder, revision)
    whole, other = (hub.repositories["doge/tiny"].files(revision) for revision in folders)
    for name, files in {
        "checkpoint": {"config.json": b"{}", "model.safetensors": b"", "onnx/model.onnx": b"of another exporter"},
        "early": {"config.json": b"{}", "export_report.json": b"{}", "onnx/model.onnx": b""},
        "plain": {name: content for name, content in whole.items() if name != "onnx/decoder.onnx"},
        "partial": {name: content for name, content in whole.items() if "recurrent" not in name},
        "mixed": whole | {"onnx/decoder_draft.onnx": other["onnx/decoder_draft.onnx"]},
    }.items():
        hub.repositories[f"doge/{name}"] = Repository()
        hub.repositories[f"doge/{name}"].commit(files)
    with running(hub):
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def load(cases: dict[str, tuple[str, dict[str, Any]]], endpoint: str, home: Path, **others: str) -> dict[str, Any]:
    """By the label of the case: tokens, whether all files are links, and the chat templates; or the refusal."""
    listed = json.dumps([(label, *case) for label, case in cases.items()])
    command = [sys.executable, "-c", LOADER, listed, str(home / "results.json"), json.dumps([PROMPT, GREEDY])]
    variables = environment(endpoint, home, **others)
    done = subprocess.run(command, check=False, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads((home / "results.json").read_text())
    return results


@pytest.fixture(scope="module")
def online(hub: Hub, home: Path) -> dict[str, Any]:
    return load(ONLINE, hub.endpoint, home)


@pytest.fixture(scope="module")
def offline(online: dict[str, Any], home: Path) -> dict[str, Any]:
    cases = {label: ONLINE[label] for label in ("main", "tag", "no recurrent graph", "a checkpoint")}
    cases["never loaded"] = ("doge/other", {})
    return load(cases, "http://127.0.0.1:9", home, HF_HUB_OFFLINE="1")


def tokens_of(folder: Path) -> list[int]:
    return doge_export.load(folder, threads=1).generate(PROMPT, **GREEDY).token_ids


@pytest.mark.parametrize(("label", "revision"), [("main", "main"), ("tag", "v1"), ("from the cache", "main")])
def test_a_hub_id_gives_the_tokens_of_the_folder_from_links(
    label: str, revision: str, online: dict[str, Any], folders: dict[str, Path]
) -> None:
    tokens, all_are_links, templates = online[label]
    assert tokens == tokens_of(folders[revision])
    assert all_are_links is (sys.platform != "win32")
    assert templates == ["default", "short"]


def test_the_two_revisions_give_different_tokens(folders: dict[str, Path]) -> None:
    assert tokens_of(folders["main"]) != tokens_of(folders["v1"])


def test_only_the_files_that_the_runtime_reads_are_downloaded(online: dict[str, Any], hub: Hub) -> None:
    of_tiny = {path.split("/", 4)[-1] for path in hub.asked if path.startswith("GET doge/tiny/resolve/")}
    assert of_tiny == READ
    assert not any("doge/checkpoint/resolve" in path and "onnx" in path for path in hub.asked)


@pytest.mark.parametrize("label", ["main", "tag"])
def test_a_cached_export_loads_offline(label: str, offline: dict[str, Any], online: dict[str, Any]) -> None:
    assert offline[label] == online[label]


def test_a_hub_that_is_down_leaves_the_cache(online: dict[str, Any], home: Path) -> None:
    assert load({"main": ONLINE["main"]}, "http://127.0.0.1:9", home)["main"] == online["main"]


NO_EXPORT = "doge/checkpoint is no export: it has no onnx/decoder.onnx; export it first: doge-export doge/checkpoint"


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("not in the cache", "doge/tiny at revision v2 is not in the local cache and the hub is not asked (offline)"),
        ("unknown revision", "doge/tiny has no revision v2; give a branch, tag or commit of it"),
        (
            "unknown repository",
            "there is no folder doge/nothing, and the hub has no repository of that name for you; give another",
        ),
        ("gated", "doge/gated is gated; accept its terms on the hub and log in with `hf auth login`"),
        ("a checkpoint", NO_EXPORT),
        ("an early export", "doge/early was exported by an earlier version; export the checkpoint again"),
        ("no plain graph", "onnx/decoder.onnx is missing in doge/plain; push the folder again"),
        ("no folder", "there is no folder 'tiny'; give one that doge-export wrote, or a hub id (owner/name)"),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence(label: str, sentence: str, online: dict[str, Any]) -> None:
    assert online[label] == sentence


@pytest.mark.parametrize("results", ["online", "offline"])
def test_a_file_that_the_repository_lacks_is_named(results: str, request: pytest.FixtureRequest) -> None:
    said = request.getfixturevalue(results)["no recurrent graph"]
    assert "onnx/decoder_recurrent.onnx is missing; " in said and "\n" not in said


def test_a_file_of_another_export_is_named(online: dict[str, Any]) -> None:
    assert (
        "/onnx/decoder_draft.onnx is damaged, or of another export than the other graphs; "
        in online["a graph of another"]
    )


def test_offline_what_is_not_cached_is_one_sentence(offline: dict[str, Any]) -> None:
    assert offline["never loaded"] == "doge/other is not in the local cache and the hub is not asked (offline)"
    assert offline["a checkpoint"] == NO_EXPORT


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("chat", ["--prompt", "a", "--greedy", "--max-new-tokens", "3", "--json"]),
        ("bench", ["--prompt-tokens", "3", "--new-tokens", "3", "--rounds", "1", "--json"]),
    ],
)
def test_the_commands_take_a_hub_id_and_a_revision(command: str, words: list[str], hub: Hub, home: Path) -> None:
    code = f"from doge_export.commands.{command} import main; main()"
    arguments = [sys.executable, "-c", code, "doge/tiny", "--revision", "v1", *words]
    variables = environment(hub.endpoint, home)
    done = subprocess.run(
        arguments, env=variables, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])


def test_an_evaluation_takes_the_hub_id_of_an_export(hub: Hub, home: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("ab12 " * 40)
    code = "from doge_export.commands.eval import main; main()"
    arguments = ["doge/tiny", "--perplexity", "text.txt", "--json"]
    variables = environment(hub.endpoint, home, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "doge/tiny"


def test_without_huggingface_hub_the_package_and_the_remedy_are_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['huggingface_hub'] = None; import doge_export; doge_export.load('doge/tiny')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    sentence = (
        "loading doge/tiny from the hub needs huggingface_hub: pip install -c constraints.txt '.[hub]' in the clone"
    )
    assert done.stderr.splitlines()[-1] == f"doge_export.errors.PackageError: {sentence}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("owner/name", True),
        ("Owner_1/na.me-2", True),
        ("name", False),
        ("a/b/c", False),
        ("./name", False),
        ("owner/name.git", False),
        ("owner/na--me", False),
        ("owner/-name", False),
        ("owner/café", False),
        ("/name", False),
        ("owner/" + "n" * 97, False),
        ("owner/name\n", False),
    ],
)
def test_a_hub_id_has_the_form_that_huggingface_hub_allows(source: str, expected: bool) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    assert is_hub_id(source) is expected
    try:
        validate_repo_id(source)
    except HFValidationError:
        assert not expected
    else:
        assert expected or "/" not in source


@pytest.mark.parametrize("source", [5, None, b"folder"])
def test_a_source_that_is_no_path_is_refused(source: Any) -> None:
    with pytest.raises(PackageError, match="give a path or a hub id"):
        folder_of(source)
