"""Bonuses in exported decoders: every way to feed a stream against the full matrix, states, and old files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doge_export.errors import PackageError, StateError
from doge_export.quantization.state_scales import measure_scales
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import METADATA_KEY, DecoderDescription
from doge_export.runtime.eviction import FullWindow, Keys, bonuses
from tests.helpers.models import (
    exported,
    feed,
    random_ids,
    relative_difference,
    tiny_model,
    torch_logits,
    without_mask,
    write_model,
)

pytestmark = pytest.mark.usefixtures("each_way")
BONUSES: dict[str, Any] = {"qk_norm": False, "keep_bonus": 60, "keep_window_size": 20}
WAYS = [[200], [1] * 200, [20, *[1] * 30, 150], [7, 50, 1, 100, *[1] * 42]]


@pytest.mark.parametrize("sinks", [0, 4])
@pytest.mark.parametrize("heads", [{}, {"num_key_value_heads": 1}, {"num_mask_heads": 4}, {"attention_bias": True}])
def test_every_way_to_feed_a_stream_equals_the_full_matrix(heads: dict[str, Any], sinks: int, tmp_path: Path) -> None:
    model = tiny_model(**BONUSES | heads, keep_sinks=sinks)
    decoder, ids = exported(model, tmp_path), random_ids(200)
    expected = torch_logits(model, ids)
    for lengths in WAYS:
        assert relative_difference(expected, feed(decoder, ids, lengths)) < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_a_short_bonus_and_one_far_longer_than_the_window_are_exact(seed: int, tmp_path: Path) -> None:
    model = tiny_model(seed, **BONUSES | {"keep_bonus": (1, 3, 40, 2**20)[seed]}, keep_sinks=2)
    decoder, ids = exported(model, tmp_path), random_ids(200, seed)
    expected = torch_logits(model, ids)
    for lengths in WAYS:
        assert relative_difference(expected, feed(decoder, ids, lengths)) < 1e-5


def test_the_window_keeps_the_keys_of_the_full_matrix(tmp_path: Path) -> None:
    model = tiny_model(**BONUSES, num_hidden_layers=1, keep_sinks=2)
    decoder, ids = exported(model, tmp_path), random_ids(150)
    states = [decoder.new_state() for _ in WAYS[:3]]
    for state, lengths in zip(states, ([150], [1] * 150, [30, 1, 1, 118]), strict=True):
        feed(decoder, ids, lengths, state)
    kept = [np.sort(state.full_window().keys.positions) for state in states]
    assert all(np.array_equal(kept[0], other) for other in kept)
    assert (kept[0][..., 2] < 120).all()  # a key that recency alone would have lost


def test_a_stream_far_along_orders_its_keys_as_one_at_the_beginning(tmp_path: Path) -> None:
    decoder, ids = exported(tiny_model(**BONUSES, keep_sinks=2), tmp_path), random_ids(150)
    near, far = decoder.new_state(), decoder.new_state()
    for state in (near, far):
        feed(decoder, ids[:60], [60], state)
    moved = 2**31 + 12_345  # positions beyond the whole numbers of float32
    far._position += moved
    far.full_window().keys.positions[:] += moved
    for state in (near, far):
        feed(decoder, ids[60:], [1] * 20 + [70], state)
    kept = [np.sort(state.full_window().keys.positions[0]) for state in (near, far)]  # layer 0 sees no rotation
    assert np.array_equal(kept[1] - moved, kept[0])


def test_a_state_in_8_bits_follows_the_bonuses(tmp_path: Path) -> None:
    model, ids = tiny_model(**BONUSES, keep_sinks=2, num_hidden_layers=1), random_ids(200)
    write_model(model, "fp32", tmp_path / "int8", measure_scales(model, [ids]))
    decoders = [exported(model, tmp_path / "float32"), Decoder(tmp_path / "int8", threads=1)]
    kept = []
    for decoder in decoders:
        for lengths in ([200], [1] * 200):
            state = decoder.new_state()
            assert relative_difference(torch_logits(model, ids), feed(decoder, ids, lengths, state)) < 0.05
            kept.append(np.sort(state.full_window().keys.positions))
    assert all(np.array_equal(kept[0], other) for other in kept)


def test_without_a_mask_a_bonus_means_nothing(tmp_path: Path) -> None:
    model = without_mask(tiny_model(**BONUSES, keep_sinks=2))
    decoder, ids = exported(model, tmp_path), random_ids(90)
    assert decoder.description.keep_bonus == 0
    assert relative_difference(torch_logits(model, ids), feed(decoder, ids, [50, *[1] * 40])) < 1e-5


def test_the_smallest_sum_is_the_first_candidate_and_of_equal_ones_the_oldest() -> None:
    keys = Keys(np.array([[[0.0, 4.0, 2.0, 9.0, 0.0]]], np.float32), np.array([[[0, 1, 3, 2, 6]]]))
    window = FullWindow(keys, keep_sinks=1, has_bonus=True)
    candidates = window.candidates(4, 7)
    assert candidates.slots.tolist() == [[[1, 2, 4, 3]]]
    assert candidates.keys.precedence.tolist() == [[[-2, -2, -1, 4]]]
    assert window.copy().candidates(1, 7).slots.tolist() == [[[1]]]


def test_bonuses_are_whole_bounded_and_rounded_to_even_like_in_pytorch() -> None:
    precedence = np.array([-3, 0.5, 1.5, 2.4, 700], np.float32) * np.float32(2.0**-40)
    assert bonuses(precedence, 60).tolist() == [0, 0, 2, 2, 60]


@pytest.mark.parametrize("length", [5, 20, 70])
@pytest.mark.parametrize("kv_int8", [False, True])
@pytest.mark.parametrize("recent", [0, 6])
def test_a_saved_and_a_copied_state_go_on_bit_by_bit(length: int, kv_int8: bool, recent: int, tmp_path: Path) -> None:
    model, ids = tiny_model(**BONUSES, num_mask_heads=4, keep_sinks=2, keep_recent=recent), random_ids(100)
    write_model(model, "fp32", tmp_path, measure_scales(model, [ids]) if kv_int8 else None)
    decoder = Decoder(tmp_path, threads=1)
    state = decoder.new_state()
    feed(decoder, ids[:length], [length], state)
    state.save(tmp_path / "state")
    others = [decoder.load_state(tmp_path / "state"), state.copy()]
    rest = [1] * (100 - length)
    expected = feed(decoder, ids[length:], rest, state)
    for other in others:
        np.testing.assert_array_equal(feed(decoder, ids[length:], rest, other), expected)


@pytest.mark.parametrize(("saver", "loader"), [(0, 60), (60, 0), (60, 40)])
def test_a_state_of_another_rule_is_refused(saver: int, loader: int, tmp_path: Path) -> None:
    model = tiny_model(**BONUSES)
    decoders = []
    for most in (saver, loader):
        model.config.keep_bonus = most
        decoders.append(exported(model, tmp_path / str(most)))
    state = decoders[0].new_state()
    decoders[0].forward(state, random_ids(5))
    state.save(tmp_path / "state")
    with pytest.raises(StateError, match=r"another model|keep_bonus"):
        decoders[1].load_state(tmp_path / "state")
    with pytest.raises(StateError, match="belongs to another model"):
        decoders[1].forward(state, random_ids(1))


def test_a_state_of_the_same_weights_and_another_bonus_names_both(tmp_path: Path) -> None:
    model = tiny_model(**BONUSES)
    decoders = []
    for most in (60, 40):
        model.config.keep_bonus = most
        decoders.append(exported(model, tmp_path / str(most)))
    assert decoders[0].description.weights_sha256 == decoders[1].description.weights_sha256
    state = decoders[0].new_state()
    decoders[0].forward(state, random_ids(5))
    state.save(tmp_path / "state")
    with pytest.raises(StateError, match="of a model with keep_bonus 60, but this one has 40; load it with the"):
        decoders[1].load_state(tmp_path / "state")


def test_files_without_bonuses_do_not_mention_them_and_older_drivers_refuse_those_with(tmp_path: Path) -> None:
    model = tiny_model(**BONUSES, keep_sinks=2)
    described = json.loads(exported(model, tmp_path).description.to_metadata()[METADATA_KEY])
    assert (described["keep_bonus"], described["format_version"]) == (60, 36)
    for wrong in ({"format_version": 16}, {"keep_bonus": 0}, {"keep_bonus": -1}, {"keep_bonus": "2"}):
        with pytest.raises(PackageError, match="export the checkpoint again"):
            DecoderDescription.from_metadata({METADATA_KEY: json.dumps(described | wrong)}, tmp_path)
    plain = exported(tiny_model(keep_sinks=2), tmp_path / "plain").description.to_metadata()[METADATA_KEY]
    assert "keep_bonus" not in json.loads(plain)
