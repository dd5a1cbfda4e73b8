"""Standard graphs on processors where onnxruntime's product of blocks is slow or coarse, on any processor."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from doge_export.export.decoder_files import fold_model
from doge_export.runtime import processor_products, sessions
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DATA_FILE, DECODER_FILE, DRAFT_TOKENS
from doge_export.runtime.model_bytes import parse, write
from doge_export.runtime.processor import Processor, available_memory, this_processor
from doge_export.runtime.processor_products import Change, change_for
from tests.helpers.models import random_ids, relative_difference, tiny_model, write_model
from tests.helpers.operators import float_plan, mixed_plan

FORMS: dict[str, dict[str, Any]] = {
    "rows of whole blocks": {"hidden_size": 128, "intermediate_size": 96},
    "rows that are filled up, and biases": {"attention_bias": True, "qk_norm": False},
}
SLOW, DOT, OTHER = Processor(True, False), Processor(True, True), Processor(False, False)
TOKENS = 100  # in a window of 64


@pytest.fixture(params=[8, 4])
def bits(request: pytest.FixtureRequest) -> int:
    given: int = request.param
    return given


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FORMS[request.param]


@pytest.fixture
def on_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Raspberry Pi 4."""
    monkeypatch.setattr(sessions, "this_processor", lambda: SLOW)


def write_both(bits: int, folder: Path, **form: Any) -> None:
    """An export in few bits, and one of the very numbers in float32."""
    model = tiny_model(**form)
    folded = fold_model(model)
    plan = mixed_plan(folded, bits)
    write_model(model, "int8", folder / "blocks", plan=plan)
    write_model(model, "fp32", folder / "float", plan=float_plan(folded, plan))


def steps(decoder: Decoder) -> NDArray[np.float32]:
    """Logits of single tokens, until the window is full and beyond."""
    state = decoder.new_state()
    return np.concatenate([decoder.forward(state, token).copy() for token in random_ids(TOKENS)[:, None]])


def graph_of(folder: Path) -> bytes:
    return (folder / DECODER_FILE).read_bytes()


def change(here: Processor, folder: Path, graph: bytes | None = None) -> Change:
    """The change of a folder's graph, or of another one over its data."""
    return change_for(here, graph_of(folder) if graph is None else graph, folder / DATA_FILE)


def products(model: bytes) -> int:
    """Of blocks, in a graph."""
    return sum(node.op_type == "MatMulNBits" for node in onnx.load_from_string(model).graph.node)


@pytest.mark.usefixtures("on_slow")
def test_a_slow_processor_multiplies_the_very_numbers_in_float32(
    bits: int, form: dict[str, Any], tmp_path: Path
) -> None:
    write_both(bits, tmp_path, **form)
    blocks, floats = (Decoder(tmp_path / name, 1, operators=False) for name in ("blocks", "float"))
    assert relative_difference(steps(floats), steps(blocks)) < 1e-5
    draft = random_ids(DRAFT_TOKENS)
    drafts = [decoder.check_draft(decoder.new_state(), draft).copy() for decoder in (floats, blocks)]
    assert relative_difference(*drafts) < 1e-5


def test_no_product_of_blocks_is_left(bits: int, form: dict[str, Any], tmp_path: Path) -> None:
    write_both(bits, tmp_path, **form)
    changed = change(SLOW, tmp_path / "blocks").model
    assert changed is not None
    assert products(graph_of(tmp_path / "blocks")) > 0
    assert products(changed) == 0


def test_other_processors_and_graphs_need_no_change(bits: int, tmp_path: Path) -> None:
    write_both(bits, tmp_path)
    assert change(OTHER, tmp_path / "blocks") == change(SLOW, tmp_path / "float") == Change()
    assert change(DOT, tmp_path / "blocks") == Change()  # their products of 4 bits have zero points


def test_four_bits_without_zero_points_do_without_kleidiai(tmp_path: Path) -> None:
    write_both(4, tmp_path)
    model = onnx.load_from_string(graph_of(tmp_path / "blocks"))
    for node in model.graph.node:
        if node.op_type == "MatMulNBits" and len(node.input) > 3:
            node.input[3] = ""
    found = change(DOT, tmp_path / "blocks", model.SerializeToString())
    assert found == Change(None, {"mlas.disable_kleidiai": "1"})


def test_matrices_that_do_not_fit_into_memory_stay_and_the_user_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_both(8, tmp_path)
    monkeypatch.setattr(processor_products, "available_memory", lambda: 10_000)
    with pytest.warns(UserWarning, match=r"0 MB of memory are free; install the operators"):
        assert change(SLOW, tmp_path / "blocks") == Change()


def test_a_folder_of_links_opens_changed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_both(8, tmp_path)
    plain = Decoder(tmp_path / "float", 1, operators=False)
    (tmp_path / "links" / "onnx").mkdir(parents=True)
    for file in (tmp_path / "blocks" / "onnx").iterdir():
        (tmp_path / "links" / "onnx" / file.name).symlink_to(file)
    monkeypatch.setattr(sessions, "this_processor", lambda: SLOW)
    assert relative_difference(steps(plain), steps(Decoder(tmp_path / "links", 1, operators=False))) < 1e-5


def test_fields_are_written_as_they_were_read(tmp_path: Path) -> None:
    write_both(4, tmp_path)
    graph = graph_of(tmp_path / "blocks")
    assert write(parse(graph)) == graph


@pytest.mark.parametrize("bits", [8, 4])
def test_a_damaged_graph_is_left_to_onnxruntime(bits: int, tmp_path: Path) -> None:
    write_both(bits, tmp_path)
    draw, graph = random.Random(0), graph_of(tmp_path / "blocks")
    for _ in range(300):
        damaged = bytearray(graph)
        for _ in range(3):
            damaged[draw.randrange(len(graph))] = draw.randrange(256)
        change(SLOW, tmp_path / "blocks", bytes(damaged))
        change(DOT, tmp_path / "blocks", bytes(damaged[: draw.randrange(len(graph))]))


def test_this_processor_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_processor() in (SLOW, DOT, OTHER)
    monkeypatch.setattr("doge_export.runtime.processor.MEMINFO", tmp_path / "meminfo")
    assert available_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 250 kB\n")
    assert available_memory() == 250 * 1024
