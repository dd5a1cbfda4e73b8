"""Adapters that PEFT made outside: each is merged so that the model computes PEFT's own forward, or is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from doge_common.errors import CheckpointError, OptionError
from doge_model import load_checkpoint
from tests.helpers.adapters import doge_of, llama_base, logits, lora_config, save_random_adapter
from tests.helpers.checkpoints import save_doge, save_june_2025, save_march_2025, save_tokenizer
from tests.helpers.models import relative_difference

KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "rsLoRA and DoRA": {"use_rslora": True, "use_dora": True},
    "patterns": {"rank_pattern": {"v_proj": 2, "layers.1.mlp.up_proj": 7}, "alpha_pattern": {"q_proj": 32}},
    "fan_in_fan_out": {"fan_in_fan_out": True},  # which PEFT turns off for Linear
    "biases of all": {"bias": "all"},
    "biases of its targets": {"bias": "lora_only"},
    "a bias of its own": {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]},
    "all linear": {"target_modules": "all-linear"},
    "a pattern of targets": {"target_modules": r".*\.self_attn\.\w+_proj"},
    "one layer": {"layers_to_transform": [1]},
    "left out": {"exclude_modules": ["k_proj"]},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "the head whole": {"modules_to_save": ["lm_head"]},
    "the embedding whole": {"modules_to_save": ["embed_tokens"]},
    "both whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "a norm whole": {"modules_to_save": ["norm"]},
    "the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "the head": {"target_modules": ["q_proj", "lm_head"]},
    "some tokens": {"trainable_token_indices": {"embed_tokens": [3, 5, 60]}},
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_a_llama_is_merged_as_peft_computes_it(kind: str, tied: bool, tmp_path: Path) -> None:
    llama = llama_base(tmp_path / "base", tie_word_embeddings=tied, attention_bias="bias" in kind)
    wrapped = save_random_adapter(llama, tmp_path / "adapter", tmp_path / "base", lora_config(**KINDS[kind]))
    merged = doge_of(tmp_path / "adapter").model
    assert relative_difference(logits(wrapped), logits(merged)) < 1e-5
    assert relative_difference(logits(doge_of(tmp_path / "base").model), logits(merged)) > 1e-3


@pytest.mark.filterwarnings("error::FutureWarning")
def test_peft_wraps_a_doge_without_a_warning_and_knows_what_it_recomputes(tmp_path: Path) -> None:
    model = save_doge(tmp_path / "base")
    save_tokenizer(tmp_path / "base")
    assert not model.is_gradient_checkpointing
    model.activation_checkpointing_enable()
    assert model.is_gradient_checkpointing and model.model.is_gradient_checkpointing
    wrapped = save_random_adapter(model, tmp_path / "adapter", tmp_path / "base")
    merged = doge_of(tmp_path / "adapter").model
    assert relative_difference(logits(wrapped), logits(merged)) < 1e-5


OTHERS: dict[str, Any] = {
    "IA3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": peft.LoHaConfig(r=2, target_modules=["q_proj", "up_proj"]),
    "LoKr": peft.LoKrConfig(r=2, target_modules=["q_proj", "up_proj"]),
    "VeRA": peft.VeraConfig(r=8, target_modules=["q_proj", "o_proj"]),
    "OFT": peft.OFTConfig(oft_block_size=4, r=0, target_modules=["q_proj", "up_proj"]),
    "AdaLoRA": peft.AdaLoraConfig(init_r=6, target_r=4, total_step=10, target_modules=["q_proj", "up_proj"]),
    "BOFT": peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj", "up_proj"]),
    "HRA": peft.HRAConfig(r=4, target_modules=["q_proj", "up_proj"]),
    "FourierFT": peft.FourierFTConfig(n_frequency=20, target_modules=["q_proj"]),
    "trainable tokens": peft.TrainableTokensConfig(token_indices=[3, 7], target_modules=["embed_tokens"]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_adapters_are_merged_by_the_same_way(kind: str, tmp_path: Path) -> None:
    llama = llama_base(tmp_path / "base")
    config = OTHERS[kind]
    config.task_type = "CAUSAL_LM"
    wrapped = save_random_adapter(llama, tmp_path / "adapter", tmp_path / "base", config)
    assert relative_difference(logits(wrapped), logits(doge_of(tmp_path / "adapter").model)) < 1e-5


FORMS: dict[str, Callable[..., Any]] = {"native": save_doge, "june 2025": save_june_2025, "march 2025": save_march_2025}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("more", [["dt_proj"], ["router_gate", "up_embed"]], ids=["mask", "experts"])
def test_an_adapter_of_a_doge_is_merged_in_every_form(form: str, more: list[str], tmp_path: Path) -> None:
    experts = {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 4} if "router_gate" in more else {}
    FORMS[form](tmp_path / "base", **experts)
    config = lora_config(target_modules=["q_proj", "v_proj", "down_proj", *more])
    wrapped = save_random_adapter(doge_of(tmp_path / "base").model, tmp_path / "adapter", tmp_path / "base", config)
    if form == "march 2025":
        path = tmp_path / "adapter/adapter_model.safetensors"
        save_file({name.replace(".mlp.", ".feed_forward."): value for name, value in load_file(path).items()}, path)
    assert relative_difference(logits(wrapped), logits(doge_of(tmp_path / "adapter").model)) < 1e-5


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("whole", [[], ["embed_tokens", "lm_head"]], ids=["saved beside", "trained whole"])
def test_a_vocabulary_that_grew_is_grown_again(tied: bool, whole: list[str], tmp_path: Path) -> None:
    llama = llama_base(tmp_path / "base", tie_word_embeddings=tied)
    rows = llama.config.vocab_size
    llama.resize_token_embeddings(rows + 5)
    config = lora_config(modules_to_save=whole or None)
    config.base_model_name_or_path = str(tmp_path / "base")  # by which PEFT finds that it grew
    wrapped = save_random_adapter(llama, tmp_path / "adapter", tmp_path / "base", config)
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    model = doge_of(tmp_path / "adapter").model
    assert model.config.vocab_size == rows + 5
    assert relative_difference(logits(wrapped), logits(model)) < 1e-5


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_single_tokens_of_a_vocabulary_that_grew_are_merged(tied: bool, tmp_path: Path) -> None:
    llama = llama_base(tmp_path / "base", tie_word_embeddings=tied)
    rows = llama.config.vocab_size
    llama.resize_token_embeddings(rows + 5)
    llama.name_or_path = str(tmp_path / "base")  # by which PEFT finds that it grew
    config = lora_config(trainable_token_indices=[3, rows + 1])
    wrapped = save_random_adapter(llama, tmp_path / "adapter", tmp_path / "base", config)
    assert relative_difference(logits(wrapped), logits(doge_of(tmp_path / "adapter").model)) < 1e-5
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(CheckpointError, match=f"trains token {rows + 1}, but the base has {rows} tokens; if its voc"):
        doge_of(tmp_path / "adapter")


def test_a_random_pissa_is_merged_once_its_start_is_subtracted(tmp_path: Path) -> None:
    llama = llama_base(tmp_path / "base")
    wrapped = peft.get_peft_model(llama, lora_config(init_lora_weights="pissa_niter_4")).eval()
    wrapped.peft_config["default"].init_lora_weights = True  # as PEFT's guide says, so that it loads on any base
    wrapped.save_pretrained(tmp_path / "start")
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    wrapped.peft_config["default"].init_lora_weights = "pissa_niter_4"
    wrapped.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    merged = load_checkpoint(tmp_path / "base", adapter=tmp_path / "adapter").model
    assert relative_difference(logits(wrapped), logits(merged)) < 1e-4


def test_a_merged_head_is_saved_and_loads_as_it_is(tmp_path: Path) -> None:
    llama = llama_base(tmp_path / "base", tie_word_embeddings=True)
    config = lora_config(modules_to_save=["lm_head"])
    wrapped = save_random_adapter(llama, tmp_path / "adapter", tmp_path / "base", config)
    doge_of(tmp_path / "adapter").model.save_pretrained(tmp_path / "merged")
    assert json.loads((tmp_path / "merged/config.json").read_text())["tie_word_embeddings"] is False
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", attn_implementation="eager").eval()
    assert relative_difference(logits(wrapped), logits(plain)) < 1e-5


def test_a_model_that_was_tied_stays_tied_where_its_head_is_the_embedding(tmp_path: Path) -> None:
    llama = llama_base(tmp_path / "base", tie_word_embeddings=True)
    save_random_adapter(llama, tmp_path / "adapter", tmp_path / "base")
    model = doge_of(tmp_path / "adapter").model
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_adapter_on_an_adapter_is_merged_in_order(tmp_path: Path) -> None:
    llama = llama_base(tmp_path / "base")
    save_random_adapter(llama, tmp_path / "first", tmp_path / "base")
    merged = doge_of(tmp_path / "first").model
    wrapped = save_random_adapter(merged, tmp_path / "second", tmp_path / "first", seed=2)
    assert relative_difference(logits(wrapped), logits(doge_of(tmp_path / "second").model)) < 1e-5


def test_an_adapter_in_bfloat16_is_merged_in_float32(tmp_path: Path) -> None:
    llama = llama_base(tmp_path / "base")
    wrapped = save_random_adapter(llama, tmp_path / "adapter", tmp_path / "base")
    path = tmp_path / "adapter/adapter_model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16().float()
    assert relative_difference(logits(wrapped), logits(doge_of(tmp_path / "adapter").model)) < 1e-5


def test_the_adapter_brings_its_tokenizer(tmp_path: Path) -> None:
    llama = llama_base(tmp_path / "base")
    save_random_adapter(llama, tmp_path / "adapter", tmp_path / "base")
    tokenizer = doge_of(tmp_path / "base").tokenizer
    assert tokenizer is not None
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path / "adapter")
    found = doge_of(tmp_path / "adapter").tokenizer
    assert found is not None
    assert found.chat_template == "{{ messages[0].content }}"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A plain one, beside its base."""
    save_random_adapter(llama_base(tmp_path / "base"), tmp_path / "adapter", tmp_path / "base")
    return tmp_path / "adapter"


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "prompt tuning": (
        {"peft_type": "PROMPT_TUNING"},
        "peft_type is 'PROMPT_TUNING'; it must be one of the kinds tested here: LORA, ",
    ),
    "random PiSSA": (
        {"init_lora_weights": "pissa_niter_4"},
        "init_lora_weights is 'pissa_niter_4', with which an adapter is not merged, as PEFT takes another random part "
        "out of the base at each load; save it in PEFT by save_pretrained with path_initial_model_for_weight_conv",
    ),
    "CorDA": ({"init_lora_weights": "corda"}, "depends on data that is not in the folder; save it in PEFT by"),
    "LoRA-GA": (
        {"init_lora_weights": "lora_ga"},
        "depends on gradients that are not in the folder; save it in PEFT by",
    ),
    "LoftQ": ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "merge it where it was trained"),
    "classifier": ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'; it must be 'CAUSAL_LM'"),
    "import": ({"megatron_config": {"a": 1}}, "megatron_config is set; it must be null, as it names a module"),
    "aLoRA": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is set"),
    "layers": ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication is set"),
    "no base": ({"base_model_name_or_path": None}, "names no base; give it: doge-export BASE --adapter DIR"),
    "gone base": ({"base_model_name_or_path": "/gone/base"}, "was trained on /gone/base, which is not here; give its"),
    "rank": ({"r": 8}, "lora_A.weight of shape [4, 64]; on this base it must be [8, 64]"),
    "fewer targets": ({"target_modules": ["q_proj"]}, "which fits no module of this base"),
    "a field of another PEFT": (
        {"use_future_scaling": True},
        "has use_future_scaling in adapter_config.json, which this version of PEFT does not know; update PEFT",
    ),
    "more targets": ({"modules_to_save": ["lm_head"]}, "lacks base_model.model.lm_head.weight, which its"),
    "bias": ({"lora_bias": True}, "lacks base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias"),
    "other names": ({"target_modules": ["c_attn"]}, "does not fit the base: Target modules"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_an_adapter_that_cannot_be_right_is_refused_in_a_sentence(fault: str, adapter: Path) -> None:
    fields, words = REFUSED[fault]
    edit(adapter, **fields)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(adapter)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_fields_that_are_not_set_and_unknown_are_passed_over(adapter: Path) -> None:
    edit(adapter, use_future_scaling=False, future_config=None)
    with pytest.warns(UserWarning, match="use_future_scaling"):
        load_checkpoint(adapter)


def test_an_adapter_of_other_sizes_or_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    llama_base(tmp_path / "wider", intermediate_size=96)
    edit(adapter, base_model_name_or_path="owner/other")
    with pytest.raises(CheckpointError, match=r"of shape \[4, 64\]; on this base it must be \[4, 96\]"):
        load_checkpoint(tmp_path / "wider", adapter=adapter)
    edit(adapter, base_model_name_or_path=str(tmp_path / "base"))
    with pytest.raises(CheckpointError, match=f"was trained on {tmp_path}/base, not on {tmp_path}/wider; give that"):
        load_checkpoint(tmp_path / "wider", adapter=adapter)
    with pytest.raises(CheckpointError, match="was trained on a/b, not on c/d; give that base"):
        edit(adapter, base_model_name_or_path="a/b")
        load_checkpoint("c/d", adapter=adapter)


def test_files_that_are_missing_cut_or_pickles_are_refused(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        load_checkpoint(adapter)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is missing; give a whole adapter folder"):
        load_checkpoint(adapter)
    (adapter / "adapter_model.bin").write_bytes(b"\x80")
    with pytest.raises(CheckpointError, match=r"has only adapter_model\.bin, a pickle, which can run code"):
        load_checkpoint(adapter)


def test_numbers_that_are_none_are_refused(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file(tensors | {name: torch.full_like(tensors[name], torch.nan)}, path)
    with pytest.raises(CheckpointError, match=f"tensor {name} holds values that are not finite"):
        load_checkpoint(adapter)


def test_a_folder_without_an_adapter_names_the_one_within(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no adapter; its folder adapter is one, give that"):
        load_checkpoint(tmp_path / "base", adapter=tmp_path)
    with pytest.raises(CheckpointError, match=r"is no adapter, for it has no adapter_config\.json"):
        load_checkpoint(tmp_path / "base", adapter=tmp_path / "base")


def test_an_adapter_whose_base_is_itself_ends(adapter: Path) -> None:
    edit(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(CheckpointError, match="is an adapter whose base is itself"):
        load_checkpoint(adapter)


def test_without_peft_the_command_that_installs_it_is_named(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doge_model.adapters.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"an adapter needs peft: pip install -c constraints\.txt"):
        load_checkpoint(adapter)


ODD: dict[str, dict[str, Any]] = {
    "no targets": {"target_modules": None},
    "a text as rank": {"r": "four"},
    "an unknown start": {"init_lora_weights": "magic"},
    "a broken pattern": {"target_modules": "("},
    "layers out of range": {"layers_to_transform": [99]},
}


@pytest.mark.parametrize("fault", ODD)
def test_a_configuration_that_peft_cannot_use_is_one_sentence(fault: str, adapter: Path) -> None:
    edit(adapter, **ODD[fault])
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(adapter)
    assert "\n" not in str(refusal.value)
