"""A file that is missing or came from another export is named when the folder is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

import doge_export
from doge_export.errors import PackageError
from doge_export.export import ExportOptions, export
from doge_export.export.integrity import check_integrity
from doge_export.runtime.description import METADATA_KEY, SAMPLE_KEY
from doge_export.runtime.folder_files import metadata_entry, sample_of
from doge_export.runtime.operators import operators_library
from tests.helpers.checkpoints import byte_vocabulary, save_doge, save_tokenizer
from tests.helpers.fakes import byte_level_tokenizer

STANDARD = ("onnx/decoder.onnx", "onnx/decoder_recurrent.onnx", "onnx/decoder_draft.onnx")
GRAPHS = (*STANDARD, "onnx/model.onnx", "onnx/decoder_step.onnx")
DATA = "onnx/model.onnx_data"


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An export, another of the same sizes, and a larger one."""
    home, folders = tmp_path_factory.mktemp("exports"), {}
    for name, seed, hidden_size in (("own", 0, 32), ("same size", 1, 32), ("larger", 0, 64)):
        (home / "tiny").mkdir(exist_ok=True)
        save_tokenizer(home / "tiny")
        save_doge(home / "tiny", seed=seed, hidden_size=hidden_size, vocab_size=len(byte_vocabulary()))
        folders[name] = export(ExportOptions(str(home / "tiny"), home / name, report_tokens=0)).folder
    return folders


@pytest.fixture
def folder(exports: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the first export."""
    return Path(shutil.copytree(exports["own"], tmp_path / "copy"))


def said(folder: Path) -> str:
    """The refusal at loading."""
    with pytest.raises(PackageError) as caught:
        doge_export.load(folder, threads=1)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_metadata(file: Path, key: str, value: str | None) -> None:
    """Give a graph another metadata entry, or take it away."""
    model = onnx.load(file, load_external_data=False)
    entries = {entry.key: entry.value for entry in model.metadata_props} | {key: value}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: text for name, text in entries.items() if text is not None})
    file.write_bytes(model.SerializeToString())


def test_a_copy_loads(folder: Path) -> None:
    assert doge_export.load(folder, threads=1).generate("ab", max_new_tokens=3).token_ids


@pytest.mark.parametrize("name", [*STANDARD, DATA, "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert said(folder).startswith(f"{folder / name} is missing; ")


@pytest.mark.parametrize("other", ["same size", "larger"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_of_another_export_is_named(name: str, other: str, folder: Path, exports: dict[str, Path]) -> None:
    shutil.copy(exports[other] / name, folder / name)
    assert said(folder).startswith(f"{folder / name} is damaged, or of another export than the other graphs; ")


def test_two_graphs_of_another_export_are_named_against_the_plain_one(folder: Path, exports: dict[str, Path]) -> None:
    for name in GRAPHS[2:4]:
        shutil.copy(exports["larger"] / name, folder / name)
    assert said(folder).startswith(
        f"{folder / GRAPHS[2]} and {folder / GRAPHS[3]} are damaged, or of another export than"
    )


@pytest.mark.parametrize("other", ["same size", "larger"])
def test_the_data_file_of_another_export_is_named(other: str, folder: Path, exports: dict[str, Path]) -> None:
    shutil.copy(exports[other] / DATA, folder / DATA)
    assert said(folder).startswith(f"{folder / DATA} is damaged, or of another export than onnx/decoder.onnx; ")


def test_graphs_without_a_sample_leave_the_size_in_the_report(folder: Path, exports: dict[str, Path]) -> None:
    for name in GRAPHS:
        edit_metadata(folder / name, SAMPLE_KEY, None)
    shutil.copy(exports["same size"] / DATA, folder / DATA)
    assert doge_export.load(folder, threads=1)
    with pytest.raises(PackageError, match=f"{DATA} differs"):
        check_integrity(folder)
    shutil.copy(exports["larger"] / DATA, folder / DATA)
    sizes = [(exports[name] / DATA).stat().st_size for name in ("larger", "own")]
    assert said(folder).startswith(f"{folder / DATA} has {sizes[0]} bytes, but {sizes[1]} in export_report.json, ")


def test_a_tokenizer_of_another_size_is_named(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("ab", "ac") + " ")
    assert said(folder).startswith(f"{path} has {path.stat().st_size} bytes, but {path.stat().st_size - 1} in export_r")


def test_a_tokenizer_with_more_tokens_than_the_model_is_named(folder: Path) -> None:
    (folder / "export_report.json").unlink()
    tokenizer = byte_level_tokenizer()
    tokenizer._backend.add_tokens([f"word {index}" for index in range(99)])
    tokenizer._backend.save(str(folder / "tokenizer.json"))
    tokens = f"{tokenizer.vocab_size} tokens, but the model {len(byte_vocabulary())}"
    assert said(folder).startswith(f"{folder / 'tokenizer.json'} has {tokens}, so it belongs to another model; ")


def test_a_tokenizer_of_the_same_size_is_found_by_the_check_alone(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('["a","b"]', '["b","a"]').replace('"ab":', '"ba":'))
    assert doge_export.load(folder, threads=1)
    with pytest.raises(PackageError, match=r"tokenizer\.json differs"):
        check_integrity(folder)


def test_a_folder_without_a_report_loads_and_a_damaged_report_is_named(folder: Path) -> None:
    (folder / "export_report.json").unlink()
    assert doge_export.load(folder, threads=1)
    (folder / "export_report.json").write_text("{")
    assert said(folder).startswith(f"{folder / 'export_report.json'} is damaged (")


def test_short_texts_may_be_edited(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"max_new_tokens": 3}')
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert len(doge_export.load(folder, threads=1).generate("ab", ignore_eos=True).token_ids) == 3


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (5, "has decoder format 5 with other fields than this version's formats 6 and 7; export the checkpoint again"),
        (8, "has decoder format 8, which is newer than this version of doge-export; update it, or export the checkpo"),
    ],
)
def test_a_folder_of_another_format_says_what_to_do(version: int, sentence: str, folder: Path) -> None:
    for name in GRAPHS:
        entry = json.loads(metadata_entry((folder / name).read_bytes(), METADATA_KEY))
        edit_metadata(folder / name, METADATA_KEY, json.dumps(entry | {"format_version": version}))
    first = folder / GRAPHS[0 if operators_library() is None else -1]  # the one that is opened
    assert said(folder).startswith(f"{first} {sentence}")


def test_a_folder_with_the_one_graph_of_an_earlier_version_says_export_again(folder: Path) -> None:
    for name in (*STANDARD, "onnx/decoder_step.onnx"):
        (folder / name).unlink()
    assert (
        said(folder)
        == f"{folder} was exported by an earlier version, or model.onnx is damaged; export the checkpoint again"
    )


@pytest.mark.parametrize("length", [1, 100, 123, 127, 128, 251, 500])
def test_an_entry_is_found_whatever_its_length(length: int, tmp_path: Path) -> None:
    value = json.dumps({"a": "x" * (length - len('{"a": ""}'))}) if length > 9 else "{}"
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    onnx.helper.set_model_props(model, {"other": '{"b": 1}', METADATA_KEY: value, "last": "{}"})
    assert metadata_entry(model.SerializeToString(), METADATA_KEY) == value
    assert metadata_entry(model.SerializeToString(), SAMPLE_KEY) == ""


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 100_000])
def test_a_sample_tells_sizes_and_the_last_byte_apart(size: int, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\1" * size)
    first = sample_of(path)
    assert first["bytes"] == size
    path.write_bytes(b"\1" * max(size - 1, 0) + b"\2")
    assert sample_of(path)["sample_sha256"] != first["sample_sha256"]
