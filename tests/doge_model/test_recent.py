"""Recent keys are safe: whatever bonuses others have, a query sees the last keep_recent tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doge_common.errors import CheckpointError, OptionError
from doge_model import DogeForCausalLM, KeepWindowCache, load_checkpoint
from doge_model.mask import visible_keys, with_recent, with_sinks
from tests.helpers.models import random_ids, relative_difference, tiny_config, tiny_model, torch_logits

RECENT: dict[str, Any] = {"keep_window_size": 20, "keep_sinks": 2, "keep_recent": 7}


@given(
    bonuses=st.lists(st.sampled_from([0, 1, 5, 2**20]), min_size=20, max_size=60),
    window=st.integers(3, 16),
    recent=st.integers(1, 14),
    sinks=st.integers(0, 4),
)
def test_every_key_stays_for_so_many_tokens_whatever_the_bonuses_are(
    bonuses: list[int], window: int, recent: int, sinks: int
) -> None:
    sinks = min(sinks, window - 2)
    recent, length = min(recent, window - sinks - 1), len(bonuses)
    until = (torch.tensor(bonuses) + torch.arange(length)).double()[None, None]
    visible = visible_keys(with_sinks(until, sinks), length, window, recent)[0, 0]
    age = torch.arange(length)[:, None] - torch.arange(length)
    assert bool(visible[(age >= 0) & (age < recent)].all())
    assert int(visible.sum(-1).max()) == min(window, length)


def test_fresh_keys_leave_at_once_behind_long_bonuses_unless_they_are_safe() -> None:
    until = torch.tensor([[[*range(1000, 1010), *range(10, 30)]]], dtype=torch.float64)
    for recent in (0, 4):
        ages = 30 - visible_keys(until, 1, 8, recent)[0, 0, 0].nonzero().flatten()
        assert (ages <= 4).sum() == recent


@pytest.mark.parametrize("fields", [{}, {"keep_bonus": 60, "qk_norm": False}, {"num_mask_heads": 4, "qk_norm": False}])
@pytest.mark.parametrize("lengths", [[1] * 90, [7] * 12 + [6], [25, 40, 25], [90]])
def test_a_learned_mask_and_bonuses_alike_keep_recent_keys_in_every_form(
    fields: dict[str, Any], lengths: list[int]
) -> None:
    model, ids = tiny_model(**RECENT | fields), random_ids(90)
    cache, rows = KeepWindowCache(model.config), []
    with torch.inference_mode():
        for chunk in torch.from_numpy(ids)[None].split(lengths, dim=1):
            rows.append(model(chunk, past_key_values=cache).logits[0])
    assert relative_difference(torch_logits(model, ids), torch.cat(rows).numpy()) < 1e-5


@pytest.mark.parametrize("pieces", [[71], [20, 51], [40, 1, 1, 29]])
def test_padding_amid_a_row_does_not_count_as_recent(pieces: list[int]) -> None:
    model, mask = tiny_model(**RECENT), torch.ones(1, 71, dtype=torch.long)
    mask[:, 25:36] = 0
    ids = torch.from_numpy(random_ids(60))
    padded = torch.zeros_like(mask).masked_scatter(mask.bool(), ids)
    places, cache, rows = (mask.cumsum(-1) - 1).split(pieces, dim=1), KeepWindowCache(model.config), []
    with torch.inference_mode():
        for chunk, positions in zip(padded.split(pieces, dim=1), places, strict=True):
            seen = mask[:, : cache.get_seq_length() + chunk.shape[1]]
            rows.append(model(chunk, attention_mask=seen, position_ids=positions, past_key_values=cache).logits[0])
    kept = torch.cat(rows)[mask[0].bool()]
    assert relative_difference(torch_logits(model, ids.numpy()), kept.numpy()) < 1e-5


def test_padding_takes_the_place_of_no_safe_key() -> None:
    until = torch.tensor([[[900.0, 901, 902, 3, 4, 5, -torch.inf, -torch.inf, 8, 9]]])
    visible = visible_keys(until, 2, 5, 3)[0, 0]
    assert [row.nonzero().flatten().tolist() for row in visible] == [[1, 2, 4, 5, 8], [1, 2, 5, 8, 9]]
    assert with_recent(until, 3)[0, 0].isposinf().nonzero().flatten().tolist() == [5, 8, 9]


def test_safe_keys_change_what_a_model_sees() -> None:
    model, ids = tiny_model(**RECENT, keep_bonus=200, qk_norm=False), random_ids(80)
    safe = torch_logits(model, ids)
    model.config.keep_recent = 0
    assert relative_difference(safe[:20], torch_logits(model, ids)[:20]) < 1e-6
    assert relative_difference(safe[40:], torch_logits(model, ids)[40:]) > 0.05


@pytest.mark.parametrize("recent", [-1, 18])
def test_more_safe_keys_than_the_window_has_room_for_are_refused(recent: int) -> None:
    with pytest.raises(CheckpointError, match=f"keep_recent is {recent}; it must be from 0 to 17, below keep_window_"):
        DogeForCausalLM(tiny_config(**RECENT | {"keep_recent": recent}))


def test_a_cache_of_other_safe_keys_is_refused() -> None:
    model = tiny_model(**RECENT)
    cache = KeepWindowCache(model.config)
    model.config.keep_recent = 3
    with pytest.raises(OptionError, match=r"keep_recent 7 and 2 layers; it must have 20, 2, 0, 3 and 2, as of"):
        model(torch.arange(3)[None], past_key_values=cache)


def test_a_saved_model_has_its_safe_keys_again(tmp_path: Path) -> None:
    model = tiny_model(**RECENT, max_position_embeddings=20, keep_bonus=60, qk_norm=False)
    model.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path).model
    assert loaded.config.keep_recent == 7
    np.testing.assert_allclose(torch_logits(loaded, random_ids(70)), torch_logits(model, random_ids(70)), atol=1e-4)
