"""A state in 8 bits: rounded as a float model would round it, however it is fed, saved, copied and evicted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache

from doge_export.errors import PackageError, StateError
from doge_export.export.pipeline import export
from doge_export.graph import KeyValueScales
from doge_export.measure.agreement import Agreement
from doge_export.options import ExportOptions
from doge_export.quantization.state_scales import measure_scales
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DecoderDescription
from doge_export.runtime.operators import LIBRARY
from doge_export.runtime.state import State
from doge_model import DogeForCausalLM
from tests.helpers.models import (
    FORMS,
    exported,
    random_ids,
    relative_difference,
    tiny_model,
    torch_logits,
    without_mask,
    write_model,
)

pytestmark = pytest.mark.slow

WINDOW = 64
LLAMA = {"qk_norm": False, "head_dim": 16}
ALL_FORMS = FORMS | {"lifted Llama": LLAMA}


def model_of(form: str, **fields: Any) -> DogeForCausalLM:
    model = tiny_model(**(ALL_FORMS[form] | fields))
    return without_mask(model) if form == "lifted Llama" else model


@pytest.fixture(params=[False, True], ids=["standard", "DogeStep"])
def operators(request: pytest.FixtureRequest) -> bool:
    if request.param and not LIBRARY.is_file():
        pytest.skip("no compiler made the operators' library")
    return bool(request.param)


def exported_int8(
    model: DogeForCausalLM, folder: Path, operators: bool = False, weights: str = "fp32"
) -> tuple[Decoder, KeyValueScales]:
    """The model's decoder with a state in 8 bits, and its scales."""
    scales = measure_scales(model, [random_ids(WINDOW, seed=1)])
    write_model(model, weights, folder, scales)
    return Decoder(folder, threads=1, operators=operators), scales


def singles(decoder: Decoder, state: State, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.concatenate([decoder.forward(state, ids[i : i + 1]).copy() for i in range(len(ids))])


class RoundedCache(DynamicCache):
    """Keys and values as the 8 bits of a state hold them, in float32, and dt as the standard graphs hold it."""

    def __init__(self, scales: KeyValueScales, rounds_dt: bool) -> None:
        super().__init__()
        self.scales, self.rounds_dt = scales, rounds_dt

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        scales = [torch.from_numpy(x[layer_idx])[:, None] for x in (self.scales.keys, self.scales.values)]
        head_dim, step = scales[0].shape[-1], torch.from_numpy(self.scales.dt[layer_idx])[:, None]
        key, states = key_states.split((head_dim, key_states.shape[-1] - head_dim), dim=-1)
        dt, precedence = states.chunk(2, dim=-1)
        coarse = rounded(dt, step)
        if self.rounds_dt:
            dt = coarse + rounded(dt - torch.round(dt / step) * step, step / 256)
        key = torch.cat((rounded(key, scales[0]), dt, precedence), dim=-1)
        return super().update(key, rounded(value_states, scales[1]), layer_idx, *args, **kwargs)


def rounded(x: Tensor, scale: Tensor) -> Tensor:
    return torch.round(x / scale).clamp(-128, 127) * scale


@pytest.mark.parametrize("form", ALL_FORMS)
def test_it_says_what_a_float_model_says_that_rounds_its_cache(form: str, operators: bool, tmp_path: Path) -> None:
    model, ids = model_of(form), random_ids(WINDOW)
    decoder, scales = exported_int8(model, tmp_path, operators)
    cache = RoundedCache(scales, rounds_dt=not operators)
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids)[None], past_key_values=cache).logits[0].numpy()
    logits = decoder.forward(decoder.new_state(), ids, "all")
    error = Agreement.between(expected, logits).centered_rms_error
    unrounded = Agreement.between(torch_logits(model, ids), logits).centered_rms_error
    assert error < 0.1 * unrounded  # the rest are numbers so near the middle of two codes that float32 decides


@pytest.mark.parametrize("sinks", [0, 1, 5])
def test_beyond_the_window_too_where_no_mask_decides_what_is_kept(sinks: int, operators: bool, tmp_path: Path) -> None:
    model, ids = model_of("lifted Llama", keep_window_size=16, keep_sinks=sinks), random_ids(90)
    decoder, scales = exported_int8(model, tmp_path, operators)
    cache = RoundedCache(scales, rounds_dt=not operators)
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids)[None], past_key_values=cache).logits[0].numpy()
    logits = singles(decoder, decoder.new_state(), ids)
    error = Agreement.between(expected[16:], logits[16:]).centered_rms_error
    unrounded = Agreement.between(torch_logits(model, ids)[16:], logits[16:]).centered_rms_error
    assert error < 0.1 * unrounded


@pytest.mark.parametrize("form", ALL_FORMS)
def test_prompts_chunks_single_tokens_and_drafts_are_equal_bit_by_bit(
    form: str, operators: bool, tmp_path: Path
) -> None:
    (decoder, _), ids = exported_int8(model_of(form), tmp_path, operators), random_ids(WINDOW)
    states = [decoder.new_state() for _ in range(3)]
    whole = decoder.forward(states[0], ids, "all").copy()
    np.testing.assert_array_equal(singles(decoder, states[1], ids), whole)
    decoder.forward(states[2], ids[:-8])
    np.testing.assert_array_equal(decoder.check_draft(states[2], ids[-8:]), whole[-8:])
    states[2].take_in(ids[-8:])
    for state in states[1:]:
        np.testing.assert_array_equal(state.cache[..., :WINDOW, :], states[0].cache[..., :WINDOW, :])
        if state.precedence is not None:
            assert states[0].precedence is not None
            np.testing.assert_array_equal(state.precedence[..., :WINDOW], states[0].precedence[..., :WINDOW])


@pytest.mark.parametrize("weights", ["fp32", "int8", "fp16"])
def test_any_weights_go_with_it_and_rows_as_wide_as_two_channels_of_dt_need(weights: str, tmp_path: Path) -> None:
    model = tiny_model(num_mask_heads=4, num_key_value_heads=1, head_dim=10, qk_norm=False)
    model.save_pretrained(tmp_path / "tiny")
    options = ExportOptions(str(tmp_path / "tiny"), tmp_path / "out", weights, threads=1, kv_int8=True)
    assert Decoder(export(options).folder).description.channels == 24  # 10 + 2 * 4, then padding


@pytest.mark.parametrize("sinks", [0, 1])
@pytest.mark.parametrize("form", ["native", "small-doge", "lifted Llama"])
def test_beyond_the_window_chunks_evict_the_keys_that_single_tokens_evict(
    form: str, sinks: int, operators: bool, tmp_path: Path
) -> None:
    model = model_of(form, keep_window_size=16, keep_sinks=sinks)
    (decoder, _), ids = exported_int8(model, tmp_path, operators), random_ids(90)
    state, other = decoder.new_state(), decoder.new_state()
    expected = singles(decoder, state, ids)
    logits = np.concatenate([decoder.forward(other, piece, "all").copy() for piece in np.split(ids, [16, 23, 60])])
    assert relative_difference(expected, logits) < 1e-5
    ours, theirs = (np.sort(x.full_window().keys.positions) for x in (state, other))
    np.testing.assert_array_equal(ours, theirs)


def test_the_first_layer_evicts_the_keys_that_a_float32_state_evicts(operators: bool, tmp_path: Path) -> None:
    model, ids = tiny_model(keep_window_size=16), random_ids(80)
    states = []
    for decoder in (exported_int8(model, tmp_path / "int8", operators)[0], exported(model, tmp_path / "float32")):
        states.append(decoder.new_state())
        decoder.forward(states[-1], ids)
    kept_int8, kept = (np.sort(state.full_window().keys.positions[0]) for state in states)
    np.testing.assert_array_equal(kept_int8, kept)


@pytest.mark.parametrize("length", [5, 16, 40])
@pytest.mark.parametrize("form", ["native", "small-doge", "lifted Llama"])
def test_a_saved_a_copied_and_a_truncated_state_go_on_bit_by_bit(
    form: str, length: int, operators: bool, tmp_path: Path
) -> None:
    (decoder, _), ids = exported_int8(model_of(form, keep_window_size=16), tmp_path, operators), random_ids(60)
    state = decoder.new_state()
    decoder.forward(state, ids[:length])
    state.save(tmp_path / "state")
    others = [decoder.load_state(tmp_path / "state"), state.copy()]
    if length < 16:
        decoder.forward(state, ids[50:53])
        state.truncate(length)
    expected = singles(decoder, state, ids[length:])
    for other in others:
        np.testing.assert_array_equal(singles(decoder, other, ids[length:]), expected)


@pytest.mark.parametrize("form", ["small-doge", "lifted Llama"])
def test_a_stream_in_a_batch_goes_as_it_would_alone(form: str, operators: bool, tmp_path: Path) -> None:
    (decoder, _), ids = exported_int8(model_of(form, keep_window_size=16), tmp_path, operators), random_ids(60)
    batch, alone = decoder.new_batch(2), decoder.new_state()
    decoder.forward(batch.open(), ids[30:37])
    decoder.forward(batch.open(), ids[:5])
    expected = singles(decoder, alone, ids[:30])
    rows = [batch.forward([token, token])[1].copy() for token in ids[5:9]]
    np.testing.assert_array_equal(rows, expected[5:9])
    state = batch.states[1].copy()
    np.testing.assert_array_equal(singles(decoder, state, ids[9:30]), expected[9:])


@pytest.mark.parametrize("form", ["small-doge", "lifted Llama"])
def test_the_state_is_a_quarter_of_a_float32_state(form: str, tmp_path: Path) -> None:
    model = model_of(form, head_dim=64)
    state_int8, state = exported_int8(model, tmp_path / "a")[0].new_state(), exported(model, tmp_path / "b").new_state()
    assert state_int8.cache.dtype == np.int8
    assert state_int8.cache.nbytes * 4 == state.cache.nbytes
    extra = 0 if state_int8.precedence is None else state_int8.precedence.nbytes
    heads = state.description.num_recurrent_heads // state.description.num_kv_heads
    assert state.nbytes - state_int8.nbytes == 3 * heads * state_int8.cache.nbytes - extra


def test_a_state_of_other_numbers_or_other_scales_is_refused(operators: bool, tmp_path: Path) -> None:
    model = tiny_model()
    decoder, scales = exported_int8(model, tmp_path / "a", operators)
    decoder.new_state().save(tmp_path / "state")
    write_model(model, "fp32", tmp_path / "b", KeyValueScales(scales.keys, scales.values * 2, scales.dt))
    for other in (exported(model, tmp_path / "c"), Decoder(tmp_path / "b", threads=1, operators=operators)):
        with pytest.raises(StateError, match="state of another model"):
            other.load_state(tmp_path / "state")


def test_a_key_at_any_position_fits_its_scale(tmp_path: Path) -> None:
    model, ids = model_of("lifted Llama"), random_ids(WINDOW, seed=1)
    decoder, scales = exported_int8(model, tmp_path)
    cache = DynamicCache()
    with torch.inference_mode():
        positions = torch.arange(WINDOW)[None] + 12345
        model(torch.from_numpy(ids)[None], position_ids=positions, past_key_values=cache)
    keys = cache.layers[0].keys[0, ..., : scales.keys.shape[-1]].abs().amax(dim=1).numpy()
    assert (keys <= scales.keys[0] * 127 * 1.0001).all()
    assert decoder.description.cache_type == "int8"


def test_a_float32_file_says_nothing_of_it_and_an_older_driver_refuses_an_int8_one(tmp_path: Path) -> None:
    files = {}
    for name, decoder in {
        "int8": exported_int8(tiny_model(), tmp_path / "a")[0],
        "fp32": exported(tiny_model(), tmp_path / "b"),
    }.items():
        files[name] = decoder.description.to_metadata()
        assert DecoderDescription.from_metadata(files[name], tmp_path) == decoder.description
    assert "cache_type" not in files["fp32"]["doge_export.decoder"]
    changed = {
        "doge_export.decoder": files["int8"]["doge_export.decoder"].replace(
            '"format_version": 7', '"format_version": 6'
        )
    }
    with pytest.raises(PackageError, match="export the checkpoint again"):
        DecoderDescription.from_metadata(changed, tmp_path)
