"""The tensors of a folder: single files, shards and their index, dtypes, and every refusal."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from doge_common.errors import CheckpointError
from doge_model import load_checkpoint
from doge_model.tensors import SafetensorsFolder
from tests.helpers.checkpoints import edit_config, edit_tensors, save_doge, save_march_2025
from tests.helpers.models import random_ids, relative_difference, torch_logits

NORM = "model.norm.weight"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_doge(tmp_path)
    return tmp_path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A checkpoint of several files."""
    save_doge(tmp_path / "one").save_pretrained(tmp_path / "many", max_shard_size="20KB")
    return tmp_path / "many"


def refusal(source: str | Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_map(shards: Path, **files: Any) -> None:
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"] |= {name.replace("__", "."): file for name, file in files.items()}
    (shards / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("text", ["{", "[]", "3", "", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_an_index_that_is_no_json_object_is_named(text: str, shards: Path) -> None:
    (shards / INDEX).write_text(text)
    assert str(shards / INDEX) in refusal(shards)


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", {NORM: 1}, {NORM: ["a"]}])
def test_an_index_without_a_weight_map_is_named(weight_map: object, shards: Path) -> None:
    (shards / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert f"{INDEX} has no weight_map; it must have one that names the file of every tensor" in refusal(shards)


@pytest.mark.parametrize("file", ["../one/model.safetensors", "/etc/passwd", "config.json", ".", ""])
def test_a_shard_outside_the_folder_or_of_another_kind_is_refused(file: str, shards: Path) -> None:
    edit_map(shards, model__norm__weight=file)
    assert f"names the shard {file!r}; it must be a .safetensors file of the same folder" in refusal(shards)


def test_a_tensor_that_the_index_puts_into_another_shard_is_named(shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text())["weight_map"]
    other = next(file for file in index.values() if file != index[NORM])
    edit_map(shards, model__norm__weight=other)
    assert f"tensor {NORM} is not in {shards / other}, where {INDEX} says that it is" in refusal(shards)


def test_a_single_file_comes_before_an_index_as_in_transformers(shards: Path) -> None:
    save_doge(shards, hidden_size=64)
    assert load_checkpoint(shards).model.config.hidden_size == 64


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.int8, "int8"),
        (torch.bool, "bool"),
        (torch.float8_e4m3fn, "float8_e4m3fn"),
        (torch.complex64, "complex64"),
    ],
)
def test_only_plain_floats_are_weights(dtype: torch.dtype, name: str, folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({NORM: tensors[NORM].to(dtype)}))
    assert f"tensor {NORM} has dtype {name}; it must be one of float32, float16, bfloat16, float64" in refusal(folder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_single_value_that_is_not_finite_is_found(value: float, stored: torch.dtype, folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({NORM: tensors[NORM].to(stored)}))
    edit_tensors(folder, lambda tensors: tensors[NORM][-1].fill_(value))
    assert f"tensor {NORM} holds values that are not finite" in refusal(folder)


def test_the_output_matrix_serves_as_embedding_where_only_it_is_stored(folder: Path) -> None:
    saved = save_doge(folder, tie_word_embeddings=True)
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors.pop("model.embed_tokens.weight")}))
    loaded = load_checkpoint(folder).model
    ids = random_ids(16)
    assert relative_difference(torch_logits(saved, ids), torch_logits(loaded, ids)) < 2e-6
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_an_untied_model_needs_its_embedding(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop("model.embed_tokens.weight"))
    assert "tensor model.embed_tokens.weight is missing; give it with shape [97, 32]" in refusal(folder)


def test_each_tensor_is_read_once_and_let_go_before_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, read = SafetensorsFolder.load, list[str]()
    before: list[weakref.ref[torch.Tensor]] = []

    def load_noted(self: SafetensorsFolder, name: str) -> torch.Tensor:
        assert all(tensor() is None for tensor in before)
        tensor = load(self, name)
        before.append(weakref.ref(tensor))
        read.append(name)
        return tensor

    monkeypatch.setattr(SafetensorsFolder, "load", load_noted)
    load_checkpoint(folder)
    assert sorted(read) == sorted(SafetensorsFolder(folder))


def test_a_missing_tensor_has_the_name_of_its_form(tmp_path: Path) -> None:
    save_march_2025(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors.pop("model.layers.1.pre_residual.weight"))
    assert "tensor model.layers.1.pre_residual.weight is missing; give it with shape [32]" in refusal(tmp_path)


@pytest.mark.parametrize("layers", [1_000_000, 3])
def test_a_gap_among_the_layers_is_named_before_a_model_is_built(layers: int, folder: Path) -> None:
    edit_config(folder, num_hidden_layers=layers)
    stray = {f"model.layers.{layers - 1}.input_residual": torch.ones(32)}
    edit_tensors(folder, lambda tensors: tensors.update(stray))
    assert "tensor model.layers.2.self_attn.q_proj.weight is missing" in refusal(folder)


def test_a_tensor_name_with_a_line_break_is_refused_in_one_line(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"model.layers.0\nextra": torch.ones(2)}))
    assert "tensor 'model.layers.0\\nextra' has a character that cannot be printed" in refusal(folder)
