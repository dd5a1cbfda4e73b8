"""Sums written step by step: their steps, their files and their tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.helpers.training import run_stage
from train.rewards import accuracy, format_reward
from train.stages.sums import as_conversation, as_problem, draw_sums, steps, sums_tokenizer


def test_steps_go_from_the_last_digit_with_the_carry() -> None:
    assert steps(27, 48) == "7+8+0=15\n2+4+1=7"
    assert steps(999, 1) == "9+1+0=10\n9+0+1=10\n9+0+1=10"
    assert steps(0, 0) == "0+0+0=0"


def test_a_sum_earns_both_rewards_by_its_own_steps() -> None:
    for first, second in draw_sums(np.random.default_rng(0), 20, 3):
        answer = as_conversation(first, second)["messages"][1]
        assert accuracy([[answer]], [as_problem(first, second)["solution"]]) == [1.0]
        assert format_reward([[answer]]) == [1.0]


def test_sums_differ_and_depend_on_the_seed_alone() -> None:
    drawn = [draw_sums(np.random.default_rng(seed), 300, 2) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 300


def test_a_tokenizer_gives_every_conversation_back() -> None:
    tokenizer = sums_tokenizer()
    messages = as_conversation(27, 948)["messages"]
    ids = tokenizer(messages[1]["content"])["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == messages[1]["content"]
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|begin_of_text|>27+948=\n"


def test_the_files_share_no_sum(tmp_path: Path) -> None:
    run_stage("sums", output_dir=tmp_path, digits=2, conversations=20, problems=30, held_out=10)
    problems, held_out, conversations = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("problems", "held_out", "conversations")
    )
    asked = [record["problem"] for record in problems + held_out]
    asked += [record["messages"][0]["content"] for record in conversations]
    assert len(set(asked)) == len(asked) == 60
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == 24


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"digits": 0}, "digits is 0; it must be at least 1"),
        ({"digits": 1}, "of 1 digits there are 100, so ask for half"),
    ],
)
def test_sums_that_cannot_be_drawn_are_refused(
    options: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_stage("sums", output_dir=tmp_path / "sums", **options)
    assert words in capsys.readouterr().err
