"""An exported folder with another window or other sinks, without exporting it again: by a graph of DogeStep alone."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import onnx
from numpy.typing import NDArray

from doge_export.export.decoder_files import step_cache
from doge_export.graph import ConstantPool
from doge_export.graph.step import build_step
from doge_export.measure.agreement import log_softmax
from doge_export.runtime.description import DATA_FILE, DECODER_FILE, STEP_FILE, DecoderDescription, format_version
from doge_export.runtime.operators import LIBRARY
from doge_export.runtime.state import State
from doge_export.runtime.step_graph import StepGraph
from doge_model.config_fields import make_config

from .stored import stored_decoder


class Window(NamedTuple):
    """Keys that are kept, and how many of a stream's first tokens are among them for good."""

    keys: int
    sinks: int

    def __str__(self) -> str:
        return f"{self.keys} keys, {self.sinks} sink{'' if self.sinks == 1 else 's'}"


@contextmanager
def step_folder(folder: Path) -> Iterator[Path]:
    """The folder itself, or one with a graph of DogeStep in place of an export of before there were any.

    Raises:
        ClickException: this machine has no operators, or there is no such export.
    """
    if not LIBRARY.is_file() or not (folder / DECODER_FILE).is_file():
        raise click.ClickException(f"{folder} is no export, or {LIBRARY.name} is not compiled; both are needed")
    if (folder / STEP_FILE).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        write_step(folder, Path(name))
        yield Path(name)


def write_step(folder: Path, out: Path) -> None:
    """The graph of DogeStep for the arrays of an export in 8 bits."""
    folded, plan, metadata = stored_decoder(folder, make_config(json.loads((folder / "config.json").read_text())))
    pool = ConstantPool()
    graph = build_step(folded, plan, pool, step_cache(folded.dimensions))
    (out / STEP_FILE).parent.mkdir()
    pool.write(out / DATA_FILE)
    graph.write(out / STEP_FILE, metadata)


def own_window(folder: Path) -> Window:
    """The window of a folder with a graph of DogeStep."""
    description = description_of(onnx.load(folder / STEP_FILE, load_external_data=False), folder)
    return Window(description.keep_window_size, description.keep_sinks)


@contextmanager
def narrowed(folder: Path, window: Window, threads: int) -> Iterator[StepGraph]:
    """The decoder of such a folder with a window that is no wider than its own, as long as the context."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        model = onnx.load(folder / STEP_FILE, load_external_data=False)
        (Path(name) / STEP_FILE).parent.mkdir()
        change(model, folder, window)
        (Path(name) / STEP_FILE).write_bytes(model.SerializeToString())
        os.link(folder / DATA_FILE, Path(name) / DATA_FILE)
        yield StepGraph(Path(name), threads, LIBRARY)


def change(model: onnx.ModelProto, folder: Path, window: Window) -> None:
    """Give the operator and the description another window."""
    (node,) = model.graph.node
    kept = [each for each in node.attribute if each.name not in ("keep_window_size", "keep_sinks")]
    del node.attribute[:]
    sizes = {"keep_window_size": window.keys, "keep_sinks": window.sinks}
    node.attribute.extend([*kept, *(onnx.helper.make_attribute(name, size) for name, size in sizes.items())])
    before = description_of(model, folder)
    version = format_version(before.cache_type, window.sinks, before.keep_bonus, before.keep_recent)
    assert version is not None
    after = replace(before, format_version=version, keep_window_size=window.keys, keep_sinks=window.sinks)
    written = after.to_metadata()
    for entry in model.metadata_props:
        entry.value = written.get(entry.key, entry.value)


def description_of(model: onnx.ModelProto, folder: Path) -> DecoderDescription:
    """As the file has it."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return DecoderDescription.from_metadata(metadata, folder / STEP_FILE)


def nats_of(graph: StepGraph, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """The negative log-likelihood of every token of a stream but the first, given those before it: [S - 1], in nats."""
    state, found = State(graph.description), []
    while state.position < len(ids):
        start = state.position
        piece = ids[start : start + state.room_for_chunk()]
        log_p = log_softmax(graph.chunk(state, piece, np.arange(len(piece))).astype(np.float64))
        following = ids[start + 1 : start + 1 + len(piece)]
        found.append(-log_p[np.arange(len(following)), following])
    return np.concatenate(found)
