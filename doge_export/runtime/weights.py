"""The weights of a data file, for graphs of our own operators. All sessions of a process share them.

onnxruntime would map one constant at a time, anywhere. Here the whole file is mapped, from the beginning of a huge page
on, and onnxruntime gets the arrays in it. So huge pages can take the place of its own (`huge_pages`). They come when
the first token had time to, for new memory takes a virtual machine longer than a prompt.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .huge_pages import HUGE_PAGE, MAP_FAILED, available, replace_file_pages
from .model_bytes import (
    GRAPH_INITIALIZER,
    MODEL_GRAPH,
    TENSOR_DIMS,
    TENSOR_EXTERNAL_DATA,
    TENSOR_NAME,
    TENSOR_TYPE,
    numbers,
    parse,
    place_of,
    values,
)
from .processor import available_memory

LEAST_BYTES = 8 * 2**20  # of a file; the pages of smaller ones fit a table of recent entries
MAP_FIXED = 0x10  # include/uapi/asm-generic/mman-common.h
SECONDS = 0.5  # from the mapping to the first huge page
TYPES: dict[int, type[np.generic]] = {1: np.float32, 2: np.uint8, 10: np.float16, 11: np.float64}  # of onnx.proto

Values = dict[str, ort.OrtValue]


class Weights:
    """The bytes of a data file, uint8 [size]; they are there as long as this is."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.address = map_file(self, file.fileno(), size)
        self.bytes: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.address))
        self.bytes.flags.writeable = False
        timer = threading.Timer(SECONDS, lambda: replace_file_pages(self.address, size))
        timer.name, timer.daemon = "huge-pages", True
        with suppress(RuntimeError):  # the system has no thread to spare
            timer.start()

    def values(self, model: bytes) -> Values:
        """The constants of a model whose data lies in the file, by their names.

        Raises:
            ValueError: the model is damaged, or of another file.
        """
        return {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self._arrays(model)}

    def _arrays(self, model: bytes) -> Iterator[tuple[str, NDArray[np.generic]]]:
        for graph in values(parse(model), MODEL_GRAPH):
            for constant in map(parse, values(parse(graph), GRAPH_INITIALIZER)):
                if not values(constant, TENSOR_EXTERNAL_DATA):
                    continue
                offset, length = place_of(constant, len(self.bytes))
                types = [TYPES[each] for each in numbers(constant, TENSOR_TYPE) if each in TYPES]
                if len(types) != 1:
                    raise ValueError("a constant is of a type that no export has")
                array = self.bytes[offset : offset + length].view(types[0]).reshape(numbers(constant, TENSOR_DIMS))
                yield b"".join(values(constant, TENSOR_NAME)).decode(), array


class SessionOver(ort.InferenceSession):  # type: ignore[misc]  # onnxruntime has no types
    """A session on values that live as long as it does, for it has only their addresses."""

    def __init__(self, model: str, options: ort.SessionOptions, weights: Weights, held: Values) -> None:
        for name, value in held.items():
            options.add_initializer(name, value)
        super().__init__(model, options, providers=["CPUExecutionProvider"])
        self._weights, self._held = weights, held


def map_file(owner: object, file: int, size: int) -> int:
    """Map a whole file for reading as long as its owner lives: the address, where a huge page may begin.

    Raises:
        OSError: the system refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    whole, none = ctypes.c_size_t(size + HUGE_PAGE), ctypes.c_long(0)
    start = libc.mmap(None, whole, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, none)  # addresses alone
    if start == MAP_FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    weakref.finalize(owner, libc.munmap, ctypes.c_void_p(start), whole).atexit = False  # others may still read then
    address: int = -(-start // HUGE_PAGE) * HUGE_PAGE
    flags = mmap.MAP_PRIVATE | MAP_FIXED
    if libc.mmap(ctypes.c_void_p(address), ctypes.c_size_t(size), mmap.PROT_READ, flags, file, none) != address:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return address


_mapping = threading.Lock()
_in_use: weakref.WeakValueDictionary[tuple[int, ...], Weights] = weakref.WeakValueDictionary()


def shared_weights(path: Path) -> Weights | None:
    """Those of a data file; None where onnxruntime may as well map it.

    That is where the system has no huge pages, the file is small, or memory has no room for it.

    Raises:
        OSError: the file cannot be mapped.
    """
    status = path.stat()
    size = status.st_size
    if size < LEAST_BYTES or not available():
        return None
    key = (status.st_dev, status.st_ino, size, status.st_mtime_ns)
    with _mapping:
        weights, free = _in_use.get(key), available_memory()
        if weights is None and (free is None or 2 * size < free):
            weights = _in_use[key] = Weights(path)
        return weights
