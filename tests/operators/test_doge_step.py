"""DogeStep beside the standard graph that it replaces, alone, in drafts, in batches, and with wrong inputs."""

from __future__ import annotations

import dataclasses
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, RuntimeException

from doge_export.export.decoder_files import fold_model
from doge_export.graph import Dimensions
from doge_export.graph.step import can_step
from doge_export.quantization.state_scales import measure_scales
from doge_export.runtime.description import DecoderDescription
from doge_export.runtime.packed_rows import unpack_float16
from tests.helpers.models import FORMS, random_ids, tiny_model, without_mask
from tests.helpers.operators import SLOTS, Stream, compiled, float_plan, mixed_plan, write_graph

pytestmark = pytest.mark.slow
STEPS = 40
MASK_HEADS: dict[str, Any] = {"num_mask_heads": 4}  # of two kv heads
DESCRIPTION = DecoderDescription(6, 97, SLOTS, 2, 2, 2, 0, 0, 0, "", "packed_float16")
WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 96}  # whole blocks of 64, of 32, and several of them
MANY = {"is_moe": True, "num_experts": 64, "num_experts_per_tok": 21} | WIDE  # experts, more than a tile of 16 rows
FORMS_AND_MANY = FORMS | {"many experts": MANY}


@pytest.fixture(scope="module", params=["chosen", "plain"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with the fastest kernels of this processor, and with those of any processor.

    A library looks once which kernels it takes, so each has a file of its own.
    """
    built = tmp_path_factory.getbasetemp() / "doge_operators.so"
    if not built.is_file():
        compiled(built)
    own = Path(shutil.copy(built, tmp_path_factory.mktemp(request.param) / "doge_operators.so"))
    if request.param == "plain":
        request.addfinalizer(lambda: os.environ.pop("DOGE_EXPORT_KERNELS", None))
        os.environ["DOGE_EXPORT_KERNELS"] = "plain"
    return own


def tokens(d: Dimensions, streams: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, d.vocab_size, (streams, STEPS))


def fed_one_by_one(stream: Stream, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits [streams, S, vocab] of single steps."""
    steps = [stream.feed(ids[:, i : i + 1], np.full(len(ids), i)) for i in range(ids.shape[1])]
    return np.concatenate(steps, axis=1)


def largest_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """As a share of the largest number."""
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("form", FORMS_AND_MANY)
def test_logits_and_state_are_those_of_the_standard_graph(form: str, library: Path, tmp_path: Path) -> None:
    folded = fold_model(tiny_model(**FORMS_AND_MANY[form]))
    plan = mixed_plan(folded, 32)
    files = [write_graph(folded, plan, tmp_path, name) for name in ("step", "standard")]
    step = Stream(files[0], folded.dimensions, library=library)
    standard = Stream(files[1], folded.dimensions)
    ids = tokens(folded.dimensions, 1)
    assert largest_difference(fed_one_by_one(step, ids), fed_one_by_one(standard, ids)) < 1e-5
    for name, cache in standard.caches.items():
        assert largest_difference(step.caches[name], cache) < 1e-5


@pytest.mark.parametrize("form", ["native", "mask head per head", "head_dim of its own", "lifted"])
def test_a_cache_of_float16_is_near_the_one_of_the_standard_graph(form: str, library: Path, tmp_path: Path) -> None:
    folded = fold_model(without_mask(tiny_model()) if form == "lifted" else tiny_model(**FORMS.get(form, MASK_HEADS)))
    d, plan = folded.dimensions, mixed_plan(folded, 32)
    step = Stream(write_graph(folded, plan, tmp_path, "step", kv_float16=True), d, library=library)
    standard = Stream(write_graph(folded, plan, tmp_path, "standard"), d)
    ids = tokens(d, 1)
    assert largest_difference(fed_one_by_one(step, ids), fed_one_by_one(standard, ids)) < 2e-3
    layout = dataclasses.replace(DESCRIPTION, head_dim=d.head_dim, mask_channels=d.mask_channels, channels=d.channels)
    for name, cache in standard.caches.items():
        used = d.head_dim + d.mask_channels
        unpacked = unpack_float16(step.caches[name][..., :STEPS, :], layout)
        assert largest_difference(unpacked[..., :used], cache[..., :STEPS, :used]) < 2e-3


@pytest.mark.parametrize("form", ["native", "mask head per head", "lifted"])
def test_a_cache_of_8_bits_has_the_codes_of_the_standard_graph(form: str, library: Path, tmp_path: Path) -> None:
    model = without_mask(tiny_model()) if form == "lifted" else tiny_model(**FORMS.get(form, MASK_HEADS))
    folded, scales = fold_model(model, kv_int8=True), measure_scales(model, [random_ids(40)])
    d, plan = folded.dimensions, mixed_plan(folded, 32)
    step = Stream(write_graph(folded, plan, tmp_path, "step", scales), d, library=library)
    standard = Stream(write_graph(folded, plan, tmp_path, "standard", scales), d)
    ids = tokens(d, 1)
    assert largest_difference(fed_one_by_one(step, ids), fed_one_by_one(standard, ids)) < 2e-3
    for name, cache in standard.caches.items():
        codes = step.caches[name][..., 4 * d.mask_channels :].view(np.int8)[..., : d.head_dim]
        assert np.abs(codes.astype(int) - cache[..., : d.head_dim]).max() <= 1  # a number beside the middle of two
        if name.startswith("past_key_values.0."):  # behind it, dt in 16 bits has moved the standard graph's numbers
            assert (codes == cache[..., : d.head_dim]).mean() > 0.999


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("sizes", [{}, WIDE, MANY], ids=["padded blocks", "whole blocks", "many experts"])
def test_products_of_few_bits_have_activations_of_sixteen(
    bits: int, sizes: dict[str, Any], library: Path, tmp_path: Path
) -> None:
    folded = fold_model(tiny_model(**sizes))
    plan = mixed_plan(folded, bits)
    assert can_step(folded, plan)
    step = Stream(write_graph(folded, plan, tmp_path, "step"), folded.dimensions, library=library)
    exact = Stream(write_graph(folded, float_plan(folded, plan), tmp_path, "standard"), folded.dimensions)
    ids = tokens(folded.dimensions, 1)
    # a code is 1 / 32767 of a block's largest activation; onnxruntime's activations of 8 bits are at 1e-2 here
    assert largest_difference(fed_one_by_one(step, ids), fed_one_by_one(exact, ids)) < 5e-4


@pytest.mark.parametrize(("bits", "kv_float16"), [(32, False), (8, True), (4, True)])
@pytest.mark.parametrize("sizes", [WIDE, MANY], ids=["dense", "many experts"])
def test_drafts_and_batches_are_single_steps_bit_by_bit(
    sizes: dict[str, Any], bits: int, kv_float16: bool, library: Path, tmp_path: Path
) -> None:
    folded = fold_model(tiny_model(**sizes))
    d, plan = folded.dimensions, mixed_plan(folded, bits)
    file = write_graph(folded, plan, tmp_path, "step", kv_float16=kv_float16)
    ids = tokens(d, 3)
    alone = np.concatenate([fed_one_by_one(Stream(file, d, library=library), row[None]) for row in ids])
    together = Stream(file, d, streams=3, library=library, threads=2)
    drafted = np.concatenate([together.feed(ids[:, i : i + 8], np.full(3, i)) for i in range(0, STEPS, 8)], axis=1)
    assert np.array_equal(drafted, alone)


@pytest.mark.parametrize("threads", [1, 2])
def test_runs_that_share_a_pool_neither_wait_for_each_other_nor_differ(
    threads: int, library: Path, tmp_path: Path
) -> None:
    folded = fold_model(tiny_model(**WIDE))
    d, file = folded.dimensions, write_graph(folded, mixed_plan(folded, 8), tmp_path, "step")
    streams = [Stream(file, d, library=library, threads=threads) for _ in range(4)]
    for stream in streams:
        stream.session = streams[0].session  # one pool, and caches of their own
    ids = tokens(d, 1)
    alone = fed_one_by_one(Stream(file, d, library=library), ids)
    with ThreadPoolExecutor(len(streams)) as pool:
        asked = [pool.submit(fed_one_by_one, stream, ids) for stream in streams]
        assert all(np.array_equal(each.result(timeout=60), alone) for each in asked)


def test_streams_of_a_batch_have_lengths_of_their_own(library: Path, tmp_path: Path) -> None:
    folded = fold_model(tiny_model())
    d, file = folded.dimensions, write_graph(folded, mixed_plan(folded, 8), tmp_path, "step")
    ids, past = tokens(d, 2), np.array([4, 11])
    singles = [Stream(file, d, library=library) for _ in past]
    batch = Stream(file, d, streams=2, library=library)
    for row, (single, count) in enumerate(zip(singles, past, strict=True)):
        single.feed(ids[row : row + 1, :count], np.array([0]))
        for name, cache in single.caches.items():
            batch.caches[name][row] = cache[0]
    expected = [single.feed(ids[row : row + 1, -1:], past[row : row + 1])[0] for row, single in enumerate(singles)]
    assert np.array_equal(batch.feed(ids[:, -1:], past), np.stack(expected))


def test_keys_and_values_that_are_no_numbers_make_logits_that_are_none(library: Path, tmp_path: Path) -> None:
    folded = fold_model(tiny_model())
    file = write_graph(folded, mixed_plan(folded, 8), tmp_path, "step", kv_float16=True)
    stream = Stream(file, folded.dimensions, library=library)
    for cache in stream.caches.values():
        cache[:] = 255  # no number in float16, and none in float32
    assert np.isnan(stream.feed(tokens(folded.dimensions, 1)[:, :12], np.array([20]))).all()


@pytest.mark.parametrize("bonus", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("position", [-(2**63), 2**63 - 1])
def test_a_full_window_may_hold_any_bonus_and_position(
    bonus: float, position: int, library: Path, tmp_path: Path
) -> None:
    """A state comes from a file: the sanitizers of scripts/test-operators watch this test."""
    folded = fold_model(tiny_model(keep_bonus=9))
    file = write_graph(folded, mixed_plan(folded, 8), tmp_path, "step")
    stream = Stream(file, folded.dimensions, library=library)
    inputs = stream.inputs(np.array([[7]]), np.array([64]))
    inputs["past_precedence"] = np.full((*stream.keys, SLOTS), bonus, np.float32)
    inputs["past_positions"] = np.full((*stream.keys, SLOTS), position, np.int64)
    assert stream.run(inputs).shape == (1, 1, folded.dimensions.vocab_size)


def test_a_full_window_has_had_as_many_tokens(library: Path, tmp_path: Path) -> None:
    folded = fold_model(tiny_model())
    stream = Stream(write_graph(folded, mixed_plan(folded, 8), tmp_path, "step"), folded.dimensions, library=library)
    inputs = stream.inputs(np.array([[7]]), np.array([3]))
    for name in ("past_precedence", "past_positions"):
        inputs[name] = np.zeros((*stream.keys, SLOTS), inputs[name].dtype)
    with pytest.raises(InvalidArgument, match="past_lengths has 3; with a full window it is at least 64"):
        stream.session.run(None, inputs | stream.caches)


def test_a_present_of_its_own_is_the_past_and_the_new_rows(library: Path, tmp_path: Path) -> None:
    folded = fold_model(tiny_model())
    d, file = folded.dimensions, write_graph(folded, mixed_plan(folded, 8), tmp_path, "step")
    stream = Stream(file, d, library=library)
    before = {name: cache.copy() for name, cache in stream.caches.items()}
    inputs = stream.inputs(np.array([[7]]), np.array([0]))
    outputs = stream.session.run(None, inputs | before)
    logits = stream.run(inputs)
    assert np.array_equal(outputs[0], logits)
    assert all(np.array_equal(a, b) for a, b in zip(outputs[4:], stream.caches.values(), strict=True))
    assert not any(cache.any() for cache in before.values())


def test_inputs_behind_the_past_must_be_constants(library: Path, tmp_path: Path) -> None:
    folded = fold_model(tiny_model())
    file = write_graph(folded, mixed_plan(folded, 8), tmp_path, "step")
    model = onnx.load(file, load_external_data=False)
    kept = [each for each in model.graph.initializer if each.name != "rotary.inv_freq"]
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(kept)
    model.graph.input.append(onnx.helper.make_tensor_value_info("rotary.inv_freq", onnx.TensorProto.DOUBLE, [4]))
    file.write_bytes(model.SerializeToString())
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library))
    with pytest.raises(RuntimeException, match="input 9 is no constant; the inputs behind the past must be"):
        ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"head_dim": 4}, "inv_freq has shape"),
        ({"part_bits": [5] * 10}, "part_bits must be"),
        ({"num_heads": 2**32 + 4}, "size"),
        ({"keep_sinks": 64}, "keep_sinks must be from 0 to below keep_window_size"),
        ({"keep_sinks": -1}, "keep_sinks must be from 0 to below keep_window_size"),
        ({"keep_sinks": 4.0}, "keep_sinks must be an integer"),
        ({"keep_sinks": "4"}, "keep_sinks must be an integer"),
        ({"dt_digits": -5}, "dt_digits must be 1 or 2"),
    ],
)
def test_wrong_constants_and_attributes_are_refused(
    changed: dict[str, Any], message: str, library: Path, tmp_path: Path
) -> None:
    folded = fold_model(tiny_model(keep_sinks=2))
    file = write_graph(folded, mixed_plan(folded, 8), tmp_path, "step")
    model = onnx.load(file, load_external_data=False)
    for attribute in model.graph.node[-1].attribute:
        if attribute.name in changed:
            attribute.CopyFrom(onnx.helper.make_attribute(attribute.name, changed[attribute.name]))
    file.write_bytes(model.SerializeToString())
    with pytest.raises((InvalidArgument, RuntimeException, RuntimeError), match=message):
        Stream(file, folded.dimensions, library=library).feed(np.array([[7]]), np.array([0]))


def test_an_output_that_is_not_there_is_refused(library: Path, tmp_path: Path) -> None:
    folded = fold_model(tiny_model())
    file = write_graph(folded, mixed_plan(folded, 8), tmp_path, "step")
    model = onnx.load(file, load_external_data=False)
    del model.graph.node[-1].output[-1], model.graph.output[-1]
    file.write_bytes(model.SerializeToString())
    stream = Stream(file, folded.dimensions, library=library)
    inputs = stream.inputs(np.array([[7]]), np.array([0])) | stream.caches
    with pytest.raises(InvalidArgument, match=r"output \d+ is missing"):
        stream.session.run(None, inputs)


@pytest.mark.parametrize("bits", [8, 32])
def test_no_logits_may_be_wanted(bits: int, library: Path, tmp_path: Path) -> None:
    folded = fold_model(tiny_model())
    stream = Stream(write_graph(folded, mixed_plan(folded, bits), tmp_path, "step"), folded.dimensions, library=library)
    inputs = stream.inputs(np.array([[7]]), np.array([0])) | {"logits_to_keep": np.zeros(0, np.int64)}
    assert stream.run(inputs).shape == (1, 0, folded.dimensions.vocab_size)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input_ids": np.array([[97]])}, "input_ids has 97; tokens are from 0 to 96"),
        ({"input_ids": np.array([[-1]])}, "input_ids has -1"),
        ({"past_lengths": np.array([64])}, "past_lengths has 64; with 1 new tokens a stream has room for 64"),
        ({"past_lengths": np.array([-1])}, "past_lengths has -1"),
        ({"past_lengths": np.array([2**63 - 1])}, "past_lengths has 9223372036854775807"),
        ({"logits_to_keep": np.array([1])}, "logits_to_keep has 1; it must be below 1"),
        ({"past_positions": np.zeros((2, 2, 3), np.int64)}, "past_positions has shape"),
        ({"past_lengths": np.array([0, 0])}, r"past_lengths has shape \[2\]; it must be \[1\]"),
        ({"past_key_values.1.key": np.zeros((1, 2, 32, 16), np.float32)}, "past has shape"),
    ],
)
def test_wrong_inputs_are_refused_by_name(
    wrong: dict[str, NDArray[Any]], message: str, library: Path, tmp_path: Path
) -> None:
    folded = fold_model(tiny_model())
    d, file = folded.dimensions, write_graph(folded, mixed_plan(folded, 8), tmp_path, "step")
    stream = Stream(file, d, library=library)
    inputs = stream.inputs(np.array([[7]]), np.array([0])) | stream.caches
    with pytest.raises(InvalidArgument, match=message):
        stream.session.run(None, inputs | wrong)
