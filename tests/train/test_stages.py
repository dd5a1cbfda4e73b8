"""The stages one after the other, the promise of each, and the export at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch._dynamo.utils import counters
from trl import SFTTrainer

import doge_export
from doge_export.export.pipeline import export
from doge_export.options import ExportOptions
from doge_model import load_checkpoint
from doge_model.routing import expert_load, load_balancing_loss
from tests.helpers.models import random_ids, torch_logits
from tests.helpers.training import (
    QUIET,
    arguments,
    conversations,
    logged,
    make_tokenizer,
    preferences,
    run_pretrain,
    run_stage,
    write_jsonl,
)
from train.stages.sft import FineTuningConfig
from train.trainers import DogeSFTTrainer

pytestmark = pytest.mark.slow

COMPUTE_LOSS = (DogeSFTTrainer.compute_loss, SFTTrainer.compute_loss)
TUNING = QUIET | {"max_length": 64, "per_device_train_batch_size": 4, "save_strategy": "no"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def dense(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_pretrain(tokenizer, tmp_path_factory.mktemp("dense"), max_steps=30)


@pytest.fixture(scope="module")
def experts(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    run_stage("upcycle", model_name_or_path=dense, output_dir=folder, num_experts=16, num_experts_per_tok=2)
    return folder


@pytest.fixture(scope="module")
def tuned(experts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    chats = write_jsonl(folder / "chats.jsonl", conversations())
    options = TUNING | {"datasets": [chats], "learning_rate": 1e-2, "num_train_epochs": 20}
    run_stage("sft", model_name_or_path=experts, output_dir=folder, **options)
    return folder


def test_from_text_to_an_exported_model_that_talks(tuned: Path, tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", preferences())
    options = TUNING | {"learning_rate": 1e-4, "datasets": [pairs], "output_dir": tmp_path / "dpo"}
    run_stage("dpo", model_name_or_path=tuned, **options)
    assert logged(tuned)[-1] < 0.8 * logged(tuned)[0]
    assert logged(tmp_path / "dpo", "rewards/accuracies")[-1] == 1.0
    export(ExportOptions(str(tmp_path / "dpo"), tmp_path / "int8", "int8"))
    model = doge_export.load(tmp_path / "int8")
    answer = model.chat([{"role": "user", "content": "What comes after 3?"}], max_new_tokens=20, temperature=0).text
    assert answer.startswith("After")


def test_upcycling_keeps_the_function(dense: Path, experts: Path) -> None:
    ids = random_ids(40, vocab_size=400)
    before, after = load_checkpoint(dense).model, load_checkpoint(experts).model
    assert after.config.is_moe
    assert (torch_logits(before, ids) == torch_logits(after, ids)).all()


def test_the_experts_learn_and_their_usage_is_logged(experts: Path, tuned: Path) -> None:
    before, after = (load_checkpoint(path).model for path in (experts, tuned))
    for name in ("router_gate", "down_embed", "up_embed"):
        weight = f"model.layers.0.mlp.{name}.weight"
        assert not torch.equal(before.get_parameter(weight), after.get_parameter(weight)), name
    assert 0 < logged(tuned, "experts_used")[-1] <= 1
    assert logged(tuned, "aux_loss")[0] == pytest.approx(2, rel=0.3)  # 2 experts a token, not far from evenly used


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_loss_of_a_step_has_the_load_balancing_loss_of_the_model_s_own_forward(
    experts: Path, tmp_path: Path, checkpointing: bool
) -> None:
    checkpoint = load_checkpoint(experts)
    fields: dict[str, Any] = {
        "report_to": "none",
        "per_device_train_batch_size": 2,
        "router_aux_loss_coef": 0.5,
        "bf16": False,
    }
    config = FineTuningConfig(str(tmp_path), activation_checkpointing=checkpointing, **fields)
    trainer = DogeSFTTrainer(
        model=checkpoint.model,
        args=config,
        train_dataset=Dataset.from_list(conversations(2)),
        processing_class=checkpoint.tokenizer,
    )
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model.train(), dict(inputs))
    loss.backward()
    out = load_checkpoint(experts).model(**inputs, output_router_logits=True)
    balance = load_balancing_loss(*expert_load(out.router_logits, 2, inputs["attention_mask"]))
    alone = load_checkpoint(experts).model(**inputs).loss
    assert loss.item() == pytest.approx(alone.item() + 0.5 * balance.item(), rel=1e-5)
    assert trainer.model.model.layers[1].mlp.router_gate.weight.grad.abs().max() > 0


def test_only_the_answers_are_learned(tuned: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tuned)
    trainer = DogeSFTTrainer(
        model=checkpoint.model,
        args=FineTuningConfig(str(tmp_path), report_to="none", bf16=False),
        train_dataset=Dataset.from_list(conversations(1)),
        processing_class=checkpoint.tokenizer,
    )
    row = trainer.train_dataset[0]
    learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer.decode(learned) == "After 0 comes 1.<|end_of_text|>"


def test_weight_decay_leaves_vectors_alone(dense: Path, tmp_path: Path) -> None:
    model = load_checkpoint(dense).model
    names = DogeSFTTrainer.__new__(DogeSFTTrainer).get_decay_parameter_names(model)
    kept = {name.split(".")[-1] for name, _ in model.named_parameters() if name not in names}
    assert kept == {"A", "input_residual", "post_attention_residual", "weight"}
    assert "model.layers.0.self_attn.q_norm.weight" not in names
    assert "model.layers.0.self_attn.q_proj.weight" in names


def test_bfloat16_and_activation_checkpointing_train_to_nearly_the_same_losses(tokenizer: Path, tmp_path: Path) -> None:
    plain = logged(run_pretrain(tokenizer, tmp_path / "plain"))
    checkpointed = logged(run_pretrain(tokenizer, tmp_path / "checkpointed", activation_checkpointing=True))
    rounded = logged(run_pretrain(tokenizer, tmp_path / "rounded", bf16=True, save_dtype="bfloat16"))
    assert checkpointed == plain
    assert rounded == pytest.approx(plain, rel=2e-3)
    assert rounded != plain
    size = (tmp_path / "plain" / "model.safetensors").stat().st_size
    assert (tmp_path / "rounded" / "model.safetensors").stat().st_size == pytest.approx(size / 2, rel=0.05)


def test_torch_compile_makes_one_graph_of_all_blocks_and_takes_the_same_steps(tokenizer: Path, tmp_path: Path) -> None:
    plain = logged(run_pretrain(tokenizer, tmp_path / "plain"))
    torch._dynamo.reset()
    counters.clear()
    compiled = run_pretrain(tokenizer, tmp_path / "compiled", torch_compile_backend="eager")
    assert logged(compiled) == plain
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.parametrize(("per_device", "accumulation"), [(1, 4), (2, 2), (4, 1)])
def test_a_step_sees_the_same_tokens_whatever_the_per_device_batch(
    tokenizer: Path, tmp_path: Path, per_device: int, accumulation: int
) -> None:
    folder = run_pretrain(tokenizer, tmp_path / "run", per_device_train_batch_size=per_device, max_steps=2)
    assert logged(folder, "num_tokens") == [256, 512]
    reference = run_pretrain(tokenizer, tmp_path / "reference", max_steps=2)
    assert logged(folder) == pytest.approx(logged(reference), rel=1e-5)


def test_an_epoch_is_whole_batches_and_leaves_out_other_records_each_time(dense: Path, tmp_path: Path) -> None:
    checkpoint, rows = load_checkpoint(dense), Dataset.from_list(conversations(10))
    config = FineTuningConfig(str(tmp_path), batch_tokens=256, max_length=64, per_device_train_batch_size=2)
    trainer = DogeSFTTrainer(
        model=checkpoint.model, args=config, train_dataset=rows, processing_class=checkpoint.tokenizer
    )
    epochs = [list(trainer._get_train_sampler() or ()) for _ in range(2)]
    assert [len(set(epoch)) for epoch in epochs] == [8, 8]
    assert set(epochs[0]) != set(epochs[1])


def test_tensorboard_has_the_curves(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    run_pretrain(tokenizer, tmp_path / "run", max_steps=2, report_to="tensorboard")
    assert list((tmp_path / "board").glob("events.out.tfevents.*"))


def test_two_processes_have_the_losses_of_one(experts: Path, tmp_path: Path) -> None:
    chats = write_jsonl(tmp_path / "chats.jsonl", conversations(20))  # two batches and a half
    options = TUNING | {"batch_tokens": 8 * 64, "max_steps": 4, "model_name_or_path": experts, "datasets": [chats]}
    run_stage("sft", **options, output_dir=tmp_path / "one")
    options |= {"output_dir": tmp_path / "two", "save_strategy": "steps", "save_steps": 4}
    launch = ["accelerate.commands.launch", "--config_file", "train/recipes/accelerate/ddp_cpu.yaml"]
    words = [sys.executable, "-m", *launch, "-m", "train.sft", *arguments(options)]
    subprocess.run(words, check=True, timeout=300)
    ranks = (tmp_path / "two/checkpoint-4").glob("rng_state_*.pth")  # each process leaves its own
    assert sorted(path.name for path in ranks) == ["rng_state_0.pth", "rng_state_1.pth"]
    for figure in ("loss", "aux_loss", "grad_norm", "num_tokens", "experts_used", "experts_evenness"):
        assert logged(tmp_path / "two", figure) == pytest.approx(logged(tmp_path / "one", figure), rel=1e-4), figure
    weights = [load_checkpoint(tmp_path / run).model.model.embed_tokens.weight for run in ("one", "two")]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_on_a_cpu_the_model_s_own_loss_is_that_of_trl_s_fused_output_matrix(dense: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(dense)
    config = FineTuningConfig(str(tmp_path), report_to="none", bf16=False)
    rows = Dataset.from_list(conversations(3))
    trainer = DogeSFTTrainer(
        model=checkpoint.model, args=config, train_dataset=rows, processing_class=checkpoint.tokenizer
    )
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    losses = [compute(trainer, trainer.model, dict(inputs)).item() for compute in COMPUTE_LOSS]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
