"""An adapter beside an exported base by DogeStep and by the standard graphs: states, pieces, and older folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.export import ExportOptions, export
from doge_export.places import REPORT_FILE
from doge_export.runtime.adapters import ADAPTED_FILES, Adapters
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import STEP_FILE
from doge_export.runtime.operators import LIBRARY
from tests.helpers.adapters import doge_of, lora_config, save_random_adapter
from tests.helpers.checkpoints import save_doge
from tests.helpers.models import random_ids, relative_difference

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="no compiler made the operators' library")
IDS = random_ids(150)  # in a window of 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Doge in 8 bits, whose state is float16 by DogeStep, with an adapter of all projections."""
    work = tmp_path_factory.mktemp("adapted")
    save_doge(work / "base")
    targets = ["q_proj", "v_proj", "dt_proj", "o_proj", "up_proj", "down_proj"]
    config = lora_config(target_modules=targets)
    save_random_adapter(doge_of(work / "base").model, work / "legal", work / "base", config)
    adapters = {"legal": str(work / "legal")}
    export(ExportOptions(str(work / "base"), work / "out", weights="int8", adapters=adapters, report_tokens=0))
    return work / "out"


def adapted(folder: Path, operators: bool) -> Decoder:
    return Adapters(folder, Decoder(folder, threads=1, operators=operators)).decoder("legal")


def fed(decoder: Decoder, ids: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    state, pieces = decoder.new_state(), [ids[i : i + size] for i in range(0, len(ids), size)]
    return np.concatenate([decoder.forward(state, piece, "all").copy() for piece in pieces])


def test_each_way_computes_the_adapter_by_its_own_graphs(folder: Path) -> None:
    ways = [adapted(folder, operators) for operators in (False, True)]
    assert [decoder.kernels.split()[0] for decoder in ways] == ["onnxruntime's", "DogeStep"]
    assert [decoder.description.cache_type for decoder in ways] == ["float32", "packed_float16"]
    logits = [fed(decoder, IDS, 23) for decoder in ways]
    assert relative_difference(logits[1], logits[0]) < 0.05
    base = fed(Decoder(folder, threads=1, operators=True), IDS, 23)
    assert relative_difference(logits[1], base) > 0.1


def test_pieces_of_any_size_give_the_same_bits_beyond_the_window(folder: Path) -> None:
    decoder = adapted(folder, operators=True)
    assert np.array_equal(fed(decoder, IDS, 1), fed(decoder, IDS, 23))


def test_drafts_are_single_steps_bit_by_bit(folder: Path) -> None:
    decoder = adapted(folder, operators=True)
    state, single = decoder.new_state(), fed(decoder, IDS[:20], 1)
    decoder.forward(state, IDS[:12])
    assert np.array_equal(decoder.check_draft(state, IDS[12:20]), single[12:])


@pytest.mark.parametrize("position", [40, 90])
@pytest.mark.parametrize("saver", [False, True])
def test_a_state_of_either_way_goes_on_by_the_other_with_its_adapter(
    saver: bool, position: int, folder: Path, tmp_path: Path
) -> None:
    decoders = [adapted(folder, operators) for operators in (saver, not saver)]
    state = decoders[0].new_state()
    decoders[0].forward(state, IDS[:position])
    state.save(tmp_path / "state")
    loaded = decoders[1].load_state(tmp_path / "state")
    rest = [
        decoder.forward(each, IDS[position:100], "all") for decoder, each in zip(decoders, (state, loaded), strict=True)
    ]
    assert relative_difference(rest[1], rest[0]) < 0.05


def test_an_export_of_before_has_its_adapters_computed_by_the_standard_graphs(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "out")
    (tmp_path / "out" / ADAPTED_FILES[STEP_FILE]).unlink()
    report = json.loads((tmp_path / "out" / REPORT_FILE).read_text())
    del report["files"][ADAPTED_FILES[STEP_FILE]]
    (tmp_path / "out" / REPORT_FILE).write_text(json.dumps(report))
    assert Decoder(tmp_path / "out", operators=True).kernels.startswith("DogeStep")
    decoder = adapted(tmp_path / "out", operators=True)
    assert decoder.kernels == "onnxruntime's operators"
    assert np.array_equal(fed(decoder, IDS, 23), fed(adapted(folder, operators=False), IDS, 23))
