"""Matrices in blocks of few bits, as onnxruntime's MatMulNBits and GatherBlockQuantized store them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The largest first. 16 is the smallest that the operators take. Larger blocks are faster. For them onnxruntime has
# another kernel for one row than for several (1.32, AVX-512), so a token's logits would depend on the tokens beside it.
BLOCK_SIZES = {8: (64, 32, 16), 4: (32, 16)}


@dataclass(frozen=True)
class BlockQuantized:
    """A matrix in few bits: weight[n, b * block_size + i] is about (code[n, b, i] - zero) * scales[n, b] + offset.

    Attributes:
        data: codes below 2 ** bits, packed: uint8 [out_features, blocks, block_size * bits / 8].
        scales: float32 or float16 [out_features, blocks].
        bits: 4 or 8.
        zero_points: packed: uint8 [out_features, ceil(blocks * bits / 8)]; None means 2 ** (bits - 1) everywhere.
        offsets: the numbers that code 0 stands for, instead of zero points: float16 [out_features, blocks], or None.
    """

    data: NDArray[np.uint8]
    scales: NDArray[np.float32] | NDArray[np.float16]
    bits: int = 8
    zero_points: NDArray[np.uint8] | None = None
    offsets: NDArray[np.float16] | None = None

    @property
    def block_size(self) -> int:
        """Weights that share a scale."""
        return int(self.data.shape[2]) * 8 // self.bits

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        stored = (self.data, self.scales, self.zero_points, self.offsets)
        return sum(array.nbytes for array in stored if array is not None)

    def dequantize(self, in_features: int) -> NDArray[np.float32]:
        """The matrix that the stored numbers stand for: float32 [out_features, in_features]."""
        codes, blocks = unpacked(self.data, self.bits).astype(np.float32), self.data.shape[1]
        zeros = np.full((len(codes), blocks), 2 ** (self.bits - 1), np.uint8)
        if self.zero_points is not None:
            zeros = unpacked(self.zero_points, self.bits)[:, :blocks]
        if self.offsets is None:
            codes -= zeros[:, :, None]
        codes *= self.scales[:, :, None].astype(np.float32)
        if self.offsets is not None:
            codes += self.offsets[:, :, None].astype(np.float32)
        return np.ascontiguousarray(codes.reshape(len(codes), -1)[:, :in_features])


def packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes as the operators want them, of two in a byte the first one lowest, padded with 0: [..., n] -> [..., m]."""
    if bits == 8:
        return codes
    assert bits == 4, f"{bits} bits are not packed"
    padded = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
    return np.ascontiguousarray(padded[..., ::2] | np.left_shift(padded[..., 1::2], np.uint8(4)))


def unpacked(data: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of `packed`, its padding left in: [..., m] -> [..., m * 8 / bits]."""
    if bits == 8:
        return data
    return np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:-1], -1)


def stored_bytes(in_features: int, block_size: int, bits: int = 8) -> float:
    """Bytes of one stored row: bits of every weight, padding to whole blocks included, and a float32 scale a block."""
    blocks = -(-in_features // block_size)
    return blocks * (block_size * bits / 8 + 4)


def choose_block_size(in_features: int, bits: int = 8) -> int:
    """The block size that stores a row in the fewest bytes; of equals the largest, which is the fastest."""
    return min(BLOCK_SIZES[bits], key=lambda size: (stored_bytes(in_features, size, bits), -size))


def quantize_blocks(
    weight: NDArray[np.float32], block_size: int | None = None, *, float16: bool = False
) -> BlockQuantized:
    """Round to the nearest of 255 steps, symmetric: weight float32 [out_features, in_features], along the input axis.

    A block's scale is its largest magnitude / 127, with `float16` in that type where it has the digits. Rows are
    padded with zeros to whole blocks.
    """
    in_features = weight.shape[1]
    size = choose_block_size(in_features) if block_size is None else block_size
    padded = np.pad(weight, ((0, 0), (0, -in_features % size))).reshape(len(weight), -1, size)
    scales = (np.abs(padded).max(axis=2) / np.float32(127)).astype(np.float32)
    stored = scales.astype(np.float16) if float16 and fits_float16(scales) else scales
    steps = padded / np.where(scales == 0, np.float32(1), stored.astype(np.float32))[:, :, None]
    data = (np.clip(np.rint(steps), -127, 127) + 128).astype(np.uint8)
    return BlockQuantized(data, stored)


def fits_float16(values: NDArray[np.float32]) -> bool:
    """Whether every number but 0 lies where float16 has all its 11 digits."""
    magnitude, half = np.abs(values[values != 0]), np.finfo(np.float16)
    return bool(np.all((magnitude >= half.smallest_normal) & (magnitude <= half.max)))
