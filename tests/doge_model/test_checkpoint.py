"""Loading a folder: shards, dtypes, tied matrices, tokenizer, generation settings, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from doge_common.errors import CheckpointError, OptionError
from doge_model import load_checkpoint
from tests.helpers.checkpoints import edit_config, edit_tensors, save_doge, save_june_2025, save_tokenizer, tiny_llama
from tests.helpers.models import random_ids, relative_difference, torch_logits

NORM = "model.norm.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_doge(tmp_path)
    return tmp_path


def refusal(source: str | Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_load_as_the_same_model(tmp_path: Path) -> None:
    saved = save_doge(tmp_path / "one")
    saved.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    ids = random_ids(16)
    loaded = load_checkpoint(tmp_path / "many").model
    assert relative_difference(torch_logits(saved, ids), torch_logits(loaded, ids)) < 2e-6


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_floats_of_every_width_are_cast_to_the_dtype_asked_for(
    stored: torch.dtype, dtype: torch.dtype, folder: Path
) -> None:
    originals: dict[str, torch.Tensor] = {}
    edit_tensors(folder, lambda tensors: tensors.update({name: t.to(stored) for name, t in tensors.items()}))
    edit_tensors(folder, originals.update)
    model = load_checkpoint(folder, dtype=dtype).model
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(torch.equal(parameter, originals[name].to(dtype)) for name, parameter in model.named_parameters())


def test_a_dtype_of_integers_is_an_option_error(folder: Path) -> None:
    with pytest.raises(OptionError, match="floating-point"):
        load_checkpoint(folder, dtype=torch.int8)


def test_the_model_is_in_eval_mode_and_can_be_trained(folder: Path) -> None:
    model = load_checkpoint(folder).model
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_saving_over_the_files_does_not_change_the_loaded_model(folder: Path) -> None:
    model = load_checkpoint(folder).model
    before = model.model.norm.weight.clone()
    (folder / "model.safetensors").write_bytes(b"\x00" * (folder / "model.safetensors").stat().st_size)
    assert torch.equal(model.model.norm.weight, before)


@pytest.mark.parametrize("stored", [True, False])
def test_a_tied_output_matrix_may_be_stored_or_not(stored: bool, tmp_path: Path) -> None:
    saved = save_doge(tmp_path, tie_word_embeddings=True)
    if stored:
        edit_tensors(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    model = load_checkpoint(tmp_path).model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, saved.lm_head.weight)


def test_a_tied_output_matrix_that_differs_is_refused(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=True)
    assert "lm_head.weight differs from the embedding although config.json has tie_word_embeddings" in refusal(folder)


@pytest.mark.parametrize("stored", [True, False])
def test_where_the_configuration_does_not_say_the_tensors_tell_whether_embeddings_are_tied(
    stored: bool, folder: Path
) -> None:
    edit_config(folder, remove=("tie_word_embeddings",))
    if not stored:
        edit_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
    assert load_checkpoint(folder).model.config.tie_word_embeddings is not stored


def test_an_untied_output_matrix_that_is_missing_is_refused(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
    assert (
        "lm_head.weight is missing; give it with shape [97, 32] (config field tie_word_embeddings is False)"
        in refusal(folder)
    )


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda t: t.pop(NORM), "tensor model.norm.weight is missing; give it with shape [32]"),
        (lambda t: t.update(extra=torch.ones(2)), "tensor extra is unexpected"),
        (
            lambda t: t.update({"model.final.weight": t.pop(NORM)}),
            "missing; give it with shape [32]; model.final.weight is there",
        ),
        (lambda t: t.update({NORM: torch.ones(31)}), "tensor model.norm.weight has shape [31]"),
        (lambda t: t.update({NORM: torch.ones(())}), "tensor model.norm.weight has shape []"),
        (lambda t: t.update({NORM: torch.ones(32, dtype=torch.int32)}), "tensor model.norm.weight has dtype int32"),
        (lambda t: t[NORM].fill_(torch.nan), "tensor model.norm.weight holds values that are not finite"),
        (lambda t: t[NORM].fill_(torch.inf), "tensor model.norm.weight holds values that are not finite"),
        (
            lambda t: [t.pop(name) for name in list(t) if "layers.0" in name],
            "tensor model.layers.0.self_attn.q_proj.weight is missing",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    edit: Callable[[dict[str, torch.Tensor]], Any], sentence: str, folder: Path
) -> None:
    edit_tensors(folder, edit)
    assert sentence in refusal(folder)


def test_names_of_another_model_are_refused(tmp_path: Path) -> None:
    save_june_2025(tmp_path)
    edit_tensors(tmp_path, lambda t: [t.update({name.replace("model", "gpt"): t.pop(name)}) for name in list(t)])
    assert "fits no published form; its name must be such as model.layers.0" in refusal(tmp_path)


def test_numbers_too_large_for_the_dtype_are_refused(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors[NORM].fill_(1e6))
    assert "not finite in float16" in refusal(folder, dtype=torch.float16)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_damaged_safetensors_file_is_named(size: int, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert f"{path} is not a whole safetensors file" in refusal(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_doge(tmp_path / "one").save_pretrained(tmp_path / "many", max_shard_size="20KB")
    shard = sorted((tmp_path / "many").glob("*.safetensors"))[1]
    shard.unlink()
    assert f"names the shard {shard.name}, which is missing" in refusal(tmp_path / "many")


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": [1]}, "has no weight_map"),
        ({"weight_map": {NORM: 1}}, "has no weight_map"),
        ({"weight_map": {NORM: "../other.safetensors"}}, "names the shard '../other.safetensors'"),
    ],
)
def test_a_damaged_index_is_named(index: dict[str, Any], sentence: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"model.safetensors.index.json {sentence}" in refusal(folder)


def test_json_nested_without_end_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)
    assert "config.json is not valid JSON" in refusal(folder)


def test_eight_bit_floats_without_their_scales_are_refused(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({NORM: torch.ones(32).to(torch.float8_e4m3fn)}))
    assert "tensor model.norm.weight has dtype float8_e4m3fn" in refusal(folder)


def test_pickled_weights_are_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert "pytorch_model.bin, a pickle" in refusal(folder)
    assert "convert it to safetensors" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_json_that_is_damaged_is_named(name: str, folder: Path) -> None:
    save_tokenizer(folder)
    (folder / name).write_text('{"model_type": ')
    assert f"{folder / name} is not valid JSON" in refusal(folder)


@pytest.mark.parametrize("model_type", ["qwen2", "doge2", None, ["doge"]])
def test_another_model_type_is_refused(model_type: object, folder: Path) -> None:
    edit_config(folder, model_type=model_type)
    assert f"model_type is {model_type!r}; it must be 'doge' or 'llama' or 'doge_model'" in refusal(folder)


def test_code_that_comes_with_a_checkpoint_is_neither_run_nor_asked_about(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tokenizer(folder)
    code = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]}
    edit_config(folder, auto_map=code)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"auto_map": code, "tokenizer_class": "T"}))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    checkpoint = load_checkpoint(folder)
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer.decode(checkpoint.tokenizer("a").input_ids) == "a"
    assert "auto_map" not in checkpoint.model.config.to_dict()


@pytest.mark.parametrize("field", [{"return_dict": False}, {"output_attentions": True}, {"_attn_implementation": "x"}])
def test_fields_that_are_not_the_model_s_do_not_change_how_it_behaves(field: dict[str, Any], folder: Path) -> None:
    edit_config(folder, **field)
    outputs = load_checkpoint(folder).model(torch.ones(1, 3, dtype=torch.int64))
    assert outputs.logits.shape == (1, 3, 97)
    assert outputs.attentions is None


def test_the_tokenizer_comes_along_with_its_chat_template(folder: Path) -> None:
    tokenizer = save_tokenizer(folder)
    loaded = load_checkpoint(folder).tokenizer
    assert loaded is not None
    messages = [{"role": "user", "content": "Grüße"}]
    assert loaded.apply_chat_template(messages) == tokenizer.apply_chat_template(messages)
    assert loaded.eos_token == tokenizer.eos_token


def test_a_chat_template_in_the_tokenizer_s_settings_is_read(folder: Path) -> None:
    save_tokenizer(folder)
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "{{ messages[0].content }}!"}))
    messages = [{"role": "user", "content": "hi"}]
    tokenizer = load_checkpoint(folder).tokenizer
    assert tokenizer is not None
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "hi!"


def test_a_checkpoint_without_a_tokenizer_has_none(folder: Path) -> None:
    assert load_checkpoint(folder).tokenizer is None


def test_a_tokenizer_of_another_kind_is_refused_with_the_remedy(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"")
    assert "tokenizer.model but no tokenizer.json; write one with transformers" in refusal(folder)


@pytest.mark.parametrize("text", ["{}", '{"model": {"type": "BPE"}, "added_tokens": []}', '{"added_tokens": 3}'])
def test_json_that_is_no_tokenizer_is_named(text: str, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(text)
    assert "tokenizer.json is not a tokenizer" in refusal(folder)


def test_generation_settings_come_along(folder: Path) -> None:
    settings = {"temperature": 0.8, "top_p": 0.9, "do_sample": True, "max_new_tokens": 100}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    edit_config(folder, bos_token_id=0, eos_token_id=[1, 2])
    checkpoint = load_checkpoint(folder)
    assert checkpoint.generation_config.to_dict().items() >= settings.items()
    assert checkpoint.generation_config.eos_token_id == [1, 2]
    assert checkpoint.model.generation_config is checkpoint.generation_config


def test_without_generation_settings_the_configuration_s_special_tokens_serve(folder: Path) -> None:
    (folder / "generation_config.json").unlink(missing_ok=True)
    edit_config(folder, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    loaded = load_checkpoint(folder).generation_config
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 1, 2)


@pytest.mark.parametrize("field", [{"temperature": "hot"}, {"eos_token_id": [[1]]}, {"max_new_tokens": -3}])
def test_an_impossible_generation_setting_is_named(field: dict[str, Any], folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps(field))
    assert next(iter(field)) in refusal(folder)


@pytest.mark.parametrize("source", ["./nowhere/model", "/nowhere/model", "nowhere.gguf", "nowhere", "a b/c", "a/b/c"])
def test_a_source_that_is_nothing_says_what_could_be_given(source: str | Path) -> None:
    assert f"there is no {source}; give a folder, a .gguf file, a hub id (owner/name) or smollm2-135m" in refusal(
        source
    )


def test_a_file_that_is_no_gguf_says_what_could_be_given(folder: Path) -> None:
    assert "is a file, but not a .gguf" in refusal(folder / "model.safetensors")


def test_a_folder_without_a_configuration_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert f"{folder / 'config.json'} is missing" in refusal(folder)


def test_a_path_and_its_text_are_the_same_source(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    assert load_checkpoint(tmp_path).source == load_checkpoint(str(tmp_path)).source == str(tmp_path)


def test_a_folder_of_gguf_files_says_to_give_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    assert f"has no config.json; give the file itself: {tmp_path / 'model.gguf'}" in refusal(tmp_path)


def test_a_path_object_is_never_looked_for_on_the_hub() -> None:
    assert "there is no owner/name" in refusal(Path("owner/name"))


def test_a_name_that_no_file_system_takes_is_one_sentence() -> None:
    assert "File name too long" in refusal("x" * 5000)
    assert "there is no" in refusal("a\0b")


def test_a_revision_of_a_local_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"revision is 'main'; it must be left out, as .* is no repository of the hub"
    ):
        load_checkpoint(tmp_path, revision="main")
