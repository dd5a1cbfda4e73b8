"""The arrays of an adapter in memory, as a graph takes them: float32 or float16, each at a cache line's beginning.

A step waits for memory, so DogeStep reads thin matrices in float16 where the base has weights of a few bits. A column
of `lora_A` and its row of `lora_B` may trade a factor. Powers of two bring their largest numbers together first, so
neither leaves the range of float16.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import PackageError

LINE = 64  # bytes of a cache line
DOWN, UP = ".lora_A", ".lora_B"  # thin matrices of a product: [1, in, parts * rank], and of each part [1, rank, out]
PARTS = ("", ".q", ".k", ".v", ".gate", ".up")  # in the order in which they share lora_A
Floats = NDArray[np.float32]
Arrays = Mapping[str, NDArray[np.floating]]


def in_float16(path: Path, arrays: Mapping[str, Floats], halves: Container[str]) -> dict[str, NDArray[np.floating]]:
    """The arrays of a file, those of the names in `halves` in float16.

    Raises:
        PackageError: an update is so large that float16 has no numbers for it.
    """
    changed: dict[str, NDArray[np.floating]] = dict(arrays)
    for name in arrays:
        if not name.endswith(DOWN):
            continue
        of_parts = [name.removesuffix(DOWN) + UP + part for part in PARTS]
        ups = [each for each in of_parts if each in arrays]
        down, *balanced_ups = balanced(arrays[name], [arrays[each] for each in ups])
        for each, array in zip([name, *ups], [down, *balanced_ups], strict=True):
            if each in halves and np.abs(array).max(initial=0) > np.finfo(np.float16).max:
                raise PackageError(
                    f"{path} has {each}, too large for float16; load with operators=False, or export with "
                    "DOGE_EXPORT_OPERATORS=0"
                )
            changed[each] = array.astype(np.float16 if each in halves else np.float32)
    return changed


def balanced(down: Floats, ups: list[Floats]) -> list[Floats]:
    """The same update by other thin matrices: a column's largest number is nearly that of its row, times a power of 2.

    down float32 [1, in, parts * rank]; ups float32 [1, rank, out] of each part.
    """
    largest_down = np.abs(down).max(axis=(0, 1))
    largest_up = np.concatenate([np.abs(up).max(axis=(0, 2)) for up in ups])
    counts = (largest_down > 0) & (largest_up > 0)
    shifts = np.zeros(len(largest_down), np.int32)
    shifts[counts] = np.rint(np.log2(largest_up[counts] / largest_down[counts].astype(np.float64)) / 2)
    of_parts = np.split(shifts, len(ups))
    return [np.ldexp(down, shifts), *(np.ldexp(up, -own[:, None]) for up, own in zip(ups, of_parts, strict=True))]


def aligned(arrays: Arrays) -> dict[str, ort.OrtValue]:
    """The same arrays in one piece of memory, each at a cache line's beginning; in a file they lie anywhere."""
    memory = np.empty(sum(padded(array.nbytes) for array in arrays.values()) + LINE, np.uint8)
    memory = memory[-memory.ctypes.data % LINE :]
    moved = {}
    for name, array in arrays.items():
        own, memory = memory[: array.nbytes].view(array.dtype).reshape(array.shape), memory[padded(array.nbytes) :]
        own[...] = array
        moved[name] = ort.OrtValue.ortvalue_from_numpy(own)
    return moved


def padded(nbytes: int) -> int:
    """Bytes up to the next line."""
    return nbytes + -nbytes % LINE
