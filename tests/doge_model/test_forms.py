"""The published forms of a checkpoint: each gives back the model that was saved."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DogeConfig as TransformersDogeConfig

from doge_common.errors import CheckpointError
from doge_model import DogeConfig, DogeForCausalLM, load_checkpoint
from doge_model.config_fields import KIND_OF
from tests.helpers.checkpoints import (
    ROPE_4X,
    edit_config,
    edit_tensors,
    save_doge,
    save_june_2025,
    save_march_2025,
    tiny_llama,
)
from tests.helpers.models import FORMS, random_ids, relative_difference, torch_logits

EXPERTS = {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 4}
SWITCHES = {
    "dense": {},
    "tied": {"tie_word_embeddings": True},
    "one kv head": {"num_key_value_heads": 1},
    "as many kv heads as heads": {"num_key_value_heads": 4},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "experts": EXPERTS,
    "experts with a router bias": EXPERTS | {"router_bias": True},
}


def assert_same_model(loaded: torch.nn.Module, saved: torch.nn.Module) -> None:
    ids = random_ids(24)
    assert relative_difference(torch_logits(saved, ids), torch_logits(loaded, ids)) < 2e-6


@pytest.mark.parametrize("fields", FORMS.values(), ids=FORMS.keys())
def test_what_save_pretrained_writes_loads_as_the_same_model(fields: dict[str, Any], tmp_path: Path) -> None:
    saved = save_doge(tmp_path, **fields)
    assert_same_model(load_checkpoint(tmp_path).model, saved)


def test_a_native_checkpoint_is_recognised(tmp_path: Path) -> None:
    save_doge(tmp_path)
    assert load_checkpoint(tmp_path).form == "native"


@pytest.mark.parametrize("fields", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize(
    ("save", "form"), [(save_june_2025, "small-doge-2025-06"), (save_march_2025, "small-doge-2025-03")]
)
def test_an_older_form_loads_as_the_same_model(
    save: Callable[..., DogeForCausalLM], form: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    saved = save(tmp_path, **fields)
    loaded = load_checkpoint(tmp_path)
    assert loaded.form == form
    assert_same_model(loaded.model, saved)


def test_a_lifted_llama_that_was_saved_loads_again(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "llama")
    lifted = load_checkpoint(tmp_path / "llama").model
    lifted.save_pretrained(tmp_path / "doge")
    assert_same_model(load_checkpoint(tmp_path / "doge").model, lifted)


@pytest.mark.parametrize(
    "rope", [{"rope_theta": 5e5, "rope_scaling": None}, {"rope_theta": 5e5, "rope_scaling": ROPE_4X}]
)
def test_the_rope_of_transformers_4_equals_that_of_5(rope: dict[str, Any], tmp_path: Path) -> None:
    scaling = {"rope_type": "dynamic", "factor": 4.0} if rope["rope_scaling"] else {"rope_type": "default"}
    saved = save_doge(tmp_path, rope_parameters={"rope_theta": 5e5} | scaling)
    edit_config(tmp_path, remove=("rope_parameters",), **rope)
    loaded = load_checkpoint(tmp_path).model
    assert loaded.config.rope_parameters == saved.config.rope_parameters
    assert_same_model(loaded, saved)


def test_the_oldest_spelling_of_the_rope_type_is_read(tmp_path: Path) -> None:
    save_doge(tmp_path)
    edit_config(tmp_path, remove=("rope_parameters",), rope_scaling={"type": "linear", "factor": 2.0}, rope_theta=1e4)
    rope = load_checkpoint(tmp_path).model.config.rope_parameters
    assert rope == {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}


def test_the_window_of_a_spring_2025_configuration_without_one_is_2048(tmp_path: Path) -> None:
    save_march_2025(tmp_path)
    edit_config(tmp_path, remove=("keep_window_size",))
    assert load_checkpoint(tmp_path).model.config.keep_window_size == 2048


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["queries_proj.weight", "queries.weight", "keys"])
def test_experts_found_by_product_keys_are_refused_by_name(name: str, tmp_path: Path) -> None:
    save_march_2025(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors.update({f"model.layers.0.feed_forward.{name}": torch.ones(2, 2)}))
    assert f"model.layers.0.feed_forward.{name} belongs to the product-key experts" in refusal(tmp_path)


def test_a_dynamic_mask_ratio_is_refused(tmp_path: Path) -> None:
    save_march_2025(tmp_path)
    edit_config(tmp_path, dynamic_mask_ratio=0.5)
    assert "dynamic_mask_ratio" in refusal(tmp_path)


def test_two_names_of_one_tensor_are_refused(tmp_path: Path) -> None:
    save_doge(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors.update({"model.word_embed.weight": torch.ones(97, 32)}))
    assert "model.embed_tokens.weight and model.word_embed.weight" in refusal(tmp_path)


def test_mask_heads_that_are_neither_kind_of_head_are_refused(tmp_path: Path) -> None:
    save_doge(tmp_path)
    edit_tensors(
        tmp_path, lambda tensors: tensors.update({"model.layers.0.self_attn.dt_proj.weight": torch.ones(3, 16)})
    )
    assert "dt_proj.weight has shape [3, 16]; it must have 2 rows" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"qk_norm": False}, "qk_norm is False; it must be True, as the tensors say"),
        ({"num_mask_heads": 4}, "num_mask_heads is 4; it must be 2, as the tensors say"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3; it must be 2, the layers of the tensors"),
        ({"hidden_size": 64}, "[97, 32]; it must be [97, 64] (vocab_size, hidden_size of the configuration)"),
        ({"intermediate_size": 40}, "(intermediate_size, hidden_size of the configuration)"),
        ({"head_dim": 16}, "(num_attention_heads * head_dim, hidden_size of the configuration)"),
        ({"is_moe": True}, "router_gate.weight is missing"),
        ({"attention_bias": True}, "(config field attention_bias is True)"),
        ({"mlp_bias": True}, "(config field mlp_bias is True)"),
    ],
)
def test_a_field_that_contradicts_the_tensors_is_named(fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    save_doge(tmp_path)
    edit_config(tmp_path, **fields)
    assert sentence in refusal(tmp_path)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"hidden_size": "32"}, "hidden_size is '32'; it must be a whole number"),
        ({"num_attention_heads": None}, "num_attention_heads is missing"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"hidden_act": "nope"}, "hidden_act is 'nope'"),
        ({"sliding_window": 16}, "sliding_window is 16"),
        ({"pad_token_id": 500}, "pad_token_id is 500"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps is 0.0"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is set"),
        ({"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e4}}, "rope_type 'mrope'; it must be one of"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "no factor; rope_type linear needs it"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": None}}, "no factor; rope_type"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": -2}}, "factor -2; it must be"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_fast": -1}}, "beta_fast -1; it must be"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}, "rope_theta -1.0; it must be a number"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "'full_attention'; it must be one RoPE for all layers",
        ),
        ({"rope_parameters": "default"}, "rope_parameters is 'default'; it must be an object or null"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": "x", "mscale_all_dim": 1}},
            "transformers refuses it",
        ),
        ({"hidden_size": 10**30}, "it must be at most 16777216"),
        ({"vocab_size": 2**24, "hidden_size": 2**24}, "it must be [16777216, 16777216]"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000; it must be 2, the layers"),
        ({"rms_norm_eps": -(10**400)}, "it must be at most"),
        ({"hidden_dropout": 3}, "hidden_dropout is 3.0; it must be from 0 to 1"),
        ({"head_dim": 7}, "head_dim"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; it must be true or false"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"pad_token_id": -7}, "pad_token_id is -7"),
    ],
)
def test_an_impossible_field_is_named(fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    save_doge(tmp_path)
    edit_config(tmp_path, **fields)
    assert sentence in refusal(tmp_path)


def test_every_field_of_the_configuration_has_its_kind() -> None:
    fields = {*inspect.get_annotations(TransformersDogeConfig), *inspect.get_annotations(DogeConfig)}
    assert fields - {"model_type"} <= set(KIND_OF)
