"""DogeStep with an adapter beside the standard graph with the same one: alone, in drafts, in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from doge_export.export.decoder_files import fold_model
from doge_export.graph import Dimensions
from doge_export.runtime.sessions import ORT_ERRORS
from doge_model import DogeForCausalLM
from tests.helpers.models import FORMS, random_ids, tiny_model, without_mask
from tests.helpers.operators import Floats, Stream, compiled, mixed_plan, random_adapter, write_graph

pytestmark = pytest.mark.slow
STEPS, RANK = 40, 5
WIDE: dict[str, Any] = {"hidden_size": 160, "intermediate_size": 288}
DOWN, UP = "layers.1.mlp.down_proj.lora_A", "layers.1.self_attn.qkv_proj.lora_B.k"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("library") / "doge_operators.so")


class Written(NamedTuple):
    """A graph of DogeStep with places, and random arrays for them."""

    file: Path
    d: Dimensions
    adapter: dict[str, NDArray[np.floating]]
    library: Path

    def stream(self, streams: int = 1, threads: int = 1) -> Stream:
        made = Stream(self.file, self.d, streams, self.library, threads)
        made.adapter = self.adapter
        return made


@pytest.fixture(params=[np.float32, np.float16])
def written(request: pytest.FixtureRequest, library: Path, tmp_path: Path) -> Written:
    """In 8 bits, of more numbers than one piece of a sum has."""
    return written_with(request.param, library, tmp_path)


def written_with(number: type[np.floating[Any]], library: Path, folder: Path) -> Written:
    """Thin matrices of such a type, whose numbers are those of float16."""
    model = tiny_model(**WIDE)
    folded = fold_model(model)
    file = write_graph(folded, mixed_plan(folded, 8), folder, "step", kv_float16=True, adapter_number=number)
    adapter = random_adapter(model, folded, RANK)
    halves = {name: array.astype(np.float16) for name, array in adapter.items() if ".lora" in name}
    floats = {name: array.astype(np.float32 if name.endswith(".v") else number) for name, array in halves.items()}
    return Written(file, folded.dimensions, adapter | floats, library)


def test_float16_gives_the_bits_of_the_same_numbers_in_float32(library: Path, tmp_path: Path) -> None:
    floats, halves = (written_with(each, library, tmp_path / each.__name__) for each in (np.float32, np.float16))
    ids = tokens(floats.d, 2)
    assert np.array_equal(fed(floats.stream(2), ids, 8), fed(halves.stream(2), ids, 8))


def tokens(d: Dimensions, streams: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, d.vocab_size, (streams, STEPS))


def fed(stream: Stream, ids: NDArray[np.int64], size: int = 1) -> Floats:
    """Logits [streams, S, vocab], so many tokens of each stream at a time."""
    pieces = [stream.feed(ids[:, i : i + size], np.full(len(ids), i)) for i in range(0, ids.shape[1], size)]
    return np.concatenate(pieces, axis=1)


def largest_difference(a: Floats, b: Floats) -> float:
    """As a share of the largest number."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def both(model: DogeForCausalLM, rank: int, library: Path, folder: Path) -> tuple[Stream, Stream]:
    """A model in float32 with an adapter: DogeStep, and the standard graph."""
    folded = fold_model(model)
    plan, streams = mixed_plan(folded, 32), []
    for name, own in (("step", library), ("standard", None)):
        file = write_graph(folded, plan, folder, name, adapter_number=np.float32)
        streams.append(Stream(file, folded.dimensions, library=own))
        streams[-1].adapter = random_adapter(model, folded, rank)
    return streams[0], streams[1]


@pytest.mark.parametrize("form", [*FORMS, "lifted"])
def test_logits_and_state_are_those_of_the_standard_graph(form: str, library: Path, tmp_path: Path) -> None:
    model = without_mask(tiny_model()) if form == "lifted" else tiny_model(**FORMS[form])
    step, standard = both(model, RANK, library, tmp_path)
    ids = random_ids(STEPS)[None]
    logits = fed(standard, ids)
    assert largest_difference(fed(step, ids), logits) < 1e-5
    for name, cache in standard.caches.items():
        assert largest_difference(step.caches[name], cache) < 1e-5
    standard.adapter = {}
    assert largest_difference(fed(standard, ids), logits) > 0.01


@pytest.mark.parametrize("rank", [1, 16, 40])
def test_any_rank_adds_what_the_standard_graph_adds(rank: int, library: Path, tmp_path: Path) -> None:
    step, standard = both(tiny_model(**WIDE), rank, library, tmp_path)
    ids = random_ids(STEPS)[None]
    assert largest_difference(fed(step, ids, 8), fed(standard, ids)) < 1e-5


def test_pieces_drafts_and_batches_are_single_steps_bit_by_bit(written: Written) -> None:
    ids = tokens(written.d, 3)
    alone = np.concatenate([fed(written.stream(), row[None]) for row in ids])
    for size, threads in ((8, 2), (40, 2), (3, 1)):
        assert np.array_equal(fed(written.stream(3, threads), ids, size), alone)


def test_empty_places_compute_as_the_graph_without_any(written: Written, tmp_path: Path) -> None:
    folded = fold_model(tiny_model(**WIDE))
    plain = write_graph(folded, mixed_plan(folded, 8), tmp_path / "plain", "step", kv_float16=True)
    ids = tokens(written.d, 1)
    base = fed(Stream(plain, written.d, library=written.library), ids, 8)
    empty = written._replace(adapter={})
    assert np.array_equal(fed(empty.stream(), ids, 8), base)
    zeros = written._replace(adapter={name: 0 * array for name, array in written.adapter.items() if ".lora" in name})
    assert np.array_equal(fed(zeros.stream(), ids, 8), base)


def test_one_matrix_alone_takes_its_update(written: Written) -> None:
    own = {name: array for name, array in written.adapter.items() if name.startswith("layers.1.mlp.down_proj")}
    ids = tokens(written.d, 1)
    some, none = (fed(written._replace(adapter=adapter).stream(), ids, 8) for adapter in (own, {}))
    assert 0.001 < largest_difference(some, none) < largest_difference(fed(written.stream(), ids, 8), none)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (DOWN, (1, 287, RANK), r"lora_A has shape \[1, 287, 5\]; it must be \[1, 288, -1\]"),
        (DOWN, (1, 288, RANK + 1), r"lora_B has shape \[1, 5, 160\]; it must be \[1, 6, 160\]"),
        (UP, (1, 10, 79), r"lora_B has shape \[1, 10, 79\]; it must be \[1, 10, 80\]"),
        (
            "layers.1.self_attn.qkv_proj.lora_A",
            (1, 160, 16),
            "as many columns for every part of lora_B",
        ),
        ("first_layer_logits", (96, 2), r"first_layer_logits has shape \[96, 2\]; it must be \[97, 2\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(
    name: str, shape: tuple[int, ...], message: str, written: Written
) -> None:
    relaxed(written.file)
    changed = written._replace(adapter=written.adapter | {name: np.zeros(shape, written.adapter[name].dtype)})
    with pytest.raises(ORT_ERRORS, match=message):
        changed.stream().feed(np.array([[7]]), np.array([0]))


def test_a_graph_that_lacks_a_place_is_refused(written: Written) -> None:
    model = onnx.load(written.file, load_external_data=False)
    del model.graph.node[-1].input[-1]
    written.file.write_bytes(model.SerializeToString())
    with pytest.raises(ORT_ERRORS, match="1 inputs are missing"):
        written._replace(adapter={}).stream().feed(np.array([[7]]), np.array([0]))


def relaxed(file: Path) -> None:
    """Let onnxruntime pass any size on to the operator."""
    model = onnx.load(file, load_external_data=False)
    for each in model.graph.input:
        for axis in each.type.tensor_type.shape.dim if "lora" in each.name or "logits" in each.name else ():
            axis.dim_param = f"{each.name}.{len(axis.dim_param)}"
    file.write_bytes(model.SerializeToString())
