"""One evaluated model, exported or in PyTorch: loaded by its kind, timed by one loop, refused before it is asked."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from transformers import DynamicCache

from doge_export.errors import EvaluationError
from doge_export.evaluation import evaluation
from doge_export.evaluation.evaluation import SPEED_PROMPT, load_model, prepare, speed_prompt
from doge_export.evaluation.options import EvaluationOptions
from doge_export.measure.greedy import greedy_steps
from doge_export.measure.torch_stream import torch_stream
from tests.helpers.evaluation_data import export_talking, save_talking_checkpoint, write_records
from tests.helpers.models import random_ids, relative_difference, tiny_model, torch_logits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_talking_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_talking(checkpoint, tmp_path_factory.mktemp("export") / "tiny")


def test_a_pytorch_stream_goes_on_where_it_stopped() -> None:
    model, ids = tiny_model(), random_ids(9)
    feed, whole = torch_stream(model, DynamicCache()), torch_logits(model, ids)
    rows = [feed(piece)[-1] for piece in (ids[:6], ids[6:7], ids[7:9])]
    assert relative_difference(whole[[5, 6, 8]], np.stack(rows)) < 1e-5
    assert relative_difference(whole[[2]], torch_stream(model, DynamicCache())(ids[:3])) < 1e-5


def test_both_kinds_of_model_are_timed_on_the_same_tokens(checkpoint: Path, folder: Path) -> None:
    models = [load_model(str(source), 1) for source in (checkpoint, folder)]
    assert [model.kind for model in models] == ["torch", "onnxruntime"]
    prompts = [speed_prompt(model) for model in models]
    assert prompts[0].shape == (SPEED_PROMPT,)
    assert (prompts[0] == prompts[1]).all()
    torch, again, ours, ours_again = (
        list(islice(greedy_steps(model.open_stream(), prompts[0]), 12)) for model in models for _ in range(2)
    )
    assert torch == again == ours == ours_again


def test_a_tokenizer_with_too_few_tokens_is_refused_before_anything_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dataclasses.replace(load_model(str(folder), 1), encode=lambda text: [1, 2])
    monkeypatch.setattr(evaluation, "load_model", lambda source, threads, adapter: model)
    options = EvaluationOptions(
        tasks=("piqa",), data_dir=write_records(tmp_path / "data"), journal=tmp_path / "journal"
    )
    with pytest.raises(EvaluationError, match="makes 2 tokens of 744 characters; it must make at least 64"):
        prepare(str(folder), options)
    assert not (tmp_path / "journal").exists()
