"""Sinks in exported decoders: every way to feed a stream against the full matrix, states, and old files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from doge_export.errors import PackageError, StateError
from doge_export.graph.mask_numbers import PRECEDENCE_SCALE
from doge_export.runtime.description import METADATA_KEY, RECURRENT_FILE, DecoderDescription
from doge_export.runtime.eviction import FullWindow, Keys
from tests.helpers.models import (
    FORMS,
    exported,
    feed,
    random_ids,
    relative_difference,
    repeated_ids,
    settled_ids,
    tiny_model,
    torch_logits,
    without_mask,
)

pytestmark = pytest.mark.usefixtures("each_way")
LLAMA: dict[str, Any] = {"qk_norm": False, "head_dim": 16}


@pytest.mark.parametrize("max_position", [32, 64])
@pytest.mark.parametrize("kind", ["yarn", "dynamic"])
def test_scaled_and_stretched_rotations_reach_the_sinks_too(kind: str, max_position: int, tmp_path: Path) -> None:
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": max_position // 4}
    if kind == "dynamic":
        del rope["original_max_position_embeddings"]
    model = tiny_model(rope_parameters=rope, keep_window_size=40, keep_sinks=5, max_position_embeddings=max_position)
    decoder, ids = exported(model, tmp_path), settled_ids(model, partial(repeated_ids, 150, 5))
    expected = torch_logits(model, ids)
    for lengths in ([150], [1] * 150):
        assert relative_difference(expected, feed(decoder, ids, lengths)) < 1e-5


def test_more_sinks_than_a_processor_attends_to_at_once_are_kept(tmp_path: Path) -> None:
    model = without_mask(tiny_model(**LLAMA, keep_window_size=300, keep_sinks=150))
    decoder, ids = exported(model, tmp_path), random_ids(450)
    expected = torch_logits(model, ids)
    for lengths in ([450], [310, *[1] * 20, 120]):
        assert relative_difference(expected, feed(decoder, ids, lengths)) < 1e-5


@pytest.mark.parametrize("alphabet", [1, 2, 5])
def test_a_window_full_of_few_tokens_keeps_the_first_and_the_most_recent(alphabet: int, tmp_path: Path) -> None:
    model = tiny_model(keep_window_size=8, keep_sinks=2)
    decoder, ids = exported(model, tmp_path), settled_ids(model, partial(random_ids, 70, vocab_size=alphabet))
    expected = torch_logits(model, ids)
    for lengths in ([70], [1] * 70, [16, *[1] * 8, 46]):
        assert relative_difference(expected, feed(decoder, ids, lengths)) < 1e-5


def test_every_head_keeps_the_sinks_in_the_first_slots(tmp_path: Path) -> None:
    decoder = exported(tiny_model(**FORMS["small-doge"], keep_window_size=8, keep_sinks=3), tmp_path)
    state = decoder.new_state()
    feed(decoder, random_ids(90), [20, *[1] * 30, 40], state)
    assert (state.full_window().keys.positions[..., :3] == np.arange(3)).all()


def test_positions_are_counted_inside_the_window_however_long_the_stream_is(tmp_path: Path) -> None:
    # With one layer and no mask, a query sees the sinks and the most recent tokens, and no trace of those between.
    model = without_mask(tiny_model(**LLAMA, num_hidden_layers=1, keep_window_size=8, keep_sinks=2))
    decoder, ids = exported(model, tmp_path), random_ids(5000)
    expected = feed(decoder, np.concatenate([ids[:2], ids[-6:]]), [8])[-1]
    for lengths in ([5000], [4990, *[1] * 10]):
        assert relative_difference(expected, feed(decoder, ids, lengths)[-1]) < 1e-4  # angles of 5000 in float32


def test_sinks_are_no_candidates() -> None:
    precedence = np.array([[[0.0, -9.0, 0.5, 0.0, 1.0]]], np.float32) * np.float32(PRECEDENCE_SCALE)
    window = FullWindow(Keys(precedence, np.arange(5)[None, None]), keep_sinks=2)
    assert window.candidates(1, 9).slots.tolist() == [[[3]]]
    assert window.copy().candidates(9, 9).slots.tolist() == [[[3, 2, 4]]]


@pytest.mark.parametrize("length", [5, 8, 30])
def test_a_saved_and_a_copied_state_go_on_bit_by_bit(length: int, tmp_path: Path) -> None:
    decoder = exported(tiny_model(**FORMS["small-doge"], keep_window_size=8, keep_sinks=2), tmp_path)
    state, ids = decoder.new_state(), random_ids(60)
    feed(decoder, ids[:length], [length], state)
    state.save(tmp_path / "state")
    others = [decoder.load_state(tmp_path / "state"), state.copy()]
    rest = [1] * (60 - length)
    expected = feed(decoder, ids[length:], rest, state)
    for other in others:
        np.testing.assert_array_equal(feed(decoder, ids[length:], rest, other), expected)


@pytest.mark.parametrize(("saver", "loader"), [(0, 2), (2, 0), (2, 3)])
def test_a_state_with_another_number_of_sinks_is_refused(saver: int, loader: int, tmp_path: Path) -> None:
    decoders = [exported(tiny_model(keep_window_size=8, keep_sinks=n), tmp_path / str(n)) for n in (saver, loader)]
    assert decoders[0].description.weights_sha256 == decoders[1].description.weights_sha256
    state = decoders[0].new_state()
    decoders[0].forward(state, random_ids(5))
    state.save(tmp_path / "state")
    with pytest.raises(StateError, match=f"of a model that keeps {saver} sinks, but this one keeps {loader}; load it"):
        decoders[1].load_state(tmp_path / "state")
    with pytest.raises(StateError, match="belongs to another model"):
        decoders[1].forward(state, random_ids(1))


def test_a_state_whose_sinks_stand_elsewhere_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = exported(tiny_model(keep_window_size=8, keep_sinks=2), tmp_path)
    state = decoder.new_state()
    decoder.forward(state, random_ids(20))
    state.full_window().keys.positions[0, 0, :2] = [1, 0]
    state.save(tmp_path / "state")
    with pytest.raises(StateError, match="is damaged: the positions of its keys are impossible"):
        decoder.load_state(tmp_path / "state")


def test_files_without_sinks_do_not_mention_them_and_older_drivers_refuse_those_with(tmp_path: Path) -> None:
    plain, sinks = (exported(tiny_model(keep_sinks=n), tmp_path / str(n)).description for n in (0, 2))
    described = [json.loads(description.to_metadata()[METADATA_KEY]) for description in (plain, sinks)]
    assert "keep_sinks" not in described[0]
    assert [fields["format_version"] for fields in described] == [6, 16]
    for wrong in ({"format_version": 6}, {"keep_sinks": 0}, {"keep_sinks": -1}, {"keep_sinks": "2"}):
        with pytest.raises(PackageError, match="export the checkpoint again"):
            DecoderDescription.from_metadata({METADATA_KEY: json.dumps(described[1] | wrong)}, tmp_path)


def test_without_sinks_the_recurrent_graph_has_no_node_of_theirs(tmp_path: Path) -> None:
    named: dict[int, list[Any]] = {}
    for sinks in (0, 2):
        exported(tiny_model(keep_sinks=sinks), tmp_path / str(sinks))
        graph = onnx.load(tmp_path / str(sinks) / RECURRENT_FILE, load_external_data=False).graph
        named[sinks] = [node.name for node in graph.node if "sinks" in node.name]
    assert not named[0]
    assert named[2]
