"""Rows of a cache in bytes, as DogeStep keeps them: the mask's numbers in float32, then those of the head in few bits.

The mask's numbers are dt in a key and precedence in a value. Precedence decides by its last bit, so it is never
rounded. docs/operators.md has the layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .description import PACKED_NUMBERS, DecoderDescription

LARGEST = np.finfo(np.float16).max


def mask_numbers(rows: NDArray[np.uint8], d: DecoderDescription) -> NDArray[np.float32]:
    """dt of keys or precedence of values, in place: uint8 [..., row_width] -> float32 [..., mask_channels]."""
    return rows[..., : d.mask_channels * 4].view(np.float32)


def head_numbers(rows: NDArray[np.uint8], d: DecoderDescription) -> NDArray[Any]:
    """Those of the head, in place: uint8 [..., row_width] -> float16 or int8 [..., head_dim]."""
    numbers: NDArray[Any] = rows[..., d.mask_channels * 4 :].view(PACKED_NUMBERS[d.cache_type])
    return numbers[..., : d.head_dim]


def pack_float16(rows: NDArray[np.float32], d: DecoderDescription) -> NDArray[np.uint8]:
    """Float32 rows [..., channels] as DogeStep would have stored them: uint8 [..., row_width]; `d` has the latter."""
    packed = np.zeros((*rows.shape[:-1], d.row_width), np.uint8)
    mask_numbers(packed, d)[:] = rows[..., d.head_dim : d.head_dim + d.mask_channels]
    head_numbers(packed, d)[:] = rows[..., : d.head_dim].clip(-LARGEST, LARGEST)
    return packed


def unpack_float16(rows: NDArray[np.uint8], d: DecoderDescription) -> NDArray[np.float32]:
    """The same numbers in float32 [..., channels]; `d` has the packed rows."""
    unpacked = np.zeros((*rows.shape[:-1], d.channels), np.float32)
    unpacked[..., d.head_dim : d.head_dim + d.mask_channels] = mask_numbers(rows, d)
    unpacked[..., : d.head_dim] = head_numbers(rows, d)
    return unpacked
