"""The constant-memory cache of the PyTorch model against the full matrix."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from doge_common.errors import OptionError
from doge_model import DogeForCausalLM, KeepWindowCache
from tests.helpers.models import FORMS, relative_difference, repeated_ids, settled_ids, tiny_model, torch_logits


def stream(model: DogeForCausalLM, ids: np.ndarray, lengths: list[int]) -> tuple[np.ndarray, KeepWindowCache]:
    cache, rows = KeepWindowCache(model.config), []
    with torch.inference_mode():
        for chunk in torch.from_numpy(ids)[None].split(lengths, dim=1):
            rows.append(model(chunk, past_key_values=cache, use_cache=True).logits[0])
    return torch.cat(rows).numpy(), cache


@pytest.mark.slow
@pytest.mark.parametrize("keep_window_size", [2, 4, 13])
@pytest.mark.parametrize("form", FORMS)
def test_a_stream_many_windows_long_equals_the_full_matrix(form: str, keep_window_size: int) -> None:
    model = tiny_model(**FORMS[form], keep_window_size=keep_window_size)
    ids = settled_ids(model, partial(repeated_ids, 100, max(1, min(keep_window_size - 1, 6))))
    expected = torch_logits(model, ids)
    for lengths in ([1] * 100, [100], [30, 1, 1, 40, 5, 23]):
        logits, cache = stream(model, ids, lengths)
        assert relative_difference(expected, logits) < 1e-5
        assert all(layer.keys.shape[2] == keep_window_size for layer in cache.layers)


def test_the_cache_goes_back_within_its_window_and_not_beyond() -> None:
    model = tiny_model(keep_window_size=6)
    ids = np.random.default_rng(0).integers(9, size=9)
    _, cache = stream(model, ids[:5], [5])
    cache.crop(-2)
    with torch.inference_mode():
        logits = model(torch.from_numpy(ids[3:6])[None], past_key_values=cache).logits[0].numpy()
    assert relative_difference(torch_logits(model, ids[:6])[3:], logits) < 1e-5
    _, cache = stream(model, ids, [9])
    with pytest.raises(
        OptionError, match="max_length is 4; it must be at least the 9 tokens fed, as the window of 6 has evicted keys"
    ):
        cache.crop(4)


def test_a_cache_of_another_window_is_refused() -> None:
    cache = KeepWindowCache(tiny_model(keep_window_size=5).config)
    with pytest.raises(OptionError, match="has a window of 5, 0 sinks, keep_bonus 0, keep_recent 0 and 2 layers; it"):
        tiny_model(keep_window_size=6)(torch.tensor([[1, 2]]), past_key_values=cache)


def test_generate_takes_the_cache_and_gives_the_same_tokens() -> None:
    model = tiny_model(keep_window_size=6)
    ids = torch.tensor([[5, 6, 5, 7]])
    expected = model.generate(ids, max_new_tokens=40, do_sample=False)
    cache = KeepWindowCache(model.config)
    assert model.generate(ids, past_key_values=cache, max_new_tokens=40, do_sample=False).tolist() == expected.tolist()
    assert cache.get_seq_length() == 43


def test_left_padding_is_evicted_first() -> None:
    model = tiny_model(keep_window_size=6)
    ids = torch.from_numpy(np.random.default_rng(0).integers(9, size=(2, 9)))
    ids[1, :4] = 0
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    together = model.generate(
        ids, attention_mask=mask, past_key_values=KeepWindowCache(model.config), max_new_tokens=20, do_sample=False
    )
    alone = model.generate(ids[1:, 4:], max_new_tokens=20, do_sample=False)
    assert together[1, 9:].tolist() == alone[0, 5:].tolist()
