"""A narrower window: its cost is measured on the tokens beyond it, and the model is left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from doge_export.errors import OptionError
from doge_export.measure import window_cost
from doge_export.measure.window_cost import compare_windows, narrow_window
from doge_model import Checkpoint
from tests.helpers.models import random_ids, tiny_model, torch_logits


def test_logits_are_those_of_both_windows_from_the_first_evicted_key_on() -> None:
    model, narrow, ids = tiny_model(), tiny_model(keep_window_size=20), random_ids(300)
    before, after = (np.concatenate(parts) for parts in zip(*compare_windows(model, ids, 20), strict=True))
    assert before.shape == (280, 97)
    np.testing.assert_allclose(before, torch_logits(model, ids)[20:], atol=1e-4)
    np.testing.assert_allclose(after, torch_logits(narrow, ids)[20:], atol=1e-4)


def test_the_model_has_its_own_window_whenever_a_pair_comes_out() -> None:
    model = tiny_model()
    for _ in compare_windows(model, random_ids(300), 20):
        assert model.config.keep_window_size == 64


def test_an_exception_in_the_midst_leaves_the_window_as_it_was() -> None:
    model = tiny_model()
    pairs = compare_windows(model, random_ids(300), 20)
    next(pairs)

    def fail(*_: object) -> None:
        if model.config.keep_window_size == 20:
            raise RuntimeError("in the midst")

    model.model.norm.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the midst"):
        next(pairs)
    assert model.config.keep_window_size == 64


def test_narrowing_says_what_it_costs_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_cost, "TOKENS_BEYOND", 150)
    model = tiny_model()
    ids = random_ids(170)
    expected = torch.from_numpy(torch_logits(model, ids)[20:]).double().log_softmax(-1)
    cost = narrow_window(Checkpoint(model, None, GenerationConfig(), "tiny", "native"), 20)
    assert (model.config.keep_window_size, cost.tokens) == (20, 150)
    found = torch.from_numpy(torch_logits(model, ids)[20:]).double().log_softmax(-1)
    assert cost.kl_mean == pytest.approx(float((expected.exp() * (expected - found)).sum(-1).mean()), rel=1e-3)
    assert cost.top1 == pytest.approx(float((expected.argmax(-1) == found.argmax(-1)).double().mean()), abs=0.01)


def test_a_window_cannot_be_widened() -> None:
    checkpoint = Checkpoint(tiny_model(), None, GenerationConfig(), "tiny", "native")
    with pytest.raises(OptionError, match="the checkpoint has 64"):
        narrow_window(checkpoint, 65)
    assert checkpoint.model.config.keep_window_size == 64
