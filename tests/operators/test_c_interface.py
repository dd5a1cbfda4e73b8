"""The library in onnxruntime's C interface, which Java, C#, Rust and the others wrap, without onnxruntime's Python."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from doge_export.export.decoder_files import fold_model
from tests.helpers.models import tiny_model
from tests.helpers.operators import Stream, compiled, mixed_plan, write_graph

SHARED = next((Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(SHARED is None, reason="onnxruntime's wheel has no shared library")]
TYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 7}  # ONNXTensorElementDataType


class Interface:
    """The few calls of OrtApi that one run needs, by their places in onnxruntime_c_api.h, which never change."""

    def __init__(self) -> None:
        base = ctypes.CDLL(str(SHARED)).OrtGetApiBase
        base.restype = POINTER(c_void_p)
        get_api = ctypes.CFUNCTYPE(POINTER(c_void_p), c_uint32)(base()[0])
        self.table = get_api(18)

    def call(self, place: int, *arguments: Any) -> None:
        """Entry `place` of the table, whose status must be none."""
        function: Callable[..., int | None] = ctypes.CFUNCTYPE(c_void_p, *map(type, arguments))(self.table[place])
        status = function(*arguments)
        assert status is None, ctypes.CFUNCTYPE(c_char_p, c_void_p)(self.table[2])(status)

    def made(self, place: int, *arguments: Any) -> c_void_p:
        """The object that an entry makes."""
        made = c_void_p()
        self.call(place, *arguments, ctypes.cast(byref(made), c_void_p))
        return made

    def tensor(self, memory: c_void_p, array: NDArray[Any]) -> c_void_p:
        """An OrtValue over the array's memory."""
        shape = (c_int64 * array.ndim)(*array.shape)
        data, dimensions = c_void_p(array.ctypes.data), ctypes.cast(shape, c_void_p)
        return self.made(
            49, memory, data, c_size_t(array.nbytes), dimensions, c_size_t(array.ndim), c_int(TYPES[array.dtype])
        )


def test_the_c_interface_loads_the_library_and_computes_the_same_bits(tmp_path: Path) -> None:
    library = compiled(tmp_path / "doge_operators.so")
    folded = fold_model(tiny_model())
    file = write_graph(folded, mixed_plan(folded, 8), tmp_path, "step")
    stream = Stream(file, folded.dimensions, library=library)
    inputs = stream.inputs(np.array([[7]]), np.array([0]))
    arrays = {name: np.ascontiguousarray(array) for name, array in (inputs | stream.caches).items()}

    c = Interface()
    environment = c.made(3, c_int(3), c_char_p(b"test"))  # CreateEnv
    options = c.made(10)  # CreateSessionOptions
    c.made(29, options, c_char_p(str(library).encode()))  # RegisterCustomOpsLibrary
    session = c.made(7, environment, c_char_p(str(file).encode()), options)  # CreateSession
    memory = c.made(69, c_int(1), c_int(0))  # CreateCpuMemoryInfo
    values = (c_void_p * len(arrays))(*(c.tensor(memory, array) for array in arrays.values()))
    names = (c_char_p * len(arrays))(*(name.encode() for name in arrays))
    outputs, wanted = (c_void_p * 1)(), (c_char_p * 1)(b"logits")
    pointers = [ctypes.cast(each, c_void_p) for each in (names, values, wanted, outputs)]
    c.call(9, session, c_void_p(), *pointers[:2], c_size_t(len(arrays)), pointers[2], c_size_t(1), pointers[3])  # Run
    logits = ctypes.cast(c.made(51, c_void_p(outputs[0])), POINTER(ctypes.c_float))  # GetTensorMutableData
    assert np.array_equal(np.ctypeslib.as_array(logits, (1, 1, folded.dimensions.vocab_size)), stream.run(inputs))
