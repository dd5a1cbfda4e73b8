"""Blockwise quantization of weight matrices, as onnxruntime's MatMulNBits and GatherBlockQuantized store them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# 16 is the smallest that the operators take. Blocks of 128 are faster, but for them onnxruntime has another kernel for
# one row than for several (1.32, AVX-512), so that a token's logits would depend on what is fed beside it.
BLOCK_SIZES = (64, 32, 16)
ZERO_POINT = 128  # what the operators assume for unsigned 8-bit data without explicit zero points


@dataclass(frozen=True)
class BlockQuantized:
    """A matrix in 8 bits: weight[n, b * block_size + i] is about (data[n, b, i] - ZERO_POINT) * scales[n, b].

    data: uint8 [out_features, blocks, block_size]; scales: float32 [out_features, blocks].
    """

    data: NDArray[np.uint8]
    scales: NDArray[np.float32]

    @property
    def block_size(self) -> int:
        """Weights that share a scale."""
        return int(self.data.shape[2])

    def dequantize(self, in_features: int) -> NDArray[np.float32]:
        """The matrix that the stored numbers stand for: float32 [out_features, in_features]."""
        values = (self.data.astype(np.float32) - ZERO_POINT) * self.scales[:, :, None]
        return values.reshape(len(values), -1)[:, :in_features]


def stored_bytes(in_features: int, block_size: int) -> int:
    """Bytes of one stored row: a byte a weight, padding to whole blocks included, and a float32 scale a block."""
    blocks = -(-in_features // block_size)
    return blocks * (block_size + 4)


def choose_block_size(in_features: int) -> int:
    """The block size that stores a row in the fewest bytes; of equals the largest, which is the fastest."""
    return min(BLOCK_SIZES, key=lambda size: (stored_bytes(in_features, size), -size))


def quantize_blocks(weight: NDArray[np.float32], block_size: int | None = None) -> BlockQuantized:
    """Round to nearest, symmetric: weight float32 [out_features, in_features], in blocks along the input axis.

    A block's scale is its largest magnitude / 127. Rows are padded with zeros to whole blocks.
    """
    out_features, in_features = weight.shape
    size = choose_block_size(in_features) if block_size is None else block_size
    padded = np.pad(weight, ((0, 0), (0, -in_features % size))).reshape(out_features, -1, size)
    scales = np.abs(padded).max(axis=2) / np.float32(127)
    steps = padded / np.where(scales == 0, np.float32(1), scales)[:, :, None]
    data = (np.rint(steps) + ZERO_POINT).astype(np.uint8)
    return BlockQuantized(data, scales.astype(np.float32))
