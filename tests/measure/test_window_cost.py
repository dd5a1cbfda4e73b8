"""A narrower window: its cost is measured on the tokens beyond it, and the model is left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from doge_export.errors import OptionError
from doge_export.measure import window_cost
from doge_export.measure.window_cost import CHUNK, Cost, NarrowedWindow, narrow_window, read_with
from doge_export.measure.windows import Window
from doge_model import Checkpoint, DogeForCausalLM
from tests.helpers.models import random_ids, tiny_model, torch_logits

WINDOWS = [Window(64, 0), Window(20, 2)]


def narrowed(model: DogeForCausalLM, keep_window: int, keep_sinks: int) -> NarrowedWindow:
    return narrow_window(Checkpoint(model, None, GenerationConfig(), "tiny", "native"), keep_window, keep_sinks)


def log_p(keep_window: int, keep_sinks: int, ids: np.ndarray) -> Tensor:
    model = tiny_model(keep_window_size=keep_window, keep_sinks=keep_sinks)
    return torch.from_numpy(torch_logits(model, ids)).double().log_softmax(-1)


def test_logits_are_those_of_each_window() -> None:
    model, ids = tiny_model(), random_ids(300)
    starts, logits = zip(*read_with(model, ids, WINDOWS), strict=True)
    assert starts == (0, CHUNK, 2 * CHUNK)
    for window, rows in zip(WINDOWS, zip(*logits, strict=True), strict=True):
        expected = tiny_model(keep_window_size=window.keep_window_size, keep_sinks=window.keep_sinks)
        np.testing.assert_allclose(np.concatenate(rows), torch_logits(expected, ids), atol=1e-4)


def test_the_model_has_its_own_window_whenever_logits_come_out() -> None:
    model = tiny_model()
    for _ in read_with(model, random_ids(300), WINDOWS):
        assert (model.config.keep_window_size, model.config.keep_sinks) == (64, 0)


def test_an_exception_in_the_midst_leaves_the_window_as_it_was() -> None:
    model = tiny_model()
    chunks = read_with(model, random_ids(300), WINDOWS)
    next(chunks)

    def fail(*_: object) -> None:
        if model.config.keep_window_size == 20:
            raise RuntimeError("in the midst")

    model.model.norm.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the midst"):
        next(chunks)
    assert (model.config.keep_window_size, model.config.keep_sinks) == (64, 0)


@pytest.mark.parametrize("sinks", [0, 3])
def test_narrowing_says_what_it_costs_and_stays(sinks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_cost, "TOKENS_BEYOND", 150)
    model, ids = tiny_model(), random_ids(170)
    before, after = log_p(64, 0, ids)[20:], log_p(20, sinks, ids)[20:]
    found = narrowed(model, 20, sinks)
    config = model.config
    assert (config.keep_window_size, config.keep_sinks, found.keep_sinks, found.tokens) == (20, sinks, sinks, 150)
    assert found.kl_mean == pytest.approx(float((before.exp() * (before - after)).sum(-1).mean()), rel=1e-3)
    assert found.top1 == pytest.approx(float((before.argmax(-1) == after.argmax(-1)).double().mean()), abs=0.01)


def test_nats_are_those_of_the_next_tokens_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_cost, "TOKENS_BEYOND", 150)
    ids = random_ids(170)
    nats = [-log_p(*window, ids)[range(169), ids[1:]] for window in ((64, 0), (20, 3), (20, 0))]
    found = narrowed(tiny_model(), 20, 3)
    assert found.nats is not None
    assert found.cost is not None
    for expected, values in zip(nats, (found.nats.whole, found.nats.narrowed, found.nats.other), strict=True):
        assert values == pytest.approx([float(part.mean()) for part in expected.split(CHUNK)], rel=1e-4)
    assert found.cost.nats == pytest.approx(float((nats[1] - nats[0])[20:].mean()), rel=1e-3)
    assert str(found.other_cost) == str(Cost.of((nats[2] - nats[0])[20:].numpy()))


@pytest.mark.parametrize(
    ("sinks", "said", "compared"),
    [
        (0, "20 tokens, instead", "(with 4 sinks +"),
        (1, "the first of a stream for good", "(without sinks +"),
        (3, "the first 3 of a stream for good", "(without sinks +"),
    ],
)
def test_the_summary_says_how_many_tokens_stay_and_compares_another_number(
    sinks: int, said: str, compared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_cost, "TOKENS_BEYOND", 10)
    summary = narrowed(tiny_model(), 20, sinks).summary().replace("-", "+")
    assert said in summary
    assert compared in summary


def test_a_window_of_one_key_has_no_room_for_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_cost, "TOKENS_BEYOND", 10)
    found = narrowed(tiny_model(), 1, 0)
    assert found.nats is not None
    assert (found.other_cost, found.nats.other) == (None, None)


def test_a_text_that_is_too_short_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_cost, "TOKENS_BEYOND", 0)
    found = narrowed(tiny_model(), 20, 1)
    assert (found.tokens, found.nats, found.cost) == (0, None, None)
    assert "not measured: the text is too short" in found.summary()


def test_a_window_cannot_be_widened() -> None:
    with pytest.raises(OptionError, match="the checkpoint has 64"):
        narrowed(tiny_model(), 65, 0)


def test_a_window_without_room_beside_the_keys_that_always_stay_is_refused() -> None:
    model = tiny_model(keep_recent=9)
    with pytest.raises(OptionError, match="is 12; it must be at least 13, as 3 sinks and the last 9 tokens"):
        narrowed(model, 12, 3)
    assert narrowed(model, 13, 3).keep_recent == model.config.keep_recent == 9
