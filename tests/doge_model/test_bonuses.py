"""Bonuses: a key counts as younger than it is, by the full matrix and by the cache alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from doge_common.errors import CheckpointError, OptionError
from doge_model import DogeForCausalLM, KeepWindowCache, load_checkpoint
from doge_model.mask import from_digits, kept_until, to_digits, visible_keys, with_sinks
from tests.helpers.models import (
    FORMS,
    attentions,
    random_ids,
    relative_difference,
    tiny_config,
    tiny_model,
    torch_logits,
)

BONUSES: dict[str, Any] = {"qk_norm": False, "keep_bonus": 60}


def stream(model: DogeForCausalLM, ids: np.ndarray, lengths: list[int]) -> np.ndarray:
    cache, rows = KeepWindowCache(model.config), []
    with torch.inference_mode():
        for chunk in torch.from_numpy(ids)[None].split(lengths, dim=1):
            rows.append(model(chunk, past_key_values=cache, use_cache=True).logits[0])
    return torch.cat(rows).numpy()


@given(
    logits=st.lists(st.floats(-3, 14), min_size=1, max_size=14),
    window=st.integers(1, 12),
    sinks=st.integers(0, 11),
    recent=st.integers(0, 11),
    most=st.integers(1, 10),
)
def test_every_query_sees_the_last_keys_and_those_of_the_largest_position_and_bonus(
    logits: list[float], window: int, sinks: int, recent: int, most: int
) -> None:
    sinks, length = min(sinks, window - 1), len(logits)
    recent = min(recent, window - sinks - 1)
    z = torch.tensor(logits)[None, :, None]
    until = kept_until(z, torch.ones(1), torch.arange(length)[None], most).transpose(1, 2)
    visible = visible_keys(with_sinks(until, sinks), length, window, recent)[0, 0]
    bonus = [min(max(round(number), 0), most) for number in np.array(logits, np.float32).tolist()]
    for query in range(length):
        older, last = range(sinks, query + 1 - recent), range(max(0, query + 1 - recent), query + 1)
        rest = sorted(older, key=lambda j: (j + bonus[j], j))[-(window - sinks - recent) :]
        assert set(visible[query].nonzero().flatten().tolist()) == {*range(min(sinks, query + 1)), *rest, *last}


def test_a_negative_a_turns_the_order_round_and_one_of_zero_leaves_recency() -> None:
    z = torch.tensor([[[5.0, 5.0, 5.0], [-7.0, -7.0, -7.0]]])
    until = kept_until(z, torch.tensor([1e-9, -1e-9, 0.0]), torch.tensor([[10, 11]]), 6)
    assert until.tolist() == [[[15, 10, 10], [11, 17, 11]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_digits_hold_any_position_in_any_dtype_and_padding(dtype: torch.dtype) -> None:
    numbers = torch.tensor([[0, 255, 256, 65_535, 16_777_217, 2**32 - 1]], dtype=torch.float64)
    assert torch.equal(from_digits(to_digits(numbers).to(dtype)), numbers)
    assert from_digits(torch.full((4, 1), -torch.inf)).tolist() == [-torch.inf]


@settings(deadline=None, max_examples=25)
@given(
    window=st.integers(1, 24),
    sinks=st.integers(0, 6),
    recent=st.sampled_from([0, 0, 1, 3, 10, 23]),
    heads=st.sampled_from([{}, {"num_key_value_heads": 1}, {"num_mask_heads": 4}]),
    attn_implementation=st.sampled_from(["eager", "sdpa"]),
    most=st.integers(1, 200),
    cuts=st.lists(st.integers(1, 119), max_size=8),
    seed=st.integers(0, 10_000),
)
def test_any_chunking_through_the_cache_equals_the_full_matrix(
    window: int,
    sinks: int,
    recent: int,
    heads: dict[str, Any],
    attn_implementation: str,
    most: int,
    cuts: list[int],
    seed: int,
) -> None:
    sinks = min(sinks, window - 1)
    fields = BONUSES | heads | {"keep_bonus": most, "keep_window_size": window, "keep_sinks": sinks}
    fields["keep_recent"] = min(recent, window - sinks - 1)
    model, ids = tiny_model(seed, attn_implementation, **fields), random_ids(120, seed)
    borders = sorted({0, *cuts, 120})
    assert relative_difference(torch_logits(model, ids), stream(model, ids, np.diff(borders).tolist())) < 1e-5


def test_bonuses_change_which_keys_are_kept() -> None:
    model, ids = tiny_model(**BONUSES, keep_window_size=16), random_ids(80)
    learned = torch_logits(model, ids)
    for attention in attentions(model):
        attention.A.data.zero_()
    assert relative_difference(learned[:16], torch_logits(model, ids)[:16]) < 0.02  # dt of A near 0 alone
    assert relative_difference(learned[40:], torch_logits(model, ids)[40:]) > 0.05


@pytest.mark.parametrize("recent", [0, 5])
def test_a_row_with_padding_in_front_computes_as_it_would_alone(recent: int) -> None:
    model = tiny_model(**BONUSES, keep_window_size=10, keep_sinks=2, keep_recent=recent)
    ids = torch.from_numpy(random_ids(60))[None]
    padded, mask = torch.nn.functional.pad(ids, (11, 0)), torch.ones(1, 71, dtype=torch.long)
    mask[:, :11] = 0
    with torch.inference_mode():
        whole = model(padded, attention_mask=mask).logits[0, 11:]
        cache, pieces = KeepWindowCache(model.config), [(0, 14), (14, 15), (15, 71)]
        rows = [model(padded[:, a:b], attention_mask=mask[:, :b], past_key_values=cache).logits[0] for a, b in pieces]
    for logits in (whole, torch.cat(rows)[11:]):
        assert relative_difference(torch_logits(model, ids[0].numpy()), logits.numpy()) < 1e-5


@pytest.mark.parametrize("kind", [DynamicCache, KeepWindowCache])
def test_beams_and_other_caches_keep_the_positions_of_their_keys(kind: type) -> None:
    model, ids = tiny_model(**BONUSES, keep_window_size=10), torch.from_numpy(random_ids(40))[None]
    cache = DynamicCache() if kind is DynamicCache else KeepWindowCache(model.config)
    with torch.inference_mode():
        model(ids[:, :30].repeat(2, 1), past_key_values=cache)
        cache.reorder_cache(torch.tensor([1, 0]))
        logits = model(ids[:, 30:].repeat(2, 1), past_key_values=cache).logits[1]
    assert relative_difference(torch_logits(model, ids[0].numpy())[30:], logits.numpy()) < 1e-5


def test_a_model_in_bfloat16_counts_positions_exactly() -> None:
    model = tiny_model(**BONUSES, keep_window_size=40, num_hidden_layers=1).to(torch.bfloat16)
    cache, ids = KeepWindowCache(model.config), torch.from_numpy(random_ids(700))[None]
    with torch.inference_mode():
        for chunk in ids.split(100, dim=1):
            steps = model(chunk, past_key_values=cache).logits
        whole = model(ids).logits[:, -100:]
    torch.testing.assert_close(steps, whole, atol=0.05, rtol=0.05)


def test_training_beyond_the_window_learns_with_bonuses() -> None:
    model = tiny_model(0, "sdpa", **BONUSES, keep_window_size=8, keep_sinks=2).train()
    ids = torch.arange(40)[None]
    loss = model(ids, labels=ids).loss
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("bonus", [-1, 2**20 + 1])
def test_a_bonus_that_float32_does_not_count_exactly_is_refused(bonus: int) -> None:
    with pytest.raises(CheckpointError, match=f"keep_bonus is {bonus}; it must be from 0 to 1048576"):
        DogeForCausalLM(tiny_config(keep_bonus=bonus))


def test_a_cache_of_another_bonus_is_refused() -> None:
    model = tiny_model(**BONUSES)
    cache = KeepWindowCache(model.config)
    model.config.keep_bonus = 7
    with pytest.raises(OptionError, match=r"keep_bonus 60, keep_recent 0 and 2 layers; it must have 64, 0, 7, 0 and 2"):
        model(torch.arange(3)[None], past_key_values=cache)


def test_a_saved_model_has_its_bonuses_again(tmp_path: Path) -> None:
    model = tiny_model(**FORMS["bonuses"], max_position_embeddings=64)
    model.save_pretrained(tmp_path)
    assert '"model_type": "doge_model"' in (tmp_path / "config.json").read_text()
    loaded = load_checkpoint(tmp_path).model
    assert loaded.config.keep_bonus == 60
    assert relative_difference(torch_logits(loaded, random_ids(99)), torch_logits(model, random_ids(99))) < 1e-5
