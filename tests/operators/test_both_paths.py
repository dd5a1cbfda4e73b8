"""An exported decoder by DogeStep beside the same one by the standard graphs: full windows, states, interruptions."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.errors import OptionError, StateError
from doge_export.evaluation.exported import load_exported
from doge_export.quantization.state_scales import measure_scales
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import STEP_FILE, DecoderDescription
from doge_export.runtime.operators import LIBRARY, SWITCH
from doge_export.runtime.packed_rows import unpack_float16
from doge_export.runtime.state import State
from tests.helpers.evaluation_data import export_talking, save_talking_checkpoint
from tests.helpers.models import FORMS, exported, random_ids, relative_difference, tiny_model, without_mask, write_model

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="no compiler made the operators' library")
TOKENS = 150  # in a window of 64


def both(folder: Path) -> list[Decoder]:
    return [Decoder(folder, threads=1, operators=operators) for operators in (False, True)]


def fed(decoder: Decoder, state: State, ids: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """Logits of all tokens, fed so many at a time."""
    pieces = [ids[i : i + size] for i in range(0, len(ids), size)]
    return np.concatenate([decoder.forward(state, piece, "all").copy() for piece in pieces])


@pytest.mark.parametrize("form", ["native", "experts with a router bias", "lifted"])
@pytest.mark.parametrize("size", [1, 23])
@pytest.mark.parametrize("sinks", [0, 5])
def test_a_full_window_keeps_the_same_keys(form: str, size: int, sinks: int, tmp_path: Path) -> None:
    fields = {} if form == "lifted" else FORMS[form]
    model = tiny_model(**fields, keep_sinks=sinks)
    if form == "lifted":
        without_mask(model)
    write_model(model, "fp32", tmp_path)
    decoders, ids = both(tmp_path), random_ids(TOKENS)
    states = [decoder.new_state() for decoder in decoders]
    logits = [fed(decoder, state, ids, size) for decoder, state in zip(decoders, states, strict=True)]
    assert relative_difference(logits[1], logits[0]) < 1e-5
    kept = [np.sort(state.full_window().keys.positions) for state in states]
    assert np.array_equal(kept[0], kept[1])


def test_of_experts_with_equal_scores_the_first_ones_are_chosen(tmp_path: Path) -> None:
    model = tiny_model(is_moe=True, num_experts=64, num_experts_per_tok=21)
    for name, parameter in model.named_parameters():
        if "router_gate" in name:
            parameter.data[1::2] = parameter.data[::2]
    write_model(model, "fp32", tmp_path)
    standard, step = (fed(decoder, decoder.new_state(), random_ids(40), 1) for decoder in both(tmp_path))
    assert relative_difference(step, standard) < 1e-5


@pytest.mark.parametrize("sinks", [0, 5])
def test_pieces_of_any_size_give_the_same_bits_beyond_the_window(sinks: int, tmp_path: Path) -> None:
    decoder, ids = exported(tiny_model(keep_sinks=sinks), tmp_path, "int8", operators=True), random_ids(TOKENS)
    single, pieces = (fed(decoder, decoder.new_state(), ids, size) for size in (1, 23))
    assert np.array_equal(single, pieces)


@pytest.mark.parametrize("sinks", [0, 3])
def test_without_a_mask_the_oldest_key_leaves_wherever_it_lies(sinks: int, tmp_path: Path) -> None:
    decoder = exported(without_mask(tiny_model(keep_sinks=sinks)), tmp_path, "fp32", operators=True)
    ids, state = random_ids(TOKENS), decoder.new_state()
    decoder.forward(state, ids[:100])
    moved, window = state.copy(), decoder.keep_window_size
    order = np.r_[:sinks, sinks + np.random.default_rng(0).permutation(window - sinks)]
    moved.cache[..., :window, :] = moved.cache[..., order, :]
    moved.full_window().keys.positions[:] = moved.full_window().keys.positions[..., order]
    logits = [fed(decoder, each, ids[100:], 7) for each in (state, moved)]
    assert relative_difference(logits[1], logits[0]) < 1e-5
    kept = [np.sort(each.full_window().keys.positions) for each in (state, moved)]
    assert np.array_equal(kept[0], kept[1])


@pytest.mark.parametrize("position", [40, 100])
@pytest.mark.parametrize("saver", [0, 1])
@pytest.mark.parametrize("sinks", [0, 5])
def test_a_state_of_either_path_goes_on_by_the_other(position: int, saver: int, sinks: int, tmp_path: Path) -> None:
    write_model(tiny_model(keep_sinks=sinks), "fp32", tmp_path)
    decoders, ids = both(tmp_path), random_ids(TOKENS)
    state = decoders[saver].new_state()
    decoders[saver].forward(state, ids[:position])
    state.save(tmp_path / "state")
    loaded = decoders[1 - saver].load_state(tmp_path / "state")
    rest = [fed(decoders[saver], state, ids[position:], 1), fed(decoders[1 - saver], loaded, ids[position:], 1)]
    assert relative_difference(rest[1], rest[0]) < 1e-5


@pytest.mark.parametrize("position", [40, 100])
@pytest.mark.parametrize("saver", [0, 1])
def test_a_state_in_float16_goes_on_in_float32_and_back(position: int, saver: int, tmp_path: Path) -> None:
    write_model(tiny_model(num_mask_heads=4), "int8", tmp_path)
    decoders, ids = both(tmp_path), random_ids(TOKENS)
    assert [decoder.description.cache_type for decoder in decoders] == ["float32", "packed_float16"]
    state = decoders[saver].new_state()
    decoders[saver].forward(state, ids[:position])
    state.save(tmp_path / "state")
    loaded = decoders[1 - saver].load_state(tmp_path / "state")
    kept = [cache_of(each)[..., : decoders[0].description.keep_window_size, :] for each in (state, loaded)]
    assert relative_difference(kept[1], kept[0]) < 2**-11
    loaded.save(tmp_path / "again")
    again = decoders[saver].load_state(tmp_path / "again")
    if saver == 1:  # float16, float32 and back is the same
        rest = [fed(decoders[1], each, ids[position:], 1) for each in (again, state)]
        assert np.array_equal(rest[0], rest[1])


def cache_of(state: State) -> NDArray[np.float32]:
    """Numbers and precedence of the head channels in float32."""
    d = state.description
    return unpack_float16(state.cache, d) if d.cache_type == "packed_float16" else padded_with_0(state.cache, d)


def padded_with_0(rows: NDArray[np.float32], d: DecoderDescription) -> NDArray[np.float32]:
    rows = rows.copy()
    rows[..., d.head_dim + d.mask_channels :] = 0
    return rows


def test_a_state_of_8_bits_goes_on_by_the_way_that_saved_it(tmp_path: Path) -> None:
    model = tiny_model()
    write_model(model, "int8", tmp_path, measure_scales(model, [random_ids(64)]))
    decoders = both(tmp_path)
    for saver, way in ((0, False), (1, True)):
        decoders[saver].new_state().save(tmp_path / f"state{saver}")
        with pytest.raises(StateError, match=f"load the model with operators={way}, the way that saved it"):
            decoders[1 - saver].load_state(tmp_path / f"state{saver}")


def test_a_state_in_memory_belongs_to_the_way_that_made_it(tmp_path: Path) -> None:
    write_model(tiny_model(), "int8", tmp_path)
    decoders = both(tmp_path)
    with pytest.raises(StateError, match="cache of type float32, but this way to compute keeps packed_float16; save"):
        decoders[1].forward(decoders[0].new_state(), random_ids(3))


def test_a_state_of_8_bits_in_memory_is_sent_back_to_the_way_that_made_it(tmp_path: Path) -> None:
    model = tiny_model()
    write_model(model, "int8", tmp_path, measure_scales(model, [random_ids(64)]))
    decoders = both(tmp_path)
    for maker, way in ((0, False), (1, True)):
        with pytest.raises(StateError, match=f"load the model with operators={way}, the way that made it"):
            decoders[1 - maker].forward(decoders[maker].new_state(), random_ids(3))


@pytest.mark.parametrize("ran", [True, False])
def test_an_interruption_leaves_the_tokens_that_the_operator_counted(ran: bool, tmp_path: Path) -> None:
    decoder = exported(tiny_model(), tmp_path, "int8", operators=True)
    state, lengths = decoder.new_state(), np.array([5])
    decoder.forward(state, random_ids(5))
    state.expect(np.array([7]), lengths)  # and Ctrl-C before `arrive`
    lengths += ran
    assert state.position == 5 + ran
    assert (7 in state.seen_tokens()) is (ran or 7 in random_ids(5))
    lengths += 1 - ran  # as when a draft is checked with the same memory
    state.settle()
    assert state.position == 5 + 1


@pytest.mark.parametrize("operators", [False, True])
def test_any_thread_may_ask_for_the_position_while_tokens_are_fed(operators: bool, tmp_path: Path) -> None:
    decoder = exported(tiny_model(), tmp_path, "int8", operators=operators)
    state, over = decoder.new_state(), threading.Event()

    def poll() -> None:
        while not over.is_set():
            decoder.room_for_draft(state)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(poll)
        fed(decoder, state, random_ids(400), 1)
        over.set()
        asked.result()
    assert state.position == 400


def test_operators_are_demanded_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tiny_model(), "int8", tmp_path)
    (tmp_path / STEP_FILE).unlink()
    assert Decoder(tmp_path).graphs.kernels == "onnxruntime's operators"
    with pytest.raises(OptionError, match="operators is 0; it must be True, False or None"):
        Decoder(tmp_path, operators=0)  # type: ignore[arg-type]  # as a user may
    for operators, switch in ((True, "0"), (None, "1")):
        monkeypatch.setenv(SWITCH, switch)
        with pytest.raises(OptionError, match=r"has no onnx/decoder_step\.onnx and no .*, so operators cannot be True"):
            Decoder(tmp_path, operators=operators)


def test_results_of_an_evaluation_are_of_one_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export_talking(save_talking_checkpoint(tmp_path / "checkpoint"), tmp_path / "export")
    hashes = []
    for operators in ("0", "1"):
        monkeypatch.setenv(SWITCH, operators)
        hashes.append(load_exported(str(folder), threads=1).model_hash)
    assert hashes[0] != hashes[1]
