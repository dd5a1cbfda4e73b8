"""Adapters of one exported base: read by name, bound beside the base's weights, each a decoder of its own.

    model = doge_export.load("smollm2-135m-int8")
    model.generate("The tenant", adapter="legal")
    model.add_adapter("support", "support.onnx_adapter")

The graphs of adapters are opened once, when the first adapter is used; another adapter binds other arrays to them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import OptionError, PackageError
from .adapter_arrays import aligned, in_float16
from .adapter_names import check_name
from .decoder import Decoder
from .description import DECODER_FILE, DRAFT_FILE, PORTABLE_FILE, RECURRENT_FILE, STEP_FILE
from .graphs import Graphs
from .sessions import metadata_of, refusals
from .standard_graphs import Sessions, StandardGraphs
from .step_graph import StepGraph, step_description

ADAPTED_FILES = {  # a graph -> the same one with places for an adapter
    DECODER_FILE: "onnx/decoder_adapters.onnx",
    RECURRENT_FILE: "onnx/decoder_recurrent_adapters.onnx",
    DRAFT_FILE: "onnx/decoder_draft_adapters.onnx",
    STEP_FILE: "onnx/decoder_step_adapters.onnx",  # where DogeStep computes the decoder
    PORTABLE_FILE: "onnx/model_adapters.onnx",  # for onnxruntime-genai
}
FOLDER, ENDING = "adapters", ".onnx_adapter"
HALF = "tensor(float16)"
BASE_KEY = "doge_export.adapters"  # of the metadata: the number of the base, which its adapters' files hold too


class Place(NamedTuple):
    """A graph's input for an array: its shape, where a rank is a text, and its type as onnxruntime names it."""

    shape: list[int | str]
    number: str


Places = Mapping[str, Place]


@dataclass(frozen=True)
class Adapter:
    """The arrays of a file.

    Attributes:
        values: by the name of the graph input that each replaces.
        sha256: of the file.
    """

    values: dict[str, ort.OrtValue]
    sha256: str

    @classmethod
    def read(cls, path: Path, places: Places, base: int) -> Adapter:
        """Read and check a file.

        Args:
            path: that doge-export wrote.
            places: of the graph.
            base: the number of the base.

        Raises:
            PackageError: it is missing, damaged, of another base, or no adapter.
        """
        if not path.is_file():
            raise PackageError(f"{path} is missing; give an adapter file that doge-export wrote")
        content = path.read_bytes()
        try:
            file = ort.AdapterFormat.read_adapter(str(path))
            values, version = file.get_parameters(), file.get_model_version()
        except (RuntimeError, UnicodeDecodeError) as error:  # onnxruntime checks the format, and raises nothing else
            raise PackageError(f"{path} is no adapter of onnxruntime, or a damaged one; export it again") from error
        if version != base:
            raise PackageError(f"{path} is an adapter of another base; export it with the base of this folder")
        for name, value in values.items():
            check_value(path, name, value, places)
        check_ranks(path, values)
        arrays: dict[str, NDArray[Any]] = {name: value.numpy() for name, value in values.items()}
        halves = {name for name in arrays if places[name].number == HALF}
        if halves:
            arrays = in_float16(path, arrays, halves)
        return cls(aligned(arrays), hashlib.sha256(content).hexdigest())


def check_value(path: Path, name: str, value: ort.OrtValue, places: Places) -> None:
    """PackageError for an array without a place, of another shape or type, or with numbers that are none."""
    expected, found = places[name].shape if name in places else None, value.shape()
    fits = expected is not None and len(found) == len(expected)
    if not fits or any(isinstance(size, int) and size != own for size, own in zip(expected or [], found, strict=True)):
        raise PackageError(f"{path} has {name} of shape {found}, for which the base has {expected or 'no place'}")
    if value.data_type() != "tensor(float)" or not np.isfinite(value.numpy()).all():
        raise PackageError(f"{path} has {name}, which must hold finite numbers of float32; export it again")


def check_ranks(path: Path, values: Mapping[str, ort.OrtValue]) -> None:
    """PackageError where one of the thin matrices of a product is missing, or their ranks do not fit."""
    products = {name.rpartition(".lora_")[0] for name in values if ".lora_" in name}
    for product in products:
        downs = [values[name].shape()[2] for name in values if name == f"{product}.lora_A"]
        ups = [values[name].shape()[1] for name in values if name.startswith(f"{product}.lora_B")]
        if not downs or not ups or set(ups) != {downs[0] // len(ups)} or downs[0] % len(ups):
            raise PackageError(f"{path} has ranks {downs} and {ups} of {product}, which do not fit; export it again")


class AdaptedSession:
    """A session with an adapter in every binding; onnxruntime passes over active adapters where there are bindings."""

    def __init__(self, session: ort.InferenceSession, values: Mapping[str, ort.OrtValue]) -> None:
        self._session, self._values = session, values

    def io_binding(self) -> ort.IOBinding:
        """A binding that has the adapter."""
        binding = self._session.io_binding()
        for name, value in self._values.items():
            binding.bind_ortvalue_input(name, value)
        return binding

    def get_modelmeta(self) -> ort.ModelMetadata:
        """The file's metadata."""
        return self._session.get_modelmeta()

    def run_with_iobinding(self, binding: ort.IOBinding) -> None:
        """Run."""
        self._session.run_with_iobinding(binding)


class AdaptedSessions(Sessions):
    """The sessions of graphs with places for adapters, with one adapter in them."""

    def __init__(self, shared: Sessions, values: Mapping[str, ort.OrtValue]) -> None:
        self._shared, self._values = shared, values

    def get(self, file: str) -> AdaptedSession:
        """The session that stands for the plain graph's."""
        return AdaptedSession(self._shared.get(ADAPTED_FILES[file]), self._values)


class Adapters:
    """The adapters of a model by name. Each is read when it is first used."""

    def __init__(self, folder: Path, decoder: Decoder) -> None:
        """folder: of the export. decoder: of its base."""
        self._folder, self._base = folder, decoder
        self._library = step_library(folder, decoder.graphs)
        self._file = ADAPTED_FILES[DECODER_FILE if self._library is None else STEP_FILE]
        self._graph = folder / self._file
        self._sessions = Sessions(folder, decoder.threads, self._library)
        self._lock = threading.Lock()
        self._decoders: dict[str, Decoder] = {}
        self._paths = adapter_files(folder)

    @property
    def names(self) -> list[str]:
        """Those that can be used."""
        return [*self._paths]

    def add(self, name: str, path: Path) -> None:
        """Give a file's adapter a name, and read it.

        Raises:
            OptionError: the name is taken or not allowed.
            PackageError: of `decoder`.
        """
        check_name(name)
        with self._lock:
            if name in self._paths:
                raise OptionError(f"there is an adapter {name!r} already; give the new one another name")
            decoder = self._opened(name, path)
            self._decoders[name], self._paths[name] = decoder, path

    def decoder(self, name: str) -> Decoder:
        """The decoder that computes with an adapter.

        Raises:
            OptionError: there is none of that name.
            PackageError: its file or the graphs for it are missing, damaged, or of another base.
        """
        with self._lock:
            if name not in self._paths:
                known = ", ".join(self._paths) or "none, as none was exported or added"
                raise OptionError(f"adapter is {name!r}; it must be one of the model's: {known}")
            if name not in self._decoders:
                self._decoders[name] = self._opened(name, self._paths[name])
            return self._decoders[name]

    def _opened(self, name: str, path: Path) -> Decoder:
        session = self._session()
        adapter = Adapter.read(path, places_of(session), base_number(metadata_of(session, self._graph), self._graph))
        return self.with_values(adapter, name)

    def with_values(self, adapter: Adapter, name: str) -> Decoder:
        """The decoder that computes with an adapter of this base.

        Raises:
            PackageError: the graphs for it are missing or damaged.
        """
        graphs = self._graphs(self._session(), adapter)
        own = hashlib.sha256(f"{graphs.description.weights_sha256} {adapter.sha256}".encode()).hexdigest()
        graphs.description = replace(graphs.description, weights_sha256=own, adapter=name)
        return self._base.computed_by(graphs)

    def _session(self) -> ort.InferenceSession:
        """Of the first graph with places."""
        if not self._graph.is_file():
            raise PackageError(f"{self._folder} has no graphs for adapters; export it with --adapters NAME=DIR")
        session: ort.InferenceSession = self._sessions.get(self._file)
        return session

    def _graphs(self, session: ort.InferenceSession, adapter: Adapter) -> Graphs:
        """Those that compute with an adapter, which have a description of their own."""
        if self._library is None:
            sessions = AdaptedSessions(self._sessions, adapter.values)
            return StandardGraphs(self._folder, self._base.threads, sessions)
        adapted = AdaptedSession(session, adapter.values)
        return StepGraph.over(adapted, self._library, step_description(session, self._graph))


def open_decoder(folder: Path, threads: int | None, adapter: str | None) -> Decoder:
    """The decoder of an exported folder, with one of its adapters where a name is given.

    Raises:
        PackageError, OptionError: of `Decoder` and of `Adapters.decoder`.
    """
    decoder = Decoder(folder, threads)
    return decoder if adapter is None else Adapters(folder, decoder).decoder(adapter)


def step_library(folder: Path, graphs: Graphs) -> Path | None:
    """The library of DogeStep, where it computes the base and the folder has its graph for adapters.

    Exports of earlier versions have none, so the standard graphs compute their adapters.
    """
    if isinstance(graphs, StepGraph) and (folder / ADAPTED_FILES[STEP_FILE]).is_file():
        return graphs.library
    return None


def adapter_files(folder: Path) -> dict[str, Path]:
    """The files of an export's adapters by name."""
    return {path.name.removesuffix(ENDING): path for path in sorted((folder / FOLDER).glob(f"*{ENDING}"))}


def places_of(session: ort.InferenceSession) -> Places:
    """A graph's inputs that have defaults."""
    with refusals("read the inputs of the graphs for adapters"):
        return {each.name: Place(each.shape, each.type) for each in session.get_overridable_initializers()}


def base_number(metadata: Mapping[str, str], path: Path) -> int:
    """The number of the base from the metadata of a graph.

    Raises:
        PackageError: there is none.
    """
    try:
        return int(json.loads(metadata[BASE_KEY])["base"])
    except (KeyError, TypeError, ValueError) as error:
        raise PackageError(f"{path} has no {BASE_KEY!r} in its metadata; export the checkpoint again") from error


def write_adapter(path: Path, arrays: Mapping[str, np.ndarray], base: int) -> None:
    """Write the arrays of an adapter as onnxruntime and onnxruntime-genai read them."""
    file = ort.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(base)
    file.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    file.export_adapter(str(path))
