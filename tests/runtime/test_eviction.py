"""The recurrent decoder: streams longer than the window against the full matrix."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from doge_export.errors import RewindError
from doge_export.graph import eviction
from doge_export.graph.mask_numbers import PRECEDENCE_SCALE
from doge_export.runtime import eviction as window
from doge_export.runtime.description import DECODER_FILE, RECURRENT_FILE
from doge_export.runtime.eviction import FullWindow, Keys
from doge_model import mask
from tests.helpers.memory import held_bytes
from tests.helpers.models import (
    FORMS,
    attentions,
    exported,
    feed,
    is_settled,
    random_ids,
    relative_difference,
    repeated_ids,
    settled_ids,
    tiny_model,
    torch_logits,
    without_mask,
)

pytestmark = pytest.mark.usefixtures("each_way")


@pytest.mark.slow
@pytest.mark.parametrize(("window", "sinks"), [(2, 0), (7, 0), (24, 0), (2, 1), (7, 3), (24, 4)])
@pytest.mark.parametrize("form", FORMS)
def test_a_stream_many_windows_long_equals_the_full_matrix(form: str, window: int, sinks: int, tmp_path: Path) -> None:
    model = tiny_model(**FORMS[form], keep_window_size=window, keep_sinks=sinks)
    decoder = exported(model, tmp_path)
    ids = settled_ids(model, partial(repeated_ids, 150, max(1, min(window - sinks - 1, 6))))
    expected = torch_logits(model, ids)
    for lengths in ([150], [1] * 150, [window - 1, 3, 1, 1, 60, 1, 150 - 65 - window]):
        assert relative_difference(expected, feed(decoder, ids, lengths)) < 1e-5


def test_a_sequence_with_two_keys_as_far_apart_as_a_tie_is_not_settled() -> None:
    model = tiny_model(**FORMS["small-doge, one kv head"], keep_window_size=7, keep_sinks=3)
    assert not is_settled(model, repeated_ids(150, 3))  # its tokens 84 and 108, in a head of layer 2


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(
    window=st.integers(1, 40),
    sinks=st.integers(0, 39),
    kv_heads=st.sampled_from([1, 2, 4]),
    mask_per_head=st.booleans(),
    masked=st.booleans(),
    cuts=st.lists(st.integers(1, 119), max_size=12),
    seed=st.integers(0, 10_000),
)
def test_any_window_and_any_chunking_equal_the_full_matrix(
    tmp_path_factory: pytest.TempPathFactory,
    window: int,
    sinks: int,
    kv_heads: int,
    mask_per_head: bool,
    masked: bool,
    cuts: list[int],
    seed: int,
) -> None:
    model = tiny_model(
        seed,
        keep_window_size=window,
        keep_sinks=min(sinks, window - 1),
        num_key_value_heads=kv_heads,
        num_mask_heads=4 if mask_per_head else kv_heads,
        qk_norm=not mask_per_head,
    )
    if not masked:
        without_mask(model)
    decoder = exported(model, tmp_path_factory.mktemp("export"))
    ids = np.random.default_rng(seed).integers(97, size=120) if window - sinks > 8 else np.arange(97)
    assume(is_settled(model, ids))
    borders = sorted({0, *(cut for cut in cuts if cut < len(ids)), len(ids)})
    assert relative_difference(torch_logits(model, ids), feed(decoder, ids, np.diff(borders).tolist())) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("window", [3, 8, 31])
@pytest.mark.parametrize("alphabet", [1, 2, 5])
def test_a_window_full_of_one_token_keeps_the_most_recent(alphabet: int, window: int, tmp_path: Path) -> None:
    model = tiny_model(**FORMS["native"], keep_window_size=window)
    decoder, ids = exported(model, tmp_path), settled_ids(model, partial(random_ids, window * 9, vocab_size=alphabet))
    expected = torch_logits(model, ids)
    for lengths in ([len(ids)], [1] * len(ids), [window * 2, *[1] * window, window * 6]):
        assert relative_difference(expected, feed(decoder, ids, lengths)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0, 1e-42, 1e-30, 1e-11, 1e6])
def test_mask_logits_of_any_size_order_keys_alike(scale: float, tmp_path: Path) -> None:
    model = tiny_model(keep_window_size=8)
    for attention in attentions(model):
        attention.dt_proj.weight.data.mul_(scale)
        attention.A.data.mul_(min(1, 1 / max(scale, 1)))  # dt itself stays finite
    ids = settled_ids(model, partial(repeated_ids, 70, 3))
    decoder = exported(model, tmp_path)
    assert relative_difference(torch_logits(model, ids), feed(decoder, ids, [30, *[1] * 10, 30])) < 1e-5


def test_equal_tokens_tie_however_they_are_fed(tmp_path: Path) -> None:
    model = tiny_model(num_hidden_layers=1)
    decoder, ids = exported(model, tmp_path), np.array([5, 1, 5, 2, 5, 3, 4, 5, 5])
    for lengths in ([9], [1] * 9, [2, 4, 3]):
        state = decoder.new_state()
        feed(decoder, ids, lengths, state)
        precedence = state.cache[0, 1, :, :9, decoder.description.head_dim]
        assert all(len(np.unique(head)) == 5 for head in precedence)


def test_a_full_window_never_grows(tmp_path: Path) -> None:
    decoder = exported(tiny_model(keep_window_size=8), tmp_path)
    state = decoder.new_state()
    lengths = [100, *[1] * 60, 40]
    feed(decoder, repeated_ids(200, 6), lengths, state)
    nbytes, held = state.nbytes, held_bytes(state, decoder)
    for _ in range(3):
        feed(decoder, repeated_ids(200, 6), lengths, state)
    assert (state.nbytes, state.position) == (nbytes, 800)
    assert abs(held_bytes(state, decoder) - held) < 100  # the numbers of positions


def test_a_copy_of_a_full_state_goes_on_independently(tmp_path: Path) -> None:
    model = tiny_model(**FORMS["small-doge"], keep_window_size=8)
    decoder, ids = exported(model, tmp_path), repeated_ids(60, 6)
    state = decoder.new_state()
    feed(decoder, ids[:30], [30], state)
    copy = state.copy()
    feed(decoder, ids[::-1][:20].copy(), [1] * 20, state)
    assert relative_difference(torch_logits(model, ids)[30:], feed(decoder, ids[30:], [1] * 30, copy)) < 1e-5


def test_going_back_is_refused_once_a_key_was_evicted(tmp_path: Path) -> None:
    decoder = exported(tiny_model(keep_window_size=8), tmp_path)
    state = decoder.new_state()
    feed(decoder, repeated_ids(9, 3), [9], state)
    with pytest.raises(RewindError, match=r"window of 8 tokens has overflowed.*copy\(\)"):
        state.truncate(4)


def test_the_plain_graph_evicts_nothing(tmp_path: Path) -> None:
    exported(tiny_model(), tmp_path)
    graphs = [onnx.load(tmp_path / name, load_external_data=False).graph for name in (DECODER_FILE, RECURRENT_FILE)]
    plain, recurrent = ([node.name for node in graph.node if "eviction" in node.name] for graph in graphs)
    assert not plain
    assert recurrent


def test_keys_are_evicted_by_precedence_and_close_ones_by_age() -> None:
    precedence = np.array([0.5, -2.0, 0.5, 1e-6, -0.0, -1.0, 0.0, 1e-4], np.float32) * np.float32(PRECEDENCE_SCALE)
    keys = Keys(precedence, np.arange(8) + 2**31)
    assert keys.eviction_order().tolist() == [1, 5, 3, 4, 6, 7, 0, 2]


def test_graph_runtime_and_torch_have_one_width_of_ties() -> None:
    assert eviction.TIE == window.TIE == np.float32(mask.TIE * PRECEDENCE_SCALE)


@given(st.lists(st.floats(-8, 8, width=32) | st.sampled_from([0.0, 1e-6, 1.0, 1 + 1e-6]), min_size=2, max_size=9))
def test_ties_are_alike_in_torch(values: list[float]) -> None:
    precedence = np.array(values, np.float32)
    order = mask.tie_classes(torch.from_numpy(precedence)).argsort(stable=True).tolist()
    assert Keys(precedence * np.float32(PRECEDENCE_SCALE), np.arange(len(values))).eviction_order().tolist() == order


def test_padding_is_of_one_class_below_all_others() -> None:
    precedence = torch.tensor([0.5, -torch.inf, -3.0, -torch.inf])
    assert mask.tie_classes(precedence).tolist() == [2, 0, 1, 0]


def test_the_first_evicted_is_the_oldest_of_those_that_tie_with_the_lowest() -> None:
    precedence = np.array([[[2e-6, 0.5, 0.0, 1e-6]]], np.float32) * np.float32(PRECEDENCE_SCALE)
    window = FullWindow(Keys(precedence, np.array([[[7, 4, 5, 6]]])))
    assert window.candidates(1, 9).slots.tolist() == [[[2]]]
    assert window.candidates(3, 9).slots.tolist() == [[[2, 3, 0]]]


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1e-4, 0.016])
def test_keys_whose_dt_differ_in_the_last_digits_only_are_told_apart(spread: float, tmp_path: Path) -> None:
    model = tiny_model(keep_window_size=12)
    for attention in attentions(model):
        attention.A.data.mul_(spread / attention.A.data.abs())
    decoder, ids = exported(model, tmp_path), np.random.default_rng(0).permutation(97)
    for lengths in ([97], [1] * 97, [30, 1, 66]):
        assert relative_difference(torch_logits(model, ids), feed(decoder, ids, lengths)) < 1e-5


def test_the_lowest_rank_is_evicted_be_it_the_new_key_itself() -> None:
    cache = np.arange(6, dtype=np.float32).reshape(1, 2, 1, 3, 1)  # two slots and the one behind them
    window = FullWindow(Keys(np.array([[[1.0, 2.0]]], np.float32), np.array([[[0, 1]]])))
    candidates = window.candidates(1, 2)
    assert candidates.slots.tolist() == [[[0]]]
    window.admit(cache, candidates, Keys(np.array([[[0.5]]], np.float32), np.array([[[2]]])))
    assert cache.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    window.admit(cache, candidates, Keys(np.array([[[1.0]]], np.float32), np.array([[[2]]])))
    assert cache.flatten().tolist() == [2, 1, 2, 5, 4, 5]
