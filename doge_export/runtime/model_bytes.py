"""The bytes of an ONNX model as fields that can be changed, for the plain install has no package onnx.

A message of Protocol Buffers is a row of fields, each with a number and a value. onnx.proto gives the numbers below. A
field that nobody looks at keeps its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_TYPE = 1, 3, 20
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW_DATA, TENSOR_EXTERNAL_DATA = 1, 2, 8, 9, 13
ENTRY_KEY, ENTRY_VALUE = 1, 2  # of TENSOR_EXTERNAL_DATA
INT_ATTRIBUTE = 2  # a value of ATTRIBUTE_TYPE

Field = tuple[int, int, int | bytes]  # number, kind, value; of a kind with a fixed size its bytes


def parse(message: bytes) -> list[Field]:
    """The fields of a message.

    Raises:
        ValueError: it is none.
    """
    fields: list[Field] = []
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = read_varint(message, at)
            fields.append((key >> 3, kind, value))
            continue
        size = FIXED_SIZES.get(kind)
        if kind == BYTES:
            size, at = read_varint(message, at)
        if size is None or at + size > len(message):
            raise ValueError(f"no field begins at byte {at}")
        fields.append((key >> 3, kind, message[at : at + size]))
        at += size
    return fields


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A whole number in seven bits a byte, the lowest first, and the place behind it; ValueError where none is."""
    value = 0
    for place in range(10):
        if at + place >= len(message):
            break
        byte = message[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError(f"no number begins at byte {at}")


def write(fields: Iterable[Field]) -> bytes:
    """The message of some fields."""
    message = bytearray()
    for number, kind, value in fields:
        message += varint(number << 3 | kind)
        if isinstance(value, int):
            message += varint(value)
        else:
            message += (varint(len(value)) if kind == BYTES else b"") + value
    return bytes(message)


def varint(value: int) -> bytes:
    """A whole number >= 0 as `read_varint` reads it."""
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


@dataclass(frozen=True)
class Node:
    """One operation; of its attributes the whole numbers."""

    op_type: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: dict[str, int] = field(default_factory=dict)
    domain: str = ""

    @classmethod
    def of(cls, message: bytes) -> Node:
        """Read one; ValueError where it is none."""
        fields = parse(message)
        attributes = [{n: value for n, _, value in parse(each)} for each in values(fields, NODE_ATTRIBUTE)]
        numbers = {bytes_of(each.get(ATTRIBUTE_NAME, b"")).decode(): each.get(ATTRIBUTE_INT) for each in attributes}
        inputs, outputs, op_types, domains = (
            [value.decode() for value in values(fields, number)]
            for number in (NODE_INPUT, NODE_OUTPUT, NODE_OP_TYPE, NODE_DOMAIN)
        )
        whole = {name: number for name, number in numbers.items() if isinstance(number, int)}
        return cls("".join(op_types), inputs, outputs, whole, "".join(domains))

    def message(self) -> bytes:
        """The bytes of one."""
        fields = [text(NODE_INPUT, name) for name in self.inputs]
        fields += [text(NODE_OUTPUT, name) for name in self.outputs]
        fields += [text(NODE_NAME, self.outputs[0]), text(NODE_OP_TYPE, self.op_type)]
        for name, value in self.attributes.items():
            number: list[Field] = [(ATTRIBUTE_INT, VARINT, value), (ATTRIBUTE_TYPE, VARINT, INT_ATTRIBUTE)]
            fields.append((NODE_ATTRIBUTE, BYTES, write([text(ATTRIBUTE_NAME, name), *number])))
        return write([*fields, text(NODE_DOMAIN, self.domain)])


def values(fields: Iterable[Field], number: int) -> list[bytes]:
    """The values of all fields of a number, which are bytes."""
    return [bytes_of(value) for each, _, value in fields if each == number]


def numbers(fields: Iterable[Field], number: int) -> list[int]:
    """The values of all fields of a number, which are whole numbers."""
    return [value for each, _, value in fields if each == number and isinstance(value, int)]


def bytes_of(value: int | bytes) -> bytes:
    """A value that is bytes; ValueError where it is not."""
    if isinstance(value, int):
        raise ValueError(f"{value} stands where bytes belong")
    return value


def text(number: int, value: str) -> Field:
    """A field of text."""
    return number, BYTES, value.encode()


def tensor(name: str, dims: Sequence[int], data_type: int, rest: Iterable[Field]) -> bytes:
    """A constant; rest: the fields that hold its data, or say where that lies."""
    sizes: list[Field] = [(TENSOR_DIMS, VARINT, size) for size in dims]
    return write([*sizes, (TENSOR_TYPE, VARINT, data_type), text(TENSOR_NAME, name), *rest])


def data_of(constant: Iterable[Field], data_file: Path) -> bytes:
    """The bytes of a constant, which lie in it or in the data file; ValueError where they do not."""
    fields = list(constant)
    raw = values(fields, TENSOR_RAW_DATA)
    if raw:
        return raw[0]
    offset, length = place_of(fields, data_file.stat().st_size)
    with data_file.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def place_of(constant: Iterable[Field], size: int) -> tuple[int, int]:
    """First byte and length of a constant's data in a file of such a size; ValueError where it has no such place."""
    entries = [parse(each) for each in values(constant, TENSOR_EXTERNAL_DATA)]
    place = {b"".join(values(each, ENTRY_KEY)): b"".join(values(each, ENTRY_VALUE)) for each in entries}
    offset, length = int(place.get(b"offset", b"0")), int(place.get(b"length", b"-"))
    if min(offset, length) < 0 or offset + length > size:
        raise ValueError(f"no {length} bytes begin at byte {offset} of a data file of {size} bytes")
    return offset, length
