"""Options and data that cannot train are refused in one sentence, before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.training import (
    QUIET,
    conversations,
    make_tokenizer,
    preferences,
    pretrain_options,
    run_pretrain,
    run_stage,
    write_jsonl,
)

pytestmark = pytest.mark.slow

TUNING = QUIET | {"max_length": 64, "per_device_train_batch_size": 4, "save_strategy": "no"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def dense(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_pretrain(tokenizer, tmp_path_factory.mktemp("dense"), max_steps=2)


def test_a_batch_that_does_not_divide_is_refused(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_pretrain(tokenizer, tmp_path, per_device_train_batch_size=3)
    assert stop.value.code == 2
    assert "batch_tokens is 4 sequences; it must be a multiple of 3" in capsys.readouterr().err


def test_two_names_of_one_option_must_not_differ(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_pretrain(tokenizer, tmp_path, gradient_checkpointing=True)
    assert (
        "gradient_checkpointing is True; it must be left out, as activation_checkpointing is False"
        in capsys.readouterr().err
    )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a negative batch": ({"batch_tokens": -256}, "batch_tokens is -256; it must be at least 1"),
    "no batch": ({"batch_tokens": 0}, "batch_tokens is 0"),
    "a batch of rows of any length": ({"max_length": None}, "max_length is null; give a number of tokens"),
    "evaluation on nothing": ({"eval_strategy": "steps"}, "eval"),
    "no epochs": ({"max_steps": -1, "num_train_epochs": 0}, "num_train_epochs is 0"),
    "no sequences": ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; it must be at least 1"),
    "a seed below 0": ({"seed": -1}, "seed is -1; it must be at least 0"),
    "a learning rate below 0": ({"learning_rate": -1}, "Invalid learning rate: -1"),
    "a schedule without its numbers": ({"lr_scheduler_type": "warmup_stable_decay"}, "'num_decay_steps'"),
    "a board that is not installed": ({"report_to": "wandb"}, "pip install wandb"),
    "rows that a Doge cannot tell apart": (
        {"packing_strategy": "bfd"},
        "packing_strategy is 'bfd' and padding_free False; they must be 'wrapped' and False",
    ),
    "a file to write into": ({"output_dir": __file__}, "is no folder that can be written to"),
    "records held out to the last one": ({"eval_share": 0.999}, "no record is left to train on"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_train_is_refused_in_one_sentence(
    case: str, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, words = REFUSED[case]
    with pytest.raises(SystemExit) as stop:
        run_stage("pretrain", **pretrain_options(tokenizer, tmp_path / "run") | options)
    lines = capsys.readouterr().err.strip().splitlines()
    assert (stop.value.code, words in lines[-1]) in ((1, True), (2, True)), lines


def test_answers_beyond_max_length_leave_nothing_to_learn(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chats = write_jsonl(tmp_path / "chats.jsonl", conversations(4))
    with pytest.raises(SystemExit):
        run_stage(
            "sft", **TUNING | {"max_length": 4}, model_name_or_path=dense, datasets=[chats], output_dir=tmp_path / "out"
        )
    assert "no record has anything to learn within max_length (4)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("num_experts", -4), ("num_experts_per_tok", 99), ("router_aux_loss_coef", -1.0)]
)
def test_impossible_experts_are_refused(name: str, value: float, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_stage("upcycle", model_name_or_path="none", output_dir="none", **{"num_experts": 16, name: value})
    assert f"{name} is {value}" in capsys.readouterr().err


def test_values_of_a_recipe_are_held_to_their_choices_too(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("save_dtype: float16\n")
    with pytest.raises(SystemExit):
        run_pretrain(tokenizer, tmp_path / "run", config=recipe)
    assert "save_dtype is 'float16'; it must be one of float32, bfloat16" in capsys.readouterr().err


PREFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "a negative beta": ({"beta": -1}, "beta is -1.0; it must be above 0"),
    "an unknown loss": ({"loss_type": "foo"}, "Unknown loss type: foo"),
}


@pytest.mark.parametrize("case", PREFERENCES)
def test_preferences_that_cannot_be_learned_are_refused(
    case: str, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, words = PREFERENCES[case]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", preferences(4))
    with pytest.raises(SystemExit):
        run_stage("dpo", **TUNING | options, model_name_or_path=dense, datasets=[pairs], output_dir=tmp_path / "out")
    assert words in capsys.readouterr().err
