"""A Llama lifted into Doge gives the logits of transformers' own Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from doge_common.errors import CheckpointError
from doge_model import load_checkpoint
from tests.helpers.checkpoints import edit_config, edit_tensors, tiny_llama
from tests.helpers.models import random_ids, relative_difference, torch_logits

LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16}

LLAMAS = {
    "grouped queries": {},
    "one kv head": {"num_key_value_heads": 1},
    "as many kv heads": {"num_key_value_heads": 4},
    "tied": {"tie_word_embeddings": True},
    "attention biases": {"attention_bias": True},
    "mlp biases": {"mlp_bias": True},
    "head_dim of its own": {"head_dim": 12},
    "another eps, activation and theta": {"rms_norm_eps": 1e-3, "hidden_act": "gelu", "rope_theta": 5e5},
    "a very large theta": {"rope_theta": 10**9},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "dynamic rope": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}},
    "llama3 rope": {"rope_parameters": LLAMA3},
    "yarn rope": {"rope_parameters": YARN},
    "yarn rope with its own attention factor": {"rope_parameters": YARN | {"attention_factor": 1.3, "beta_fast": 20.0}},
}


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("fields", LLAMAS.values(), ids=LLAMAS.keys())
def test_logits_equal_those_of_transformers(fields: dict[str, Any], tmp_path: Path) -> None:
    theirs = tiny_llama(**fields)
    theirs.save_pretrained(tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    ids = random_ids(60)
    assert checkpoint.form == "llama"
    assert relative_difference(torch_logits(theirs, ids), torch_logits(checkpoint.model, ids)) < 5e-6


def test_greedy_text_equals_that_of_transformers(tmp_path: Path) -> None:
    theirs = tiny_llama(eos_token_id=None)
    theirs.save_pretrained(tmp_path)
    ids = torch.from_numpy(random_ids(8))[None]
    ours = load_checkpoint(tmp_path).model
    settings = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(ours.generate(ids, **settings), theirs.generate(ids, **settings))


def test_what_a_llama_does_not_have_changes_nothing(tmp_path: Path) -> None:
    tiny_llama(attention_bias=True).save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path).model
    for name in ("self_attn.A", "self_attn.dt_proj.weight", "self_attn.dt_proj.bias"):
        assert not model.get_parameter(f"model.layers.0.{name}").any(), name
    for name in ("input_residual", "post_attention_residual"):
        assert set(model.get_parameter(f"model.layers.0.{name}").tolist()) == {1.0}, name


def test_no_key_is_evicted_within_the_llama_s_context(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    config = load_checkpoint(tmp_path).model.config
    assert config.keep_window_size == config.max_position_embeddings == 64
    assert not config.qk_norm


def test_the_configuration_of_transformers_4_is_read(tmp_path: Path) -> None:
    theirs = tiny_llama(rope_parameters=dict(LLAMA3))
    theirs.save_pretrained(tmp_path)
    scaling = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
    edit_config(tmp_path, remove=("rope_parameters", "head_dim"), rope_theta=1e4, rope_scaling=scaling, head_dim=None)
    ids = random_ids(60)
    assert relative_difference(torch_logits(theirs, ids), torch_logits(load_checkpoint(tmp_path).model, ids)) < 5e-6


def test_fields_that_a_configuration_leaves_out_have_the_llama_s_defaults(tmp_path: Path) -> None:
    tiny_llama(max_position_embeddings=2048).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    edit_config(tmp_path, remove=("max_position_embeddings", "rms_norm_eps", "eos_token_id", "tie_word_embeddings"))
    checkpoint = load_checkpoint(tmp_path)
    config = checkpoint.model.config
    assert (config.max_position_embeddings, config.rms_norm_eps) == (2048, 1e-6)
    assert checkpoint.generation_config.eos_token_id == 2
    assert not config.tie_word_embeddings


def test_the_rotary_buffers_of_old_files_are_passed_over(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(tmp_path, lambda tensors: tensors.update({name: torch.ones(4)}))
    assert load_checkpoint(tmp_path).form == "llama"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}},
            "rope_type 'proportional'; it must be one of",
        ),
        (
            {"rope_parameters": LONGROPE | {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}},
            "a short_factor equal to its long_factor",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"sliding_window": 16}, "sliding_window is 16"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config is set"),
        ({"hidden_act": "nope"}, "hidden_act is 'nope'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"hidden_size": 36}, "it must be [97, 36] (vocab_size, hidden_size of the configuration)"),
        ({"num_hidden_layers": 1}, "num_hidden_layers is 1; it must be 2, the layers of the tensors"),
        (
            {"attention_bias": True},
            "q_proj.bias is missing; give it with shape [32] (config field attention_bias is True)",
        ),
    ],
)
def test_a_field_that_cannot_be_carried_over_is_named(fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    edit_config(tmp_path, **fields)
    assert sentence in refusal(tmp_path)


def test_an_expert_layer_is_refused_by_its_tensor(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    name = "model.layers.0.block_sparse_moe.gate.weight"
    edit_tensors(tmp_path, lambda tensors: tensors.update({name: torch.ones(8, 32)}))
    assert f"tensor {name} is unexpected" in refusal(tmp_path)
