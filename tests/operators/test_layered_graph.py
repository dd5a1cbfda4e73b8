"""Decoders that DogeStep does not compute, by DynamicMaskAttention, beside the standard graphs of the same weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.export.decoder_files import fold_model
from doge_export.graph.blocks import BlockQuantized
from doge_export.quantization.rounding import simple_plan
from doge_export.recipes import RECIPES
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import LAYERED_FILE, STEP_FILE
from doge_export.runtime.operators import LIBRARY
from doge_export.runtime.state import State
from tests.helpers.models import FORMS, feed, random_ids, relative_difference, tiny_model, write_model

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="no compiler made the operators' library")
TOKENS = 150  # in a window of 64
PIECES = [23, 1, 40, 30, 1, 1, 54]


def write_with_offsets(folder: Path, form: str = "native", weights: str = "fp32", sinks: int = 0) -> None:
    """An export with one matrix of offsets, which DogeStep does not know."""
    model = tiny_model(**FORMS[form], keep_sinks=sinks)
    folded = fold_model(model)
    plan = dict(simple_plan(folded.matrices, RECIPES[weights]))
    name = "layers.1.mlp.down_proj"
    (part,) = simple_plan(folded.matrices, RECIPES["int8"])[name]
    assert isinstance(part, BlockQuantized)
    offsets = (part.scales * np.float32(-128)).astype(np.float16)
    plan[name] = (dataclasses.replace(part, zero_points=None, offsets=offsets),)
    write_model(model, weights, folder, plan=plan)


def both(folder: Path) -> list[Decoder]:
    return [Decoder(folder, threads=1, operators=operators) for operators in (False, True)]


@pytest.mark.parametrize("form", ["native", "small-doge, one kv head", "experts", "bonuses"])
@pytest.mark.parametrize("sinks", [0, 5])
def test_its_logits_are_those_of_the_standard_graphs_beyond_the_window_too(
    form: str, sinks: int, tmp_path: Path
) -> None:
    write_with_offsets(tmp_path, form, sinks=sinks)
    standard, own = (feed(decoder, random_ids(TOKENS), PIECES) for decoder in both(tmp_path))
    assert relative_difference(own, standard) < 2e-2  # one product has activations of 8 bits, which flip


def test_it_is_chosen_where_there_is_no_graph_of_dogestep(tmp_path: Path) -> None:
    write_with_offsets(tmp_path)
    assert (tmp_path / LAYERED_FILE).is_file()
    assert not (tmp_path / STEP_FILE).exists()
    assert Decoder(tmp_path, threads=1).kernels.startswith("DynamicMaskAttention with ")
    assert Decoder(tmp_path, threads=1, operators=False).kernels == "onnxruntime's operators"


@pytest.mark.parametrize("position", [40, 100])
@pytest.mark.parametrize("saver", [0, 1])
def test_a_state_of_either_path_goes_on_by_the_other(position: int, saver: int, tmp_path: Path) -> None:
    write_with_offsets(tmp_path)
    decoders, ids = both(tmp_path), random_ids(TOKENS)
    state = decoders[saver].new_state()
    decoders[saver].forward(state, ids[:position])
    state.save(tmp_path / "state")
    loaded = decoders[1 - saver].load_state(tmp_path / "state")
    rest = [ones(decoders[saver], ids[position:], state), ones(decoders[1 - saver], ids[position:], loaded)]
    assert relative_difference(rest[1], rest[0]) < 2e-2


def ones(decoder: Decoder, ids: NDArray[np.int64], state: State) -> NDArray[np.float32]:
    """Logits of tokens fed one by one."""
    return feed(decoder, ids, [1] * len(ids), state)


def test_a_batch_is_its_streams(tmp_path: Path) -> None:
    write_with_offsets(tmp_path, weights="int8")
    decoder = Decoder(tmp_path, threads=1, operators=True)
    batch, alone = decoder.new_batch(2), decoder.new_state()
    states = [batch.open(), batch.open()]
    for length, state in ((20, states[0]), (7, states[1])):
        decoder.forward(state, random_ids(length))
    decoder.forward(alone, random_ids(7))
    together = batch.forward([3, 4])
    assert relative_difference(together[1], decoder.forward(alone, np.array([4]))[0]) < 2e-2
