"""Bonuses fitted to a text: the rule as the model has it, better outputs than recency alone, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doge_export.bonuses import calibrate_window, streams
from doge_export.bonuses.fit import choose, evictions, fit_bonuses, output_error
from doge_export.bonuses.harm import Linear, log_harm, ridge
from doge_export.bonuses.layer import Heads, Window, evicted_at
from doge_export.bonuses.refine import gradually_kept
from doge_export.errors import ExportError, OptionError
from doge_export.export import ExportOptions
from doge_export.options import BUILT_IN_TEXT, RECENT
from doge_model import Checkpoint, DogeForCausalLM, load_checkpoint
from doge_model.mask import kept_until, visible_keys, with_sinks
from doge_model.modeling import DogeAttention, DogeDecoderLayer
from tests.helpers.checkpoints import save_doge
from tests.helpers.evaluation_data import save_talking_checkpoint
from tests.helpers.models import attentions, random_ids, relative_difference, tiny_model, torch_logits, without_mask

WINDOW = Window(80, 2, 200, RECENT)


def llama(seed: int = 0, **fields: Any) -> DogeForCausalLM:
    return without_mask(tiny_model(seed, qk_norm=False, keep_sinks=2, keep_window_size=400, **fields))


def heads_of(model: DogeForCausalLM, length: int = 300, seed: int = 0) -> tuple[DogeAttention, Heads]:
    ids, layer = torch.from_numpy(random_ids(length, seed))[None], model.model.layers[0]
    assert isinstance(layer, DogeDecoderLayer)
    with torch.inference_mode():
        rotary = model.model.rotary_emb(torch.arange(length)[None])
        return layer.self_attn, Heads.of(layer, model.model.embed_tokens(ids), rotary)


@given(
    bonus=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    size=st.integers(2, 10),
    sinks=st.integers(0, 4),
    recent=st.integers(0, 6),
)
def test_keys_leave_when_the_mask_says_so(bonus: list[int], size: int, sinks: int, recent: int) -> None:
    sinks, length = min(sinks, size - 1), len(bonus)
    recent = min(recent, size - sinks - 1)
    gone = evicted_at(torch.tensor(bonus).float(), Window(size, sinks, 9, recent))
    z = torch.tensor(bonus).float()[None, :, None]
    until = kept_until(z, torch.ones(1), torch.arange(length)[None], 9).transpose(1, 2)
    visible = visible_keys(with_sinks(until, sinks), length, size, recent)[0, 0]
    positions = torch.arange(length)
    assert torch.equal(visible, (positions[:, None] < gone) & (positions[:, None] >= positions))


def test_weights_and_outputs_are_those_of_the_layer() -> None:
    model = llama()
    attention, heads = heads_of(model, 60)
    seen: list[torch.Tensor] = []
    attention.o_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    torch_logits(model, random_ids(60))
    with torch.inference_mode():
        outputs = heads.outputs(heads.weights(torch.arange(60)))
    assert relative_difference(seen[0].numpy(), outputs.transpose(0, 1).flatten(1).numpy()) < 1e-5


def test_ridge_finds_a_linear_function_and_scales_it() -> None:
    features = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    harm = features @ torch.tensor([[1.0], [-2.0], [0.0], [0.0], [3.0], [0.0]]) + 7
    z = ridge(features, harm).of(features)[0]
    assert float(z.mean()) == pytest.approx(0, abs=1e-4)
    assert float(z.std()) == pytest.approx(1, rel=1e-3)
    assert float(torch.corrcoef(torch.stack((z, harm[:, 0])))[0, 1]) > 0.999


def test_harm_is_largest_for_a_key_that_later_queries_attend_to() -> None:
    attention, heads = heads_of(llama())
    key = heads.key.clone()
    key[:, 50] = 9 * heads.query[::2].mean(1)  # what every query asks for
    value = heads.value.clone()
    value[:, 50] += 5
    with torch.inference_mode():
        harm = log_harm(attention, Heads(heads.query, key, value, heads.size), far=40)
    assert (harm[:, 50] > harm[:, 5:200].median(1).values).all()


@pytest.mark.parametrize("recent", [0, 9])
def test_keys_leave_gradually_as_they_leave_by_the_rule_when_the_step_is_steep(recent: int) -> None:
    z = torch.randn(2, 120, generator=torch.Generator().manual_seed(1)) * 40
    window, asked = Window(20, 2, 60, recent), torch.arange(30, 120, 7)
    share = gradually_kept(z, asked, window, width=0.01)
    positions = torch.arange(120)
    for group, own in enumerate(z):
        gone = evicted_at(own.clamp(0, 60), window)  # not rounded here
        expected = (asked[:, None] < gone) & (positions <= asked[:, None])
        assert ((share[group] > 0.4) == expected).float().mean() > 0.995


def test_a_key_that_stays_longer_pushes_others_out() -> None:
    z = torch.zeros(1, 60, requires_grad=True)
    share = gradually_kept(z, torch.tensor([50]), Window(20, 2, 60), width=4.0)
    share[0, 0, 33].backward()  # near the edge of the window
    assert z.grad is not None
    assert z.grad[0, 33] > 0
    assert z.grad[0, 31] < 0


def test_each_head_gets_the_candidate_with_the_smallest_change() -> None:
    attention, heads = heads_of(llama())
    none = Linear(torch.zeros(2, 16), torch.zeros(2))
    wild = Linear(torch.zeros(2, 16), torch.tensor([0.0, 150.0]))  # a constant bonus changes no order
    random = Linear(100 * torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(2))
    with torch.inference_mode():
        best = choose(attention, [heads], [random, none, wild], WINDOW)
        errors = [output_error(attention, [heads], each, WINDOW) for each in (best, random, none)]
    assert errors[0] <= min(errors[1:]) + 1e-6


def test_a_fitted_model_is_nearer_to_the_whole_context_and_the_same_inside_the_window() -> None:
    model, ids = llama(num_key_value_heads=1), random_ids(300, seed=9)
    whole, texts = torch_logits(model, ids), [torch.from_numpy(random_ids(300, seed)) for seed in range(3)]
    found = fit_bonuses(model, texts, WINDOW, lambda step: None)
    assert found.with_bonuses < found.with_sinks
    assert relative_difference(whole, torch_logits(model, ids)) < 1e-5  # whose window is 400 still
    assert (model.config.keep_bonus, model.config.keep_recent) == (200, RECENT)
    assert all(attention.dt_proj.weight.shape == (1, 8) for attention in attentions(model))


def test_a_mask_head_for_each_attention_head_gets_the_bonus_of_its_kv_head() -> None:
    model = llama(num_mask_heads=4)
    fit_bonuses(model, [torch.from_numpy(random_ids(200, seed)) for seed in range(2)], WINDOW, lambda step: None)
    weight = attentions(model)[0].dt_proj.weight
    assert torch.equal(weight[0], weight[1])
    torch_logits(model, random_ids(500))


def test_a_text_becomes_streams_from_its_beginning(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save_talking_checkpoint(tmp_path))
    found = streams.streams_of(checkpoint, BUILT_IN_TEXT, 300)
    assert {stream.shape for stream in found} == {(300,)}
    assert len(found) == streams.TOKENS // 300
    (tmp_path / "short.txt").write_text("a b c " * 20)
    with pytest.raises(OptionError, match=r"short.txt has \d+ tokens; with calibrate_window it must have at least 600"):
        streams.streams_of(checkpoint, str(tmp_path / "short.txt"), 300)


def test_a_mask_of_its_own_a_wide_window_and_no_tokenizer_are_refused(tmp_path: Path) -> None:
    save_doge(tmp_path / "doge", keep_window_size=400)
    cases = [(load_checkpoint(tmp_path / "doge"), 100, "has a mask of its own; calibrate_window is for models without")]
    talking = load_checkpoint(save_talking_checkpoint(tmp_path / "llama"))
    half = talking.model.config.keep_window_size // 2
    cases.append((talking, half + 1, f"with calibrate_window it must be at most {half}, half of the checkpoint's"))
    cases.append((talking, 67, "must be at least 68, as recent keys need 64 beside 4 sinks"))
    for checkpoint, window, message in cases:
        with pytest.raises(OptionError, match=message):
            calibrate_window(checkpoint, BUILT_IN_TEXT, window, 4, lambda step: None)
    silent = Checkpoint(llama(), None, talking.generation_config, "silent", "llama")
    with pytest.raises(ExportError, match="tokenizer of silent is missing, and calibrate_window reads a text"):
        calibrate_window(silent, BUILT_IN_TEXT, 100, 4, lambda step: None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "calibrate_window goes with keep_window; give the tokens to keep, or leave it out"),
        ({"keep_window": 20}, "at least 64 and the number of sinks, as recent keys need 64 beside the sinks"),
        ({"keep_window": 70, "keep_sinks": 7}, "it must be at least 71, as recent keys need 64 beside 7 sinks"),
        ({"keep_window": 512, "keep_sinks": 512}, "keep_sinks is 512; it must be below the window of 512 tokens"),
        ({"keep_window": -1}, "keep_window is -1; it must be at least 1"),
        ({"keep_window": 512, "calibrate_window": "gone.txt"}, "the calibration text gone.txt is missing"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_read(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_talking_checkpoint(tmp_path)
    with pytest.raises(OptionError, match=message):
        ExportOptions(str(tmp_path), tmp_path / "out", **({"calibrate_window": BUILT_IN_TEXT} | given))


def test_evictions_are_by_whole_bonuses() -> None:
    z = torch.tensor([[0.4, 1.6, -5.0, 0.0, 0.0, 0.0]])
    assert evictions(z, Window(2, 0, 9)).tolist() == [[2, 4, 3, 5, 6, 6]]
    assert np.array_equal(evictions(z.round().clamp(0, 9), Window(2, 0, 9)), evictions(z, Window(2, 0, 9)))
