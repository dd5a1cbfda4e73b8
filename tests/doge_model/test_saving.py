"""A saved model loads in plain transformers with the same logits, or transformers refuses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from doge_common.errors import CheckpointError, OptionError
from doge_model import DogeForCausalLM, load_checkpoint
from doge_model.llama import FILLS
from tests.helpers.checkpoints import edit_config, save_doge, save_june_2025, tiny_llama
from tests.helpers.models import FORMS, random_ids, relative_difference, torch_logits
from tests.helpers.plain_transformers import plain_logits

pytestmark = pytest.mark.slow

IDS = random_ids(30)  # within the context of every model below
LLAMAS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "llama, biases": {"attention_bias": True, "mlp_bias": True},
    "llama, rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}, "head_dim": 16},
}
NATIVE = {name: fields for name, fields in FORMS.items() if fields.get("qk_norm", True) and "is_moe" not in fields}
REFUSED: dict[str, dict[str, Any]] = {
    "small-doge": FORMS["small-doge"],
    "experts": FORMS["experts"],
    "a window that evicts": {"keep_window_size": 16},
}


def lifted(folder: Path, **fields: Any) -> DogeForCausalLM:
    tiny_llama(**fields).save_pretrained(folder)
    return load_checkpoint(folder).model


def model_type(folder: Path) -> str:
    found: str = json.loads((folder / "config.json").read_text())["model_type"]
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, DogeForCausalLM, Any]]:
    """Every model as saved, and as plain transformers loads it in a process of its own."""
    folder = tmp_path_factory.mktemp("saved")
    models: dict[str, DogeForCausalLM] = {}
    for name, fields in LLAMAS.items():
        models[name] = lifted(folder / "original", **fields)
        models[name].save_pretrained(folder / name)
    for name, fields in (NATIVE | REFUSED).items():
        models[name] = save_doge(folder / name, **fields)
    plain = plain_logits([folder / name for name in models], IDS, folder / "plain")
    return {name: (folder / name, model, plain[folder / name]) for name, model in models.items()}


@pytest.mark.parametrize("name", [*LLAMAS, *NATIVE])
def test_plain_transformers_loads_it_with_the_same_logits(name: str, saved: Any) -> None:
    folder, model, plain = saved[name]
    assert model_type(folder) == ("llama" if name in LLAMAS else "doge")
    assert relative_difference(torch_logits(model, IDS), plain) < 2e-6


@pytest.mark.parametrize("name", REFUSED)
def test_plain_transformers_refuses_a_model_that_it_would_compute_otherwise(name: str, saved: Any) -> None:
    _, _, plain = saved[name]
    assert "The checkpoint you are trying to load has model type `doge_model`" in plain


@pytest.mark.parametrize("name", [*LLAMAS, *NATIVE, *REFUSED])
def test_our_loader_takes_every_form_that_is_saved(name: str, saved: Any) -> None:
    folder, model, _ = saved[name]
    assert relative_difference(torch_logits(model, IDS), torch_logits(load_checkpoint(folder).model, IDS)) < 2e-6


@pytest.mark.parametrize("name", REFUSED)
def test_auto_classes_know_the_type_once_this_package_is_imported(name: str, saved: Any) -> None:
    folder, model, _ = saved[name]
    again = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    assert isinstance(again, DogeForCausalLM)
    assert relative_difference(torch_logits(model, IDS), torch_logits(again, IDS)) < 2e-6


@pytest.mark.parametrize("end", [end for end in FILLS if ".dt_proj." not in end])
def test_a_llama_that_learned_its_mask_or_residuals_is_none_any_more(end: str, tmp_path: Path) -> None:
    model = lifted(tmp_path / "llama")
    next(parameter for name, parameter in model.named_parameters() if name.endswith(end)).data[-1] += 1e-3
    model.save_pretrained(tmp_path / "tuned")
    assert model_type(tmp_path / "tuned") == "doge_model"
    assert (
        relative_difference(torch_logits(model, IDS), torch_logits(load_checkpoint(tmp_path / "tuned").model, IDS)) == 0
    )


def test_transformers_4_finds_the_rope_of_a_llama(tmp_path: Path) -> None:
    lifted(tmp_path, **LLAMAS["llama, rope"]).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert (fields["rope_theta"], fields["rope_scaling"]) == (5e5, {"rope_type": "linear", "factor": 2.0})


def test_checkpoints_that_earlier_versions_saved_load_as_before(tmp_path: Path) -> None:
    model = lifted(tmp_path / "llama")
    model.config.keep_window_size += 1  # as no Llama: with all tensors
    model.save_pretrained(tmp_path / "earlier")
    edit_config(tmp_path / "earlier", model_type="doge", keep_window_size=64)
    loaded = load_checkpoint(tmp_path / "earlier").model
    assert relative_difference(torch_logits(model, IDS), torch_logits(loaded, IDS)) == 0


def test_our_class_draws_no_tensor_at_random(tmp_path: Path) -> None:
    save_june_2025(tmp_path / "june", num_mask_heads=2)  # its config.json does not say that it has no qk norm
    with pytest.raises(
        CheckpointError, match=r"k_norm\.weight is missing; give it, or give the folder to load_checkpoint"
    ):
        DogeForCausalLM.from_pretrained(tmp_path / "june")
    tiny_llama().save_pretrained(tmp_path / "llama")
    with pytest.raises(CheckpointError, match="model_type is 'llama'; it must be 'doge_model' or 'doge'"):
        DogeForCausalLM.from_pretrained(tmp_path / "llama")


def test_an_upload_waits_for_the_whole_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="push_to_hub is True"):
        lifted(tmp_path).save_pretrained(tmp_path, push_to_hub=True)


def test_a_save_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = lifted(tmp_path / "llama")
    names = list(model.state_dict())
    model.save_pretrained(tmp_path / "saved")
    assert (list(model.state_dict()), model.config.model_type) == (names, "doge_model")
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.parameters(), load_checkpoint(tmp_path / "saved").model.parameters(), strict=True)
    )
