"""Weights that graphs of our own operators share: mapped as a whole, moved to huge pages, and given back."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from doge_export.errors import PackageError
from doge_export.runtime import weights as module
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DATA_FILE, STEP_FILE
from doge_export.runtime.huge_pages import HUGE_PAGE, available, replace_file_pages
from doge_export.runtime.operators import LIBRARY
from doge_export.runtime.sessions import open_session
from doge_export.runtime.weights import SessionOver, Weights, shared_weights
from tests.helpers.models import exported, random_ids, tiny_model
from tests.runtime.test_huge_pages import huge_bytes, wait_for_moves

LOAD = """
import re, sys, threading, doge_export
model = doge_export.load(sys.argv[1], threads=1, operators=True)
[thread.join() for thread in threading.enumerate() if thread.name == "huge-pages"]
print(re.search(r"AnonHugePages: *(\\d+)", open("/proc/self/smaps_rollup").read())[1])
"""
pytestmark = pytest.mark.skipif(not available(), reason="this system has no huge pages to give")
needs_operators = pytest.mark.skipif(not LIBRARY.is_file(), reason="no compiler made the operators' library")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two huge pages and some bytes."""
    path = tmp_path / "data"
    path.write_bytes(np.random.default_rng(0).bytes(2 * HUGE_PAGE + 12345))
    return path


@pytest.fixture
def every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_BYTES", 0)
    monkeypatch.setattr(module, "SECONDS", 0.0)


@pytest.mark.usefixtures("every_size")
def test_whole_blocks_of_a_file_move_to_huge_pages_and_keep_their_bytes(file: Path) -> None:
    weights = Weights(file)
    wait_for_moves()
    assert huge_bytes(weights.address) == 2 * HUGE_PAGE
    assert weights.bytes.tobytes() == file.read_bytes()


def test_readers_see_the_same_bytes_while_pages_move(file: Path) -> None:
    weights, expected, stopped, wrong = Weights(file), file.read_bytes(), threading.Event(), []

    def read() -> None:
        while not stopped.is_set():
            wrong.extend([1] * (weights.bytes.tobytes() != expected))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        replace_file_pages(weights.address, len(expected))  # again and again, from the pages of before
    stopped.set()
    reader.join()
    assert not wrong


def test_memory_goes_back_with_the_last_who_has_it(file: Path) -> None:
    weights = Weights(file)
    place = f"{weights.address:x}-"
    assert place in Path("/proc/self/maps").read_text()
    wait_for_moves()  # the one that moves has it too
    del weights
    gc.collect()
    assert place not in Path("/proc/self/maps").read_text()


@pytest.mark.usefixtures("every_size")
def test_a_file_is_mapped_once_until_it_changes(file: Path) -> None:
    weights = shared_weights(file)
    assert weights is not None
    assert shared_weights(file) is weights
    os.utime(file, ns=(0, 0))
    assert shared_weights(file) is not weights


@pytest.mark.parametrize(
    ("name", "value"), [("LEAST_BYTES", 2**40), ("available", lambda: False), ("available_memory", lambda: 1)]
)
def test_onnxruntime_maps_where_there_is_nothing_to_gain(
    name: str, value: object, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_BYTES", 0)
    monkeypatch.setattr(module, name, value)
    assert shared_weights(file) is None


@needs_operators
def test_logits_are_those_of_a_mapped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = exported(tiny_model(), tmp_path)
    monkeypatch.setattr(module, "LEAST_BYTES", 0)
    shared, ids = Decoder(tmp_path, 1), random_ids(40)
    assert isinstance(shared.graphs._session, SessionOver)  # type: ignore[attr-defined]  # of StepGraph
    logits, same = (each.forward(each.new_state(), ids, "all") for each in (mapped, shared))
    assert np.array_equal(logits, same)


@needs_operators
@pytest.mark.usefixtures("every_size")
def test_a_damaged_graph_or_a_cut_data_file_is_left_to_onnxruntime(tmp_path: Path) -> None:
    exported(tiny_model(), tmp_path)
    data, graph = tmp_path / DATA_FILE, tmp_path / STEP_FILE
    os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(PackageError, match="onnxruntime cannot open"):
        open_session(graph, 1, LIBRARY)
    graph.write_bytes(b"no model")
    with pytest.raises(PackageError, match="onnxruntime cannot open"):
        open_session(graph, 1, LIBRARY)


@needs_operators
@pytest.mark.usefixtures("every_size")
def test_a_file_that_cannot_be_mapped_as_a_whole_is_left_to_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, ids = exported(tiny_model(), tmp_path), random_ids(9)

    def refuse(*_: object) -> int:
        raise OSError("no addresses")

    monkeypatch.setattr(module, "map_file", refuse)
    os.utime(tmp_path / DATA_FILE)  # another file, as far as one tells
    mapped = Decoder(tmp_path, 1)
    assert np.array_equal(mapped.forward(mapped.new_state(), ids), decoder.forward(decoder.new_state(), ids))


@pytest.mark.slow
@needs_operators
def test_the_weights_of_a_model_move(demo_folders: dict[str, Path]) -> None:
    command = [sys.executable, "-c", LOAD, str(demo_folders["int8"])]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) * 1024 > 120 * 2**20  # of 136 MiB
