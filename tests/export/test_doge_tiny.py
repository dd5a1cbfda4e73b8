"""The trained checkpoint of the repository: its figures are those its README states, its mask is in use, it talks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import doge_export
from doge_export.export.pipeline import export
from doge_export.options import ExportOptions
from doge_model import Checkpoint, load_checkpoint
from tests.helpers.models import tokenizer_of, torch_logits
from train.arguments import ModelArguments
from train.data import DataArguments, Source
from train.stages.measure import MeasureArguments, measure

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "checkpoints" / "doge-tiny"
PROMPT = "Once upon a time"
# every token wins by 0.46 logits at least
GOLDEN = ", there was a little girl named Lily. She loved to play with her toys and eat snacks. One day"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(str(FOLDER))


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """As `python -m train.measure` gives them, in float32."""
    data = DataArguments(datasets=[Source(path="held_out.txt")], data_folder=str(FOLDER))
    options = MeasureArguments(max_length=512, keep_window_sizes=[64, 512])
    return measure(ModelArguments(str(FOLDER)), data, options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("doge-tiny")
    return {
        weights: export(ExportOptions(str(FOLDER), folder / weights, weights)).folder for weights in ("fp32", "int8")
    }


def stated(name: str) -> float:
    """A figure of the README beside the checkpoint: | name | figure |."""
    (figure,) = re.findall(rf"\| {re.escape(name)} \| ([\d.]+) \|", (FOLDER / "README.md").read_text())
    return float(figure)


def test_the_checkpoint_takes_less_than_eight_megabytes(checkpoint: Checkpoint) -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8e6
    assert sum(parameter.numel() for parameter in checkpoint.model.parameters()) == 3_225_996
    assert checkpoint.model.config.qk_norm


def test_its_perplexity_on_held_out_stories_is_the_one_stated(figures: dict[str, Any]) -> None:
    assert figures["perplexity"] == pytest.approx(stated("window of 128, as trained"), rel=0.01)


def test_its_dynamic_mask_is_in_use(figures: dict[str, Any]) -> None:
    low, _, high = torch.tensor(figures["dt_1_50_99_percent"]).flatten(0, 1).unbind(1)
    assert ((high - low) > 0.5).sum() >= 10  # of 12 mask heads
    assert torch.tensor(figures["A"]).abs().min() > 0.1
    assert figures["perplexity_without_mask"] == pytest.approx(stated("A = 0"), rel=0.01)


@pytest.mark.parametrize("window", [64, 512])
def test_another_window_costs_what_is_stated(figures: dict[str, Any], window: int) -> None:
    found = figures[f"perplexity_with_window_{window}"]
    assert found == pytest.approx(stated(f"window of {window}"), rel=0.01)


def test_narrowing_the_window_changes_the_logits_from_the_first_evicted_key_on(checkpoint: Checkpoint) -> None:
    text = (FOLDER / "held_out.txt").read_text().split("\n\n")[0]
    ids = np.array(tokenizer_of(checkpoint)(text)["input_ids"][:100])
    narrowed = load_checkpoint(FOLDER).model
    narrowed.config.keep_window_size = 64
    difference = np.abs(torch_logits(checkpoint.model, ids) - torch_logits(narrowed, ids)).max(axis=-1)
    changed = difference > 1e-3
    assert not changed[:64].any()
    assert changed[64:].any()


def test_pytorch_and_each_export_write_the_same_story(checkpoint: Checkpoint, exported: dict[str, Path]) -> None:
    ids = tokenizer_of(checkpoint)(PROMPT, return_tensors="pt")["input_ids"]
    out = checkpoint.model.generate(ids, max_new_tokens=24, do_sample=False)
    assert tokenizer_of(checkpoint).decode(out[0, ids.shape[1] :]) == GOLDEN
    for folder in exported.values():
        assert doge_export.load(folder).generate(PROMPT, max_new_tokens=24, temperature=0).text == GOLDEN


def test_the_example_tells_a_story() -> None:
    command = [sys.executable, str(ROOT / "examples" / "doge_tiny.py"), PROMPT]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert out.startswith(PROMPT)
    assert len(out.split()) > 30
