"""The demo model, a real one: golden greedy texts on PyTorch, ONNX fp32 and ONNX int8."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import doge_export
from doge_model import Checkpoint
from tests.helpers.models import tokenizer_of, torch_logits

pytestmark = pytest.mark.slow

PROMPT = "def fibonacci(n):"
GOLDEN = "\n    if n == 0:\n        return 1\n    return n * fibonacci(n - 1)\n\n# Test the function\nprint("
# 8-bit products round by the processor: AVX2 and VNNI do not agree to the last digit. So here every token has to win
# clearly, by 1.8 logits at least. The greedy text behind PROMPT has a token that wins by 0.2; processors part there.
COUNTING, COUNTED = "1, 2, 3, 4, 5,", " 6, 7, 8, 9, 10, 11, 12, 13, "
QUESTION = [{"role": "user", "content": "What is the capital of Germany?"}]


def test_pytorch_writes_the_golden_text(demo_checkpoint: Checkpoint) -> None:
    tokenizer = tokenizer_of(demo_checkpoint)
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    out = demo_checkpoint.model.generate(ids, max_new_tokens=32, do_sample=False)
    assert tokenizer.decode(out[0, ids.shape[1] :]) == GOLDEN


def test_onnx_fp32_writes_the_golden_text(demo_folders: dict[str, Path]) -> None:
    assert doge_export.load(demo_folders["fp32"]).generate(PROMPT, max_new_tokens=32).text == GOLDEN


def test_onnx_int8_goes_on_counting(demo_folders: dict[str, Path]) -> None:
    assert doge_export.load(demo_folders["int8"]).generate(COUNTING, max_new_tokens=29).text == COUNTED


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_the_demo_knows_the_capital_of_germany(weights: str, demo_folders: dict[str, Path]) -> None:
    result = doge_export.load(demo_folders[weights]).chat(QUESTION)
    assert result.text == "The capital of Germany is Berlin."
    assert result.finish_reason == "stop"


def test_prompts_beyond_the_built_in_ones_agree_with_pytorch(
    demo_checkpoint: Checkpoint, demo_folders: dict[str, Path]
) -> None:
    ids = np.array(tokenizer_of(demo_checkpoint)("Dear Sir, 42 geese flew over Zürich; ½ of them sang ♫.")["input_ids"])
    logits = doge_export.load(demo_folders["fp32"]).logits(ids)
    expected = torch_logits(demo_checkpoint.model, ids)
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_runtime_s_tokenizer_and_template_are_the_checkpoint_s(
    demo_checkpoint: Checkpoint, demo_folders: dict[str, Path]
) -> None:
    model, reference = doge_export.load(demo_folders["int8"]), tokenizer_of(demo_checkpoint)
    text = "It's 12345 o'clock,\n\n  says ½ of Zürich ♫"
    assert model.tokenizer.encode(text) == reference(text)["input_ids"]
    rendered = reference.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert model.chat_template.render(QUESTION) == rendered


def test_int8_holds_a_byte_per_parameter_and_little_more(demo_folders: dict[str, Path]) -> None:
    report = json.loads((demo_folders["int8"] / "export_report.json").read_text())
    bits = 8 * report["files"]["onnx/model.onnx_data"] / report["parameters"]
    assert 8.0 < bits < 8.0 + 32 / 64 + 0.05  # a float32 scale for every 64 weights
    assert report["verification"]["worst"]["kl_mean"] < 0.03
