"""Safe recent keys in exported decoders: every way to feed a stream against the full matrix, states, and old files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doge_export.errors import PackageError, StateError
from doge_export.quantization.state_scales import measure_scales
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import METADATA_KEY, DecoderDescription
from doge_export.runtime.eviction import FullWindow, Keys
from tests.helpers.models import (
    exported,
    feed,
    random_ids,
    relative_difference,
    repeated_ids,
    settled_ids,
    tiny_model,
    torch_logits,
    without_mask,
    write_model,
)

pytestmark = pytest.mark.usefixtures("each_way")
BONUSES: dict[str, Any] = {"qk_norm": False, "keep_bonus": 60, "keep_window_size": 20}
WAYS = [[200], [1] * 200, [20, 3, *[1] * 27, 6, 144], [7, 50, 1, 100, *[1] * 42]]


@pytest.mark.parametrize(("sinks", "recent"), [(0, 1), (4, 6), (2, 17)])
@pytest.mark.parametrize("heads", [{}, {"num_key_value_heads": 1}, {"num_mask_heads": 4}, {"attention_bias": True}])
def test_every_way_to_feed_a_stream_equals_the_full_matrix(
    heads: dict[str, Any], sinks: int, recent: int, tmp_path: Path
) -> None:
    model = tiny_model(**BONUSES | heads, keep_sinks=sinks, keep_recent=recent)
    decoder, ids = exported(model, tmp_path), random_ids(200)
    expected = torch_logits(model, ids)
    for lengths in WAYS:
        assert relative_difference(expected, feed(decoder, ids, lengths)) < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_bonuses_of_every_length_and_random_chunks_are_exact(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    rule = {"keep_bonus": (1, 3, 40, 2**20)[seed], "keep_sinks": int(draw.integers(4))}
    model = tiny_model(seed, **BONUSES | rule, keep_recent=int(draw.integers(1, 16)))
    decoder, ids = exported(model, tmp_path), random_ids(220, seed)
    lengths = draw.choice([1, 2, 5, 9, 30], 300)
    lengths = lengths[: int((lengths.cumsum() < 220).sum())].tolist()
    expected = torch_logits(model, ids)
    assert relative_difference(expected, feed(decoder, ids, [*lengths, 220 - sum(lengths)])) < 1e-5


@pytest.mark.parametrize("fields", [{}, {"num_key_value_heads": 1}, {"qk_norm": False, "num_mask_heads": 4}])
def test_a_learned_mask_keeps_recent_keys_too(fields: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(**fields, keep_window_size=20, keep_sinks=3, keep_recent=8)
    decoder, ids = exported(model, tmp_path), settled_ids(model, partial(repeated_ids, 200, 3))
    expected = torch_logits(model, ids)
    for lengths in WAYS:
        assert relative_difference(expected, feed(decoder, ids, lengths)) < 1e-5


def test_the_window_has_the_last_keys_and_those_of_the_full_matrix(tmp_path: Path) -> None:
    model = tiny_model(**BONUSES, num_hidden_layers=1, keep_sinks=2, keep_recent=9)
    decoder, ids, kept = exported(model, tmp_path), random_ids(150), []
    for lengths in ([150], [1] * 150, [30, 1, 1, 118]):
        state = decoder.new_state()
        feed(decoder, ids, lengths, state)
        kept.append(np.sort(state.full_window().keys.positions))
    assert all(np.array_equal(kept[0], other) for other in kept)
    assert (kept[0][..., -9:] == np.arange(141, 150)).all()
    assert (kept[0][..., 2] < 120).all()  # a key that recency alone would have lost


def test_the_candidates_are_the_oldest_sums_and_then_the_keys_that_enter() -> None:
    keys = Keys(np.array([[[0.0, 4.0, 2.0, 9.0, 0.0, 0.0]]], np.float32), np.array([[[0, 5, 3, 2, 6, 1]]]))
    window = FullWindow(keys, keep_sinks=1, has_bonus=True, keep_recent=2)
    candidates = window.candidates(4, 7)
    assert candidates.slots.tolist() == [[[5, 2, 3, 1, 4]]]
    assert candidates.keys.precedence.tolist() == [[[-6, -2, 4, 2, -1]]]
    assert window.copy().candidates(1, 7).slots.tolist() == [[[5, 1]]]


def test_a_state_in_8_bits_keeps_recent_keys(tmp_path: Path) -> None:
    model = tiny_model(**BONUSES, keep_sinks=2, keep_recent=5, num_hidden_layers=1)
    ids, kept = random_ids(200), []
    write_model(model, "fp32", tmp_path / "int8", measure_scales(model, [ids]))
    for decoder in (exported(model, tmp_path / "float32"), Decoder(tmp_path / "int8", threads=1)):
        for lengths in ([200], [1] * 200):
            state = decoder.new_state()
            assert relative_difference(torch_logits(model, ids), feed(decoder, ids, lengths, state)) < 0.05
            kept.append(np.sort(state.full_window().keys.positions))
    assert all(np.array_equal(kept[0], other) for other in kept)


def test_without_a_mask_recent_keys_are_those_that_stay_anyway(tmp_path: Path) -> None:
    model = without_mask(tiny_model(**BONUSES, keep_sinks=2, keep_recent=5))
    decoder, ids = exported(model, tmp_path), random_ids(90)
    assert decoder.description.keep_recent == 0
    assert relative_difference(torch_logits(model, ids), feed(decoder, ids, [50, *[1] * 40])) < 1e-5


def test_a_state_of_other_safe_keys_names_both(tmp_path: Path) -> None:
    model, decoders = tiny_model(**BONUSES), []
    for recent in (6, 0):
        model.config.keep_recent = recent
        decoders.append(exported(model, tmp_path / str(recent)))
    assert decoders[0].description.weights_sha256 == decoders[1].description.weights_sha256
    state = decoders[0].new_state()
    decoders[0].forward(state, random_ids(5))
    state.save(tmp_path / "state")
    with pytest.raises(StateError, match="of a model with keep_recent 6, but this one has 0; load it with the"):
        decoders[1].load_state(tmp_path / "state")


def test_a_state_without_its_last_keys_is_damaged(tmp_path: Path) -> None:
    decoder = exported(tiny_model(**BONUSES, keep_recent=6), tmp_path)
    state = decoder.new_state()
    feed(decoder, random_ids(60), [60], state)
    positions = state.full_window().keys.positions[0, 0]
    positions[positions == 59] = min(set(range(54)) - set(positions.tolist()))
    state.save(tmp_path / "state")
    with pytest.raises(StateError, match="the positions of its keys are impossible"):
        decoder.load_state(tmp_path / "state")


def test_files_without_safe_keys_do_not_mention_them_and_older_drivers_refuse_those_with(tmp_path: Path) -> None:
    model = tiny_model(**BONUSES, keep_sinks=2, keep_recent=6)
    described = json.loads(exported(model, tmp_path / "safe").description.to_metadata()[METADATA_KEY])
    assert (described["keep_recent"], described["format_version"]) == (6, 76)
    for wrong in ({"format_version": 36}, {"keep_recent": 0}, {"keep_recent": -1}, {"keep_recent": "2"}):
        with pytest.raises(PackageError, match="decoder format"):
            DecoderDescription.from_metadata({METADATA_KEY: json.dumps(described | wrong)}, tmp_path)
    model.config.keep_recent = 0
    assert "keep_recent" not in exported(model, tmp_path / "plain").description.to_metadata()[METADATA_KEY]
