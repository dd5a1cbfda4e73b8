"""DynamicMaskAttention beside the nodes of the standard graphs that it replaces, and with wrong inputs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from doge_export.export.decoder_files import fold_model, step_cache
from doge_export.graph import Dimensions, KeyValueScales
from doge_export.graph.step_cache import attention_attributes
from doge_export.runtime.operators import LIBRARY
from tests.helpers.attention import OwnAttention, StandardAttention, head_channels, random_projected
from tests.helpers.models import random_ids, relative_difference, tiny_model, without_mask

OPERATORS = Path(os.environ.get("DOGE_OPERATORS_LIBRARY", LIBRARY))  # such as one with a sanitizer
pytestmark = pytest.mark.skipif(not OPERATORS.is_file(), reason="no compiler made the operators' library")
WINDOW, BEYOND = 64, 46  # keys, and tokens that come when it is full
# attention heads, kv heads, mask heads
HEADS = [(4, 2, 2), (4, 2, 4), (4, 1, 1), (4, 1, 4), (4, 4, 4), (6, 3, 6), (6, 2, 2)]
# of the largest number: float16 is 2^-11 of itself off, and dt of 8 bits in the standard nodes 1 / 512
ALLOWED = {"float32": 1e-5, "packed_float16": 2e-3, "packed_int8": 1e-2}


@st.composite
def forms(draw: st.DrawFn) -> dict[str, Any]:
    heads, kv_heads, mask_heads = draw(st.sampled_from(HEADS))
    head_dim = draw(st.sampled_from([8, 10, 16, 24]))
    sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "num_mask_heads": mask_heads}
    sizes |= {"keep_window_size": draw(st.sampled_from([WINDOW, 150]))}  # a block of precedences, and several
    sizes |= {"head_dim": head_dim, "qk_norm": draw(st.booleans()), "keep_sinks": draw(st.sampled_from([0, 3]))}
    return sizes | {"keep_bonus": draw(st.sampled_from([0, 60])), "keep_recent": draw(st.sampled_from([0, 2]))}


def some_scales(d: Dimensions) -> KeyValueScales:
    """Scales that leave room for most normal numbers, and steps of dt."""
    shape = (d.num_layers, d.num_kv_heads, d.head_dim)
    steps = np.ones((*shape[:2], max(d.mask_channels, 1)), np.float32)
    numbers = (np.random.default_rng(1).uniform(3, 4, shape) / 127).astype(np.float32)
    return KeyValueScales(numbers, numbers[..., ::-1].copy(), steps)


def own_and_standard(
    form: dict[str, Any], cache_type: str, has_mask: bool, folder: Path
) -> tuple[OwnAttention, StandardAttention]:
    model = tiny_model(**(form | ({} if has_mask else {"keep_bonus": 0, "keep_recent": 0})))
    folded = fold_model(model if has_mask else without_mask(model), kv_int8=cache_type == "packed_int8")
    scales = some_scales(folded.dimensions) if cache_type == "packed_int8" else None
    own = OwnAttention(folded, folder, OPERATORS, scales, kv_float16=cache_type == "packed_float16", threads=1)
    return own, StandardAttention(folded, folder, scales)


@given(
    form=forms(),
    cache_type=st.sampled_from(list(ALLOWED)),
    has_mask=st.booleans(),
    pieces=st.lists(st.integers(1, 40), min_size=3, max_size=8),
    different=st.sampled_from([7, 300]),
)
@settings(max_examples=25, deadline=None)
def test_it_attends_as_the_nodes_it_replaces_before_and_beyond_the_window(
    form: dict[str, Any], cache_type: str, has_mask: bool, pieces: list[int], different: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        own, standard = own_and_standard(form, cache_type, has_mask, Path(folder))
        d, sizes, count = own.d, iter(pieces), own.d.keep_window_size + BEYOND
        which = np.arange(count) % different  # a few again and again, so that keys tie
        ids, projected = random_ids(different)[which], random_projected(d, (1, different), 0)
        while (start := own.state.position) < count:
            end = min(start + min(next(sizes, count), own.state.room_for_chunk()), count)
            rows = [each[:, which[start:end]] for each in projected]
            for mine, theirs in zip(own.feed(ids[start:end], rows), standard.feed(ids[start:end], rows), strict=True):
                assert relative_difference(head_channels(d, theirs), head_channels(d, mine)) < ALLOWED[cache_type]
        kept = [np.sort(each.state.full_window().keys.positions) for each in (own, standard)]
        assert np.array_equal(kept[0], kept[1])


@pytest.mark.parametrize("cache_type", ["float32", "packed_float16", "packed_int8"])
@pytest.mark.parametrize("window", [WINDOW, 300])  # less than a span of keys, and several
@pytest.mark.parametrize("sinks", [0, 3])
def test_rows_of_a_prompt_equal_single_rows_bit_by_bit(
    cache_type: str, window: int, sinks: int, tmp_path: Path
) -> None:
    model = tiny_model(num_mask_heads=1, num_key_value_heads=1, keep_window_size=window, head_dim=24, keep_sinks=sinks)
    folded = fold_model(model, kv_int8=cache_type == "packed_int8")
    scales = some_scales(folded.dimensions) if cache_type == "packed_int8" else None
    single, together = (
        OwnAttention(folded, tmp_path / name, OPERATORS, scales, cache_type == "packed_float16", rotary_given=True)
        for name in ("single", "together")
    )
    ids = random_ids(window + 70)
    projected = random_projected(single.d, (1, len(ids)), 0)
    for start, end in ((0, 23), (23, window), (window, len(ids))):
        rows = together.feed(ids[start:end], [each[:, start:end].copy() for each in projected])
        for i in range(start, end):
            alone = single.feed(ids[i : i + 1], [each[:, i : i + 1].copy() for each in projected])
            assert all(np.array_equal(a[:, 0], b[:, i - start]) for a, b in zip(alone, rows, strict=True))
    assert np.array_equal(single.state.cache[..., :window, :], together.state.cache[..., :window, :])


def test_streams_of_a_batch_have_lengths_of_their_own(tmp_path: Path) -> None:
    own, _ = own_and_standard({}, "float32", True, tmp_path)
    d, projected = own.d, random_projected(own.d, (2, 3), 0)
    inputs = own.inputs(random_ids(3), projected) | {"past_lengths": np.array([4, 11])}
    inputs["input_ids"] = random_ids(6).reshape(2, 3)
    caches = np.random.default_rng(0).standard_normal((d.num_layers, 2, 2, *own.state.cache.shape[2:]), np.float32)
    names = [each.name for each in own.session.get_outputs()]
    parts = [(i, j, part) for i in range(d.num_layers) for j, part in enumerate(("key", "value"))]
    pasts = {f"past_key_values.{i}.{part}": caches[i, j] for i, j, part in parts}
    both = own.session.run(None, inputs | pasts)
    shared = ("logits_to_keep", "past_precedence", "past_positions")
    for row in range(2):
        own_rows = {name: rows[row : row + 1] for name, rows in (inputs | pasts).items() if not name.startswith(shared)}
        alone = own.session.run(None, inputs | own_rows)
        of_row = [name for name in names if not name.startswith(("present_precedence", "present_positions"))]
        for name in of_row:
            assert np.array_equal(both[names.index(name)][row], alone[names.index(name)][0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"projected.1": np.zeros((1, 1, 7), np.float32)}, "projected has 7 numbers of a token; it must have"),
        ({"input_ids": np.array([[97]])}, "input_ids has 97; tokens are from 0 to 96"),
        ({"past_lengths": np.array([64])}, "past_lengths has 64; with 1 new tokens a stream has room for 64"),
        ({"past_lengths": np.array([-1])}, "past_lengths has -1"),
        ({"past_positions.0": np.zeros((2, 3), np.int64)}, "past_positions has shape"),
        ({"past_precedence.1": np.zeros((2, 63), np.float32), "past_positions.1": np.zeros((2, 63), np.int64)}, "keys"),
        ({"past_key_values.1.value": np.zeros((1, 2, 32, 16), np.float32)}, "past_value has shape"),
        ({"past_key_values.0.key": np.zeros((1, 3, 64, 16), np.float32)}, "past_value has shape|past has 3 heads"),
    ],
)
def test_wrong_inputs_are_refused_by_name(wrong: dict[str, NDArray[Any]], message: str, tmp_path: Path) -> None:
    own, _ = own_and_standard({}, "float32", True, tmp_path)
    inputs = own.inputs(random_ids(1), random_projected(own.d, (1, 1), 0))
    cache = own.state.rows()
    for index in range(own.d.num_layers):
        inputs |= {f"past_key_values.{index}.{part}": cache[index, i] for i, part in enumerate(("key", "value"))}
    own.session.run(None, inputs)
    with pytest.raises(InvalidArgument, match=f"DynamicMaskAttention: .*({message})"):
        own.session.run(None, inputs | wrong)


def test_no_tokens_are_nothing_to_do(tmp_path: Path) -> None:
    own, _ = own_and_standard({}, "float32", True, tmp_path)
    before = own.state.cache.copy()
    own.feed(random_ids(0), random_projected(own.d, (1, 0), 0))
    assert np.array_equal(own.state.cache, before)


def test_the_page_has_every_attribute_and_named_input() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operators.md").read_text(encoding="utf-8")
    folded = fold_model(tiny_model(keep_sinks=2, keep_bonus=9, keep_recent=3, qk_norm=False))
    attributes = attention_attributes(folded.dimensions, step_cache(folded.dimensions)) | {"first_layer": 1}
    section = page.split("## DynamicMaskAttention")[1].split("## How it is fast")[0]
    names = ["projected", "past_lengths", "past_precedence", "past_key", "cos", "input_ids", "attended", "present_key"]
    assert {name for name in (*attributes, *names) if f"`{name}`" not in section} == set()
