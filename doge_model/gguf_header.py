"""A check of a GGUF header before the gguf package reads it: nothing that it states may lie beyond the file's end.

The package's reader believes every length. An array that states 2^60 numbers in a file of 1 kB keeps it busy for ever.
Format: github.com/ggml-org/ggml docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from doge_common.errors import CheckpointError, one_line

VERSIONS = (2, 3)
MOST_VALUES = 2**21  # of keys, tensors and array items; 2^18 tokens with types and twice as many merges have half of it
MOST_DIMENSIONS = 4
ALIGNMENT = 32  # where general.alignment is not stated
SIZES = {
    **dict.fromkeys((GGUFValueType.UINT8, GGUFValueType.INT8, GGUFValueType.BOOL), 1),
    **dict.fromkeys((GGUFValueType.UINT16, GGUFValueType.INT16), 2),
    **dict.fromkeys((GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.FLOAT32), 4),
    **dict.fromkeys((GGUFValueType.UINT64, GGUFValueType.INT64, GGUFValueType.FLOAT64), 8),
}


def check_header(path: Path) -> None:
    """Walk through the header of a GGUF file.

    Raises:
        CheckpointError: it is no GGUF file, of another version or byte order, cut off or damaged.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            HeaderWalk(data).to_the_end()
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole GGUF file: {one_line(error)}") from error


class HeaderWalk:
    """A position in the header. Every method goes on by one part, and raises ValueError at a part that cannot be."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.position, self.values = data, 0, 0

    def to_the_end(self) -> None:
        """Magic, version, counts, metadata, tensor infos; then the tensors themselves must lie within the file."""
        if self.data[self.skip(4) : 4] != b"GGUF":
            raise ValueError("it does not begin with 'GGUF'")
        version = self.number("I")
        if version and version % 65536 == 0:
            raise ValueError("its byte order is big-endian; it must be little-endian")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}; it must be 2 or 3")
        tensors, keys = self.number("Q"), self.number("Q")
        self.count(keys)
        alignment = ALIGNMENT
        for _ in range(keys):
            alignment = self.key_and_value() or alignment
        self.count(tensors)
        ends = [self.tensor_end() for _ in range(tensors)]
        start = -(-self.position // alignment) * alignment
        if ends and start + max(ends) > len(self.data):
            raise ValueError(f"its tensors end at byte {start + max(ends)}, beyond its {len(self.data)} bytes")

    def skip(self, size: int) -> int:
        """Go on by `size` bytes; returns where they begin."""
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise ValueError(f"{size} bytes from byte {start} on go beyond its {len(self.data)} bytes")
        return start

    def number(self, kind: str) -> int:
        """An unsigned whole number; `kind` is I for 4 bytes and Q for 8, as in `struct`."""
        value: int = struct.unpack_from(f"<{kind}", self.data, self.skip(struct.calcsize(f"<{kind}")))[0]
        return value

    def count(self, values: int) -> None:
        """Add to the number of values, which bounds the time that reading them takes."""
        self.values += values
        if self.values > MOST_VALUES:
            raise ValueError(f"it states {self.values} keys, tensors and array items; it must be at most {MOST_VALUES}")

    def key_and_value(self) -> int | None:
        """One entry of the metadata; returns the value of general.alignment, None for all others."""
        length = self.number("Q")
        start = self.skip(length)
        key = self.data[start : self.position]
        kind = self.number("I")
        start = self.position
        self.value(kind)
        if key == b"general.alignment" and kind == GGUFValueType.UINT32:
            return int.from_bytes(self.data[start : self.position], "little")
        return None

    def value(self, kind: int) -> None:
        """A value of the metadata: a number, a string, or an array of either."""
        if kind != GGUFValueType.ARRAY:
            self.items(kind, 1)
            return
        kind, length = self.number("I"), self.number("Q")
        self.count(length)
        self.items(kind, length)

    def items(self, kind: int, length: int) -> None:
        """So many numbers or strings in a row."""
        if kind == GGUFValueType.STRING:
            for _ in range(length):
                self.skip(self.number("Q"))
        elif kind in SIZES:
            self.skip(SIZES[GGUFValueType(kind)] * length)
        else:
            raise ValueError(f"a value before byte {self.position} has type {kind}, which no number or string has")

    def tensor_end(self) -> int:
        """One tensor info; returns where the tensor ends, in bytes from the start of all tensors."""
        self.skip(self.number("Q"))
        dimensions = self.number("I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions} dimensions; it must be at most {MOST_DIMENSIONS}")
        elements = math.prod(self.number("Q") for _ in range(dimensions))
        kind, offset = self.number("I"), self.number("Q")
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        return offset + -(-elements // block) * size
