"""Going on from a checkpoint: as if the run had never ended, or not at all."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from doge_model import load_checkpoint
from tests.helpers.training import arguments, logged, make_tokenizer, pretrain_options, run_pretrain, run_stage
from train.stage import incomplete, last_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


WSD = {
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": {"num_decay_steps": 2, "decay_type": "linear"},
    "warmup_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
}


def test_a_stable_checkpoint_can_be_branched_from(tokenizer: Path, tmp_path: Path) -> None:
    run = run_pretrain(tokenizer, tmp_path / "run", **WSD, max_steps=8)
    whole = run_pretrain(tokenizer, tmp_path / "whole", **WSD, max_steps=6)
    branch = {"resume_from_checkpoint": run / "checkpoint-4", "max_steps": 6}
    branched = run_pretrain(tokenizer, tmp_path / "branch", **WSD, **branch)
    assert logged(branched, "learning_rate") == logged(whole, "learning_rate") == [0, 0.005, 0.01, 0.01, 0.01, 0.005]
    assert logged(branched) == logged(whole)
    assert logged(run, "learning_rate")[:6] == [0, 0.005, 0.01, 0.01, 0.01, 0.01]


def test_a_killed_run_goes_on_as_if_it_had_not_been(tokenizer: Path, tmp_path: Path) -> None:
    expected = run_pretrain(tokenizer, tmp_path / "whole", **WSD, max_steps=40)
    options = pretrain_options(tokenizer, tmp_path / "killed", **WSD, max_steps=40)
    process = subprocess.Popen([sys.executable, "-m", "train.pretrain", *arguments(options)], stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "checkpoint-6").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = max(int(path.name.split("-")[1]) for path in (tmp_path / "killed").glob("checkpoint-*"))
    assert left < 40
    (tmp_path / "killed" / f"checkpoint-{left}" / "trainer_state.json").unlink(missing_ok=True)  # killed while saving
    run_stage("pretrain", **options, resume_from_checkpoint="last")
    assert logged(tmp_path / "killed") == logged(expected)
    weights = [load_checkpoint(folder).model.state_dict() for folder in (expected, tmp_path / "killed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_after_a_resume_tokens_are_counted_on(tokenizer: Path, tmp_path: Path) -> None:
    run_pretrain(tokenizer, tmp_path, **WSD, max_steps=4)
    run_pretrain(tokenizer, tmp_path, **WSD, max_steps=6, resume_from_checkpoint="last")
    assert logged(tmp_path, "num_tokens") == [256 * step for step in range(1, 7)]


DAMAGED = {
    "model.safetensors": "model.safetensors or a shard of it is missing or damaged",
    "optimizer.pt": "optimizer.pt is missing (save_only_model leaves it out) or damaged",
    "scheduler.pt": "scheduler.pt is missing",
    "rng_state.pth": "rng_state.pth is missing or damaged",
    "trainer_state.json": "trainer_state.json is missing or damaged",
}


@pytest.fixture(scope="module")
def stopped(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_pretrain(tokenizer, tmp_path_factory.mktemp("stopped"), **WSD, max_steps=4)


@pytest.mark.parametrize("damage", ["cut", "missing"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_passed_over_and_refused_by_name(
    name: str, damage: str, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint-4" / name
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-2"
    assert DAMAGED[name] in (incomplete(file.parent) or "")
    assert incomplete(stopped / "checkpoint-4") is None


def test_a_checkpoint_without_its_optimizer_is_not_gone_on_from(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_pretrain(tokenizer, tmp_path / "run", **WSD, max_steps=4, save_only_model=True)
    for resume, words in (
        ("last", "no complete checkpoint"),
        (run / "checkpoint-2", "it must be a complete checkpoint"),
    ):
        with pytest.raises(SystemExit):
            run_pretrain(tokenizer, run, **WSD, max_steps=6, resume_from_checkpoint=resume)
        error = capsys.readouterr().err
        assert words in error
        assert "save_only_model leaves it out" in error


def test_a_checkpoint_of_another_model_is_refused(
    stopped: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"hidden_size": 64, "resume_from_checkpoint": stopped / "checkpoint-4"}
    with pytest.raises(SystemExit):
        run_pretrain(tokenizer, tmp_path / "run", **WSD, max_steps=6, **options)
    assert "size mismatch" in capsys.readouterr().err.splitlines()[-1]


def test_without_a_complete_checkpoint_there_is_nothing_to_resume(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(SystemExit):
        run_pretrain(tokenizer, tmp_path, resume_from_checkpoint="last")
    assert "no complete checkpoint to resume from" in capsys.readouterr().err
