"""Sinks: the first tokens of a stream never leave the window, by the full matrix and by the cache alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from doge_common.errors import CheckpointError
from doge_model import DogeForCausalLM, KeepWindowCache, load_checkpoint
from doge_model.llama import KEEP_SINKS, llama_sinks
from doge_model.mask import visible_keys, with_sinks
from tests.helpers.checkpoints import save_doge, tiny_llama
from tests.helpers.models import (
    FORMS,
    is_settled,
    relative_difference,
    repeated_ids,
    tiny_config,
    tiny_model,
    torch_logits,
    without_mask,
)


def stream(model: DogeForCausalLM, ids: np.ndarray, lengths: list[int]) -> np.ndarray:
    cache, rows = KeepWindowCache(model.config), []
    with torch.inference_mode():
        for chunk in torch.from_numpy(ids)[None].split(lengths, dim=1):
            rows.append(model(chunk, past_key_values=cache, use_cache=True).logits[0])
    return torch.cat(rows).numpy()


@given(
    precedence=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    window=st.integers(1, 12),
    sinks=st.integers(0, 11),
)
def test_every_query_sees_the_sinks_and_the_largest_of_the_rest(precedence: list[int], window: int, sinks: int) -> None:
    sinks = min(sinks, window - 1)
    keys, length = torch.tensor([[precedence]]).float(), len(precedence)
    visible = visible_keys(with_sinks(keys, sinks), length, window)[0, 0]
    for query in range(length):
        rest = sorted(range(sinks, query + 1), key=lambda j: (precedence[j], j))[-(window - sinks) :]
        expected = {*range(min(sinks, query + 1)), *rest}
        assert set(visible[query].nonzero().flatten().tolist()) == expected


def test_without_sinks_precedence_is_left_as_it_is() -> None:
    precedence = torch.tensor([[[1.0, 2.0]]])
    assert with_sinks(precedence, 0) is precedence


def test_padding_is_no_sink() -> None:
    precedence = torch.tensor([[[-torch.inf, -torch.inf, 1.0, 2.0, 3.0]]])
    assert with_sinks(precedence, 2).tolist() == [[[-torch.inf, -torch.inf, torch.inf, torch.inf, 3.0]]]


@settings(deadline=None, max_examples=25)
@given(
    window=st.integers(2, 20),
    sinks=st.integers(1, 19),
    form=st.sampled_from(["native", "native, one kv head", "small-doge", "small-doge, one kv head"]),
    masked=st.booleans(),
    attn_implementation=st.sampled_from(["eager", "sdpa"]),
    cuts=st.lists(st.integers(1, 79), max_size=8),
    seed=st.integers(0, 10_000),
)
def test_any_chunking_through_the_cache_equals_the_full_matrix(
    window: int, sinks: int, form: str, masked: bool, attn_implementation: str, cuts: list[int], seed: int
) -> None:
    sinks = min(sinks, window - 1)
    model = tiny_model(seed, attn_implementation, **FORMS[form], keep_window_size=window, keep_sinks=sinks)
    if not masked:
        without_mask(model)
    ids = repeated_ids(80, times=max(1, min(window - sinks - 1, 6)), seed=seed)
    assume(is_settled(model, ids))
    borders = sorted({0, *cuts, 80})
    assert relative_difference(torch_logits(model, ids), stream(model, ids, np.diff(borders).tolist())) < 1e-5


@pytest.mark.parametrize("alphabet", [1, 2])
def test_ties_leave_the_sinks_where_they_are(alphabet: int) -> None:
    model = tiny_model(num_hidden_layers=1, keep_window_size=6, keep_sinks=2)
    ids = np.random.default_rng(0).integers(alphabet, size=40)
    cache = KeepWindowCache(model.config)
    with torch.inference_mode():
        rows = [model(torch.tensor([[token]]), past_key_values=cache).logits[0] for token in ids]
        first = KeepWindowCache(model.config)
        for token in ids[:2]:
            model(torch.tensor([[token]]), past_key_values=first)
    assert torch.equal(cache.layers[0].keys[:, :, :2], first.layers[0].keys)
    assert relative_difference(torch_logits(model, ids), torch.cat(rows).numpy()) < 1e-5


def test_sinks_change_the_logits_only_beyond_the_window() -> None:
    with_none, with_two = (tiny_model(keep_window_size=8, keep_sinks=sinks) for sinks in (0, 2))
    ids = np.arange(40)
    difference = np.abs(torch_logits(with_none, ids) - torch_logits(with_two, ids)).max(-1)
    assert (difference[:8] == 0).all()
    assert (difference[8:] > 0).any()


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_positions_are_counted_inside_the_window(attn_implementation: str) -> None:
    # With one layer and no mask, a query sees the sinks and the most recent tokens, and no trace of those between.
    model = tiny_model(0, attn_implementation, num_hidden_layers=1, keep_window_size=8, keep_sinks=2)
    ids = np.arange(40)
    expected = torch_logits(without_mask(model), np.concatenate([ids[:2], ids[34:]]))[-1]
    assert relative_difference(expected, torch_logits(model, ids)[-1]) < 1e-5
    assert relative_difference(expected, stream(model, ids, [5, 30, 1, 4])[-1]) < 1e-5


def test_sinks_of_a_padded_row_are_its_first_tokens() -> None:
    model = tiny_model(keep_window_size=6, keep_sinks=2)
    ids = torch.from_numpy(np.random.default_rng(0).integers(9, size=(2, 9)))
    ids[1, :4] = 0
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    alone = model.generate(ids[1:, 4:], max_new_tokens=20, do_sample=False)
    for cache in (None, KeepWindowCache(model.config)):
        together = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=20, do_sample=False)
        assert together[1, 9:].tolist() == alone[0, 5:].tolist()


def test_a_row_with_padding_in_front_computes_as_it_would_alone() -> None:
    model = tiny_model(keep_window_size=6, keep_sinks=2)
    ids = torch.arange(30)[None]
    padded, mask = torch.nn.functional.pad(ids, (11, 0)), torch.ones(1, 41, dtype=torch.long)
    mask[:, :11] = 0
    with torch.inference_mode():
        whole = model(padded, attention_mask=mask).logits[0, 11:]
        cache = KeepWindowCache(model.config)
        pieces = [(0, 14), (14, 15), (15, 41)]
        rows = [model(padded[:, a:b], attention_mask=mask[:, :b], past_key_values=cache).logits[0] for a, b in pieces]
    for logits in (whole, torch.cat(rows)[11:]):
        assert relative_difference(torch_logits(model, ids[0].numpy()), logits.numpy()) < 1e-5


@pytest.mark.parametrize("mask_of", ["new tokens", "nothing"])
def test_steps_without_the_mask_of_cached_padding_keep_their_positions(mask_of: str) -> None:
    model = tiny_model(keep_sinks=2)
    ids, mask = torch.arange(20)[None], torch.ones(1, 20, dtype=torch.long)
    mask[:, :3] = 0
    step = mask[:, -1:] if mask_of == "new tokens" else None
    logits = []
    for step_mask in (mask, step):
        cache = KeepWindowCache(model.config)
        with torch.inference_mode():
            model(ids[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache)
            logits.append(model(ids[:, -1:], attention_mask=step_mask, past_key_values=cache).logits.numpy())
    assert relative_difference(logits[1], logits[0]) < 1e-5


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_training_in_rows_longer_than_the_window_learns_with_the_sinks(attn_implementation: str) -> None:
    model = tiny_model(0, attn_implementation, keep_window_size=8, keep_sinks=2).train()
    model.gradient_checkpointing_enable()
    ids = torch.arange(40)[None]
    loss = model(ids, labels=ids).loss
    loss.backward()
    with torch.inference_mode():
        assert loss.item() == pytest.approx(model.eval()(ids, labels=ids).loss.item(), rel=1e-5)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("sinks", [-1, 8, 9])
def test_sinks_that_leave_no_room_for_another_key_are_refused(sinks: int) -> None:
    config = tiny_config(keep_window_size=8, keep_sinks=sinks)
    with pytest.raises(CheckpointError, match=f"keep_sinks is {sinks}; it must be from 0 to 7, below keep_window_size"):
        DogeForCausalLM(config)


def test_a_lifted_llama_has_sinks_that_leave_room_for_another_key(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    assert load_checkpoint(tmp_path).model.config.keep_sinks == KEEP_SINKS
    assert KEEP_SINKS >= 1
    assert llama_sinks(1) == 0


@pytest.mark.parametrize(("sinks", "model_type"), [(KEEP_SINKS, "llama"), (0, "doge_model"), (5, "doge_model")])
def test_a_saved_llama_has_its_sinks_again(sinks: int, model_type: str, tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "llama")
    model = load_checkpoint(tmp_path / "llama").model
    model.config.keep_sinks = sinks
    model.save_pretrained(tmp_path / "saved")
    assert f'"model_type": "{model_type}"' in (tmp_path / "saved/config.json").read_text()
    assert load_checkpoint(tmp_path / "saved").model.config.keep_sinks == sinks


@pytest.mark.parametrize(("fields", "sinks"), [({}, 0), ({"keep_sinks": 3}, 3)])
def test_a_saved_doge_has_its_sinks_again(fields: dict[str, int], sinks: int, tmp_path: Path) -> None:
    save_doge(tmp_path, keep_window_size=16, **fields)
    assert load_checkpoint(tmp_path).model.config.keep_sinks == sinks
