"""Example answers are the greedy answers of PyTorch and of the export, in the words of the tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from doge_export.measure.examples import (
    BEGINNINGS,
    EXAMPLE_TOKENS,
    QUESTIONS,
    TOKENS_APART,
    ExampleAnswer,
    example_answers,
    example_prompts,
    text_behind,
    until_end,
)
from doge_export.runtime.tokenizer import Tokenizer
from doge_model import Checkpoint, DogeForCausalLM
from tests.helpers.checkpoints import byte_vocabulary, save_tokenizer
from tests.helpers.fakes import byte_level_tokenizer, sentencepiece_tokenizer
from tests.helpers.models import exported, tiny_model, torch_logits


def model_of_bytes(keep_window_size: int = 256) -> DogeForCausalLM:
    """It writes ASCII alone, for other bytes are half a character."""
    tokens = byte_vocabulary()
    model = tiny_model(vocab_size=len(tokens), keep_window_size=keep_window_size)
    others = [index for index, token in enumerate(tokens) if len(token) > 1 or not token.isascii()]
    model.lm_head.weight.data[others] = 0
    return model


def answers(
    folder: Path, model: DogeForCausalLM, ours: DogeForCausalLM, ends: list[int] | None = None
) -> tuple[ExampleAnswer, ...]:
    """Of `model` in PyTorch, beside an export of `ours`."""
    tokenizer = save_tokenizer(folder)
    checkpoint = Checkpoint(model, tokenizer, GenerationConfig(eos_token_id=ends), "tiny", "native")
    return example_answers(checkpoint, exported(ours, folder), folder)


def greedy_text(model: DogeForCausalLM, folder: Path, question: str, count: int) -> str:
    """The answer of a PyTorch model that reads everything anew for each token."""
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer is not None
    prompt = example_prompts(tokenizer)[1][question]
    ids = prompt
    for _ in range(count):
        ids = np.append(ids, torch_logits(model, ids)[-1].argmax())
    return text_behind(tokenizer, prompt, ids[len(prompt) :])


@pytest.mark.slow
def test_a_float32_export_answers_as_pytorch_does(tmp_path: Path) -> None:
    found = answers(tmp_path, model_of_bytes(), model_of_bytes())
    assert [each.prompt for each in found] == list(QUESTIONS)
    for each in found:
        expected = greedy_text(model_of_bytes(), tmp_path, each.prompt, EXAMPLE_TOKENS)
        assert (each.fp32, each.export, each.same_tokens) == (expected, expected, EXAMPLE_TOKENS)


@pytest.mark.slow
def test_behind_the_place_where_the_two_part_each_goes_on_by_itself(tmp_path: Path) -> None:
    model, ours = model_of_bytes(), model_of_bytes()
    torch.manual_seed(0)
    ours.lm_head.weight.data.mul_(1 + 0.2 * torch.randn_like(ours.lm_head.weight))
    found = answers(tmp_path, model, ours)
    assert any(each.same_tokens > 0 for each in found)
    for each in found:
        assert each.fp32 != each.export
        count = min(EXAMPLE_TOKENS, each.same_tokens + TOKENS_APART)
        assert each.fp32 == greedy_text(model, tmp_path, each.prompt, count)
        assert each.export == greedy_text(ours, tmp_path, each.prompt, count)


def test_an_answer_stops_behind_an_end() -> None:
    assert until_end(iter([5, 6, 7, 8]), frozenset({7}), 32).tolist() == [5, 6, 7]
    assert until_end(iter([5, 6, 7, 8]), frozenset(), 2).tolist() == [5, 6]


def test_an_answer_that_has_ended_on_both_sides_is_the_same(tmp_path: Path) -> None:
    every = list(range(len(byte_vocabulary())))
    found = answers(tmp_path, model_of_bytes(), model_of_bytes(), ends=every)
    assert [each.same_tokens for each in found] == [1, 1, 1]


def test_a_prompt_that_fills_the_window_is_left_out(tmp_path: Path) -> None:
    assert answers(tmp_path, model_of_bytes(keep_window_size=32), model_of_bytes(keep_window_size=32)) == ()


@pytest.mark.parametrize(
    "template", [None, "{{ raise_exception('system first') }}", "{% if messages|length < 2 %}{{ 1 // 0 }}{% endif %}"]
)
def test_a_tokenizer_that_takes_no_single_question_gets_beginnings_of_texts(template: str | None) -> None:
    is_question, prompts = example_prompts(byte_level_tokenizer(template))
    assert (is_question, list(prompts)) == (False, list(BEGINNINGS))


def test_an_answer_keeps_the_space_before_its_first_word() -> None:
    tokenizer = sentencepiece_tokenizer()
    ids = np.array(tokenizer.encode("ab ab"), np.int64)
    (cut,) = [at for at in range(len(ids)) if tokenizer.decode(ids[:at].tolist()) == "ab"][-1:]
    assert text_behind(tokenizer, ids[:cut], ids[cut:]) == " ab"
