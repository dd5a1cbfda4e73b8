"""The figures that describe a checkpoint, against their definitions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from doge_common.errors import OptionError
from doge_model import load_checkpoint
from tests.helpers.training import ALICE, conversations, make_tokenizer, preferences, run_pretrain, write_jsonl
from train.arguments import ModelArguments
from train.data import DataArguments, Source
from train.stage import load_model
from train.stages.measure import MeasureArguments, check_windows, encode, measure

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return run_pretrain(make_tokenizer(folder / "tokenizer"), folder / "dense", max_steps=1, max_length=128)


def figures(model: Path, source: Path, **options: Any) -> dict[str, Any]:
    return measure(ModelArguments(str(model)), DataArguments([Source(str(source))]), MeasureArguments(**options))


def test_perplexity_is_exp_of_the_loss_of_the_model_s_own_forward(model: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "one.jsonl", [{"text": "Alice was beginning to get very tired."}])
    checkpoint = load_checkpoint(model)
    assert checkpoint.tokenizer is not None
    ids, labels = encode(checkpoint.tokenizer, {"text": "Alice was beginning to get very tired."}, 100)
    with torch.inference_mode():
        expected = math.exp(checkpoint.model(ids, labels=labels).loss.item())
    assert figures(model, source)["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_perplexity_of_conversations_is_that_of_the_answers(model: Path, tmp_path: Path) -> None:
    result = figures(model, write_jsonl(tmp_path / "chats.jsonl", conversations(2)), kind="conversation")
    tokenizer = load_checkpoint(model).tokenizer
    assert tokenizer is not None
    answers = [tokenizer(f"After {i} comes {i + 1}.", add_special_tokens=False)["input_ids"] for i in range(2)]
    assert result["tokens"] == sum(map(len, answers)) + 2  # and the end of each turn


def test_a_window_that_evicts_nothing_changes_nothing_and_a_narrow_one_does(model: Path) -> None:
    result = figures(model, ALICE, max_records=3, keep_window_sizes=[128, 4])
    assert result["perplexity_with_window_128"] == pytest.approx(result["perplexity"], rel=1e-5)
    assert result["perplexity_with_window_4"] != pytest.approx(result["perplexity"], rel=1e-5)


def test_a_window_that_the_sinks_would_fill_is_refused() -> None:
    check_windows([5], keep_sinks=4)
    with pytest.raises(
        OptionError, match=r"keep_window_sizes are \[9, 4\]; each must be at least 5, above the model's"
    ):
        check_windows([9, 4], keep_sinks=4)


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_the_attention_that_was_asked_for_computes(model: Path, name: str) -> None:
    loaded, _ = load_model(ModelArguments(str(model), attn_implementation=name))
    weights = loaded(torch.tensor([[1, 2]]), output_attentions=True).attentions
    assert bool(weights) == (name == "eager")  # the fused kernel returns none


def test_the_mask_of_a_new_model_is_one_everywhere(model: Path, tmp_path: Path) -> None:
    result = figures(model, ALICE, max_records=3)
    assert len(result["A"]) == 2
    assert torch.tensor(result["dt_1_50_99_percent"]).sub(1).abs().max() < 0.05


def test_without_the_mask_a_is_zero_for_one_figure_alone(model: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(model)
    assert checkpoint.tokenizer is not None
    for layer in range(2):
        checkpoint.model.get_parameter(f"model.layers.{layer}.self_attn.A").data.fill_(2.0)
    checkpoint.model.save_pretrained(tmp_path / "masked")
    checkpoint.tokenizer.save_pretrained(tmp_path / "masked")
    result, plain = (figures(folder, ALICE, max_records=3) for folder in (tmp_path / "masked", model))
    assert result["A"] == [[2.0, 2.0]] * 2
    assert result["perplexity_without_mask"] != pytest.approx(result["perplexity"], rel=1e-6)
    assert result["perplexity_without_mask"] == pytest.approx(plain["perplexity_without_mask"], rel=1e-6)


def test_preferences_count_the_pairs_whose_chosen_answer_is_likelier(model: Path, tmp_path: Path) -> None:
    pairs = preferences(4)
    swapped = [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs]
    results = [
        figures(model, write_jsonl(tmp_path / f"{name}.jsonl", records), kind="preference")
        for name, records in (("as", pairs), ("swapped", swapped))
    ]
    assert results[0]["pairs"] == 4
    assert results[0]["chosen_likelier"] == pytest.approx(1 - results[1]["chosen_likelier"])


def test_samples_go_on_with_the_prompts(model: Path) -> None:
    result = figures(model, ALICE, max_records=1, prompts=["Alice"], max_new_tokens=5)
    assert result["samples"][0]["prompt"] == "Alice"
    assert result == figures(model, ALICE, max_records=1, prompts=["Alice"], max_new_tokens=5)
