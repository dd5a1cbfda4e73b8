"""Streams of associative recall, and the options of pre-training that learn them from few slots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from doge_model import load_checkpoint
from tests.helpers.training import QUIET, run_stage
from train.command import run_stage as run_command
from train.recall_streams import RecallStream, Symbols, draw_stream, most_kept
from train.stages.measure import keep_window_size, without_mask
from train.windows import blocks, window_at


def drawn(seed: int = 0, tokens: int = 128, pairs: int = 20, near: float = 0.0) -> RecallStream:
    return draw_stream(np.random.default_rng(seed), tokens, pairs, near)


@pytest.mark.parametrize("near", [0.0, 0.5, 1.0])
def test_every_pair_of_a_stream_is_asked_for_once_behind_it(near: float) -> None:
    stream = drawn(near=near)
    assert len(stream.words) == 128
    assert len(stream.answers) == len(set(stream.written)) == 20
    for answer, written in zip(stream.answers, stream.written, strict=True):
        assert written < answer - 1
        assert stream.words[answer - 2] == "?"
        assert stream.words[written - 1 : written + 1] == [stream.words[answer], stream.words[answer - 1]]


def test_streams_depend_on_the_seed_alone() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_near_pairs_are_asked_for_sooner() -> None:
    mean = [
        np.mean([np.subtract(s.answers, s.written).mean() for s in (drawn(i, 512, 8, near) for i in range(20))])
        for near in (0.0, 1.0)
    ]
    assert mean[1] < 0.6 * mean[0]


def test_slots_hold_every_pair_or_their_share_of_them() -> None:
    stream = RecallStream([], [0, 0, 0], [0, 0, 0], [1, 2, 4])
    assert most_kept(stream, 4) == 3
    assert most_kept(stream, 2) == 1 + 1 + 0.5


def test_a_written_stream_is_a_row_of_its_length_whose_answers_are_marked(tmp_path: Path) -> None:
    run_stage("recall", output_dir=tmp_path, streams=3, tokens=64, least_pairs=4, most_pairs=8)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    lines = (tmp_path / "streams.jsonl").read_text().splitlines()
    for line in lines:
        messages = json.loads(line)["messages"]
        row = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        assert len(row["input_ids"]) == 64
        marked = [index for index, mark in zip(row["input_ids"], row["assistant_masks"], strict=True) if mark]
        assert tokenizer.convert_ids_to_tokens(marked) == answers
    assert len(lines) == 3


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no streams": ({"streams": 0}, "streams is 0; it must be at least 1"),
    "too many pairs for the keys": ({"most_pairs": 65}, "at most 64"),
    "too many pairs for the tokens": ({"tokens": 100}, "at most 19"),
    "fewer than the least": ({"least_pairs": 30, "most_pairs": 20}, "they must be in order"),
    "a share above 1": ({"near": 1.5}, "near is 1.5; it must be from 0 to 1"),
    "a folder with a tokenizer": ({}, "it must hold no run"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_streams_that_cannot_be_are_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, words = REFUSED[case]
    if not options:
        run_stage("recall", output_dir=tmp_path, streams=1)
    with pytest.raises(SystemExit) as stop:
        run_stage("recall", output_dir=tmp_path, **options)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_a_window_goes_by_equal_factors() -> None:
    assert [window_at(step, (2, 6), 256, 16) for step in (0, 2, 3, 4, 5, 6, 9)] == [256, 256, 128, 64, 32, 16, 16]
    assert window_at(4, (2, 6), 4, 64) == 16
    assert window_at(3, (3, 3), 256, 16) == 16


SMALL = {
    "preset": "Doge-20M",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "keep_window_size": 16,
    "rope_theta": 1e7,
    "begin_with_copies": True,
    "initial_a": 1.0,
    "recent_layers": 1,
    "assistant_only_loss": True,
    "packing": False,
    "max_length": 128,
    "learning_rate": 3e-3,
    "adam_beta2": 0.95,
    "save_strategy": "no",
}


def train_small(folder: Path, streams: int, **options: Any) -> Path:
    """Streams of 128 tokens, and a model trained on them."""
    run_stage(
        "recall", output_dir=folder / "data", streams=streams, tokens=128, least_pairs=6, most_pairs=18, symbols=32
    )
    paths = {
        "tokenizer_name_or_path": folder / "data",
        "datasets": [folder / "data" / "streams.jsonl"],
        "output_dir": folder / "run",
    }
    run_stage("pretrain", **(SMALL | QUIET | paths | options))
    return folder / "run"


def test_the_stage_narrows_windows_and_keeps_recent_layers_as_they_are(tmp_path: Path) -> None:
    run = train_small(tmp_path, 8, max_steps=4, per_device_train_batch_size=2, window_steps=[1, 3])
    checkpoint = load_checkpoint(run)
    first, second = (layer.self_attn for layer in blocks(checkpoint.model))
    assert checkpoint.model.config.keep_window_size == 16
    assert checkpoint.model.config.rope_parameters["rope_type"] == "default"
    assert first.A.tolist() == [0.0, 0.0]
    assert second.A.tolist() != [1.0, 1.0]


BAD_WINDOWS: dict[str, tuple[dict[str, Any], str]] = {
    "one step": ({"window_steps": [3]}, "window_steps are [3]; they must be two steps in order"),
    "steps that go back": ({"window_steps": [3, 1]}, "window_steps are [3, 1]; they must be two steps in order"),
    "a window of nothing": ({"window_steps": [1, 2], "recent_window_from": 0}, "recent_window_from is 0"),
    "every step wider": ({"window_steps": [1, 2], "wider_steps": 1.0}, "wider_steps is 1.0"),
    "wider steps of no schedule": ({"wider_steps": 0.5}, "wider_steps is 0.5, and window_steps are missing"),
    "a first window of no schedule": ({"recent_window_from": 4}, "recent_window_from is 4, and window_steps are miss"),
    "rows of any length": ({"window_steps": [1, 2], "max_length": None}, "max_length is null; give a number of tokens"),
    "sinks": ({"window_steps": [1, 2], "keep_sinks": 2}, "given with keep_sinks 2; it must be 0"),
    "more layers than there are": ({"recent_layers": 3}, "recent_layers is 3; it must be from 0 to 2"),
    "shared keys": ({"num_key_value_heads": 1}, "1 key value heads of 2; they must be as many"),
    "no rotation": ({"rope_theta": 0.0}, "rope_theta is 0.0; it must be above 1"),
}


@pytest.mark.parametrize("case", BAD_WINDOWS)
def test_schedules_that_cannot_be_are_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, words = BAD_WINDOWS[case]
    with pytest.raises(SystemExit) as stop:
        train_small(tmp_path, 8, max_steps=1, **options)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_model_learns_to_recall_from_few_slots(tmp_path: Path) -> None:
    schedule = {"window_steps": [150, 300], "lr_scheduler_type": "linear", "warmup_steps": 20}
    run = train_small(tmp_path, 8000, max_steps=500, per_device_train_batch_size=16, **schedule)
    checkpoint = load_checkpoint(run)
    model, ids = checkpoint.model.eval(), Symbols(32, 32, 32).vocabulary()
    streams = [draw_stream(np.random.default_rng(i), 128, 14, 0.0, Symbols(32, 32, 32)) for i in range(20)]

    def recalled() -> float:
        right = []
        for stream in streams:
            tokens = torch.tensor([ids[word] for word in stream.words])
            answers = torch.tensor(stream.answers)
            with torch.no_grad():
                chosen = model(tokens[None], use_cache=False).logits[0].argmax(-1)
            right.append((chosen[answers - 1] == tokens[answers]).float().mean().item())
        return float(np.mean(right))

    with keep_window_size(model, 16):
        learned = recalled()
        with without_mask(model):
            recent = recalled()
    assert learned > 0.9
    assert recent < 0.5


@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "recall was stopped before its end."),
        (OSError(28, "No space left on device"), 1, "Error: a file of output_dir cannot be written: No space left"),
    ],
)
def test_streams_that_are_not_all_written_leave_no_file_and_one_sentence(
    fault: BaseException,
    code: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(stream: RecallStream) -> None:
        raise fault

    monkeypatch.setattr("train.stages.recall.as_messages", stopped)
    monkeypatch.setattr("sys.argv", ["recall", "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        run_command("recall")
    error = capsys.readouterr().err.strip()
    assert stop.value.code == code and error.startswith(sentence) and "\n" not in error
    assert not list(tmp_path.glob("streams*"))


def test_an_output_dir_that_fails_while_it_is_written_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = OSError(30, "Read-only file system", str(tmp_path / "streams.jsonl.partial"))
    monkeypatch.setattr("train.stages.recall.as_messages", Mock(side_effect=fault))
    for output_dir, stops in ((tmp_path, SystemExit), (tmp_path / "other", OSError)):  # other files are our fault
        monkeypatch.setattr("sys.argv", ["recall", "--output_dir", str(output_dir), "--overwrite_output_dir", "true"])
        with pytest.raises(stops):
            run_command("recall")
    assert capsys.readouterr().err.strip() == f"Error: {fault.filename} cannot be written: Read-only file system"
