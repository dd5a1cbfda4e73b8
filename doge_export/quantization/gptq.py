"""Rounding that makes up for its own errors: GPTQ (arXiv:2210.17323).

Columns are rounded one after the other. Rounding a column changes the product with typical inputs, and the columns
still to come make up for that change. Typical inputs are known by their second moments, E[x x^T].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.blocks import BlockQuantized, fits_float16, packed

SHRINKS = torch.linspace(1.0, 0.7, 13)  # shares of a block's range that are tried for its scale
LAZY = 128  # columns whose errors are gathered before the rest of the matrix sees them
DAMPING = 0.01  # share of the mean second moment that is added to each, so that rare inputs are not fitted


@dataclass(frozen=True)
class Grid:
    """The numbers that the weights of each block can be: (code - zero) * scale, 0 <= code < 2 ** bits.

    Attributes:
        scale, zero: float32 [out_features, blocks].
        bits: of a code.
        symmetric: whether zero is the middle code everywhere, so that it need not be stored.
        float16: whether the scales are numbers of float16.
    """

    scale: Tensor
    zero: Tensor
    bits: int
    symmetric: bool
    float16: bool

    def code(self, weight: Tensor, block: Tensor) -> Tensor:
        """The nearest codes, whole numbers in float32, of weights float32 [out_features, n] in blocks int64 [n]."""
        return (torch.round(weight / self.scale[:, block]) + self.zero[:, block]).clamp(0, 2**self.bits - 1)

    def value(self, code: Tensor, block: Tensor) -> Tensor:
        """The weights that codes stand for, float32 [out_features, n] both, in blocks int64 [n]."""
        return (code - self.zero[:, block]) * self.scale[:, block]

    def stored(self, codes: Tensor) -> BlockQuantized:
        """Codes, whole numbers in float32 [out_features, in_features], as they go to the file."""
        data = codes.to(torch.uint8).reshape(*self.scale.shape, -1).numpy()
        zeros = None if self.symmetric else packed(self.zero.to(torch.uint8).numpy(), self.bits)
        scales = self.scale.half() if self.float16 else self.scale
        return BlockQuantized(packed(data, self.bits), scales.numpy(), self.bits, zeros)


def make_grid(weight: Tensor, importance: Tensor | None, bits: int, block_size: int) -> Grid:
    """Choose scales and zero points: weight float32 [out, in], in whole blocks of columns; 8 bits are symmetric.

    With `importance`, float32 [in], several ranges are tried, each a share of the block's own. The one with the least
    squared error is taken, columns weighed by importance. Without it the range is the block's own.
    """
    blocks = weight.reshape(len(weight), -1, block_size)  # [out, blocks, block_size]
    low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
    symmetric = bits == 8
    largest = range_grid(low, high, bits, symmetric, float16=False).scale
    float16 = fits_float16(largest.numpy()) and fits_float16((largest * SHRINKS[-1]).numpy())
    grid = range_grid(low, high, bits, symmetric, float16)
    if importance is None or symmetric:
        return grid
    weights, best = importance.view(-1, block_size), torch.full_like(low, torch.inf)
    scales, zeros = grid.scale.clone(), grid.zero.clone()
    for shrink in SHRINKS:
        tried = range_grid(low * shrink, high * shrink, bits, symmetric, float16)
        scale, zero = tried.scale[..., None], tried.zero[..., None]
        codes = (torch.round(blocks / scale) + zero).clamp_(0, 2**bits - 1)
        error = codes.sub_(zero).mul_(scale).sub_(blocks).square_().mul_(weights).sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        scales, zeros = torch.where(better, tried.scale, scales), torch.where(better, tried.zero, zeros)
    return Grid(scales, zeros, bits, symmetric, float16)


def range_grid(low: Tensor, high: Tensor, bits: int, symmetric: bool, float16: bool) -> Grid:
    """The grid over given ranges, float32 [out, blocks] each; a range of zero width gets the scale 1."""
    scale = torch.maximum(high, -low) / (2 ** (bits - 1) - 1) if symmetric else (high - low) / (2**bits - 1)
    scale = torch.where(scale == 0, 1.0, scale)
    if float16:
        scale = scale.half().float()
    zero = torch.full_like(scale, 2 ** (bits - 1)) if symmetric else torch.round(-low / scale).clamp(0, 2**bits - 1)
    return Grid(scale, zero, bits, symmetric, float16)


def nearest(weight: Tensor, bits: int, block_size: int, *, search: bool = True) -> BlockQuantized:
    """Round every weight by itself: float32 [out, in]; rows are padded with zeros to whole blocks."""
    weight = torch.nn.functional.pad(weight, (0, -weight.shape[1] % block_size))
    grid = make_grid(weight, torch.ones(weight.shape[1]) if search else None, bits, block_size)
    return grid.stored(grid.code(weight, torch.arange(weight.shape[1]) // block_size))


def gptq(weight: Tensor, moments: Tensor, bits: int, block_size: int) -> BlockQuantized:
    """Round a matrix, float32 [out, in], for inputs with the second moments float32 [in, in].

    Columns go in the order of how large their inputs are. Rows are padded with zeros to whole blocks.
    """
    padding = -weight.shape[1] % block_size
    weight = torch.nn.functional.pad(weight, (0, padding))
    moments = torch.nn.functional.pad(moments, (0, padding, 0, padding))
    grid = make_grid(weight, moments.diagonal(), bits, block_size)
    order = moments.diagonal().argsort(descending=True, stable=True)
    factor = inverse_factor(moments[order][:, order])
    codes = torch.empty_like(weight)
    codes[:, order] = round_columns(weight[:, order], factor, grid, order // block_size)
    return grid.stored(codes)


def inverse_factor(moments: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped moments: float32 [in, in]."""
    damped = moments.double()
    damped.diagonal().add_(DAMPING * damped.diagonal().mean() + 1e-12)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def round_columns(weight: Tensor, factor: Tensor, grid: Grid, block_of: Tensor) -> Tensor:
    """Codes of a matrix, float32 [out, in] both, whose columns are in the order of `factor`.

    factor: float32 [in, in], of `inverse_factor`. block_of: int64 [in], the block of each column.
    """
    weight, codes = weight.clone(), torch.empty_like(weight)
    for start in range(0, weight.shape[1], LAZY):
        stop = min(start + LAZY, weight.shape[1])
        part, errors = weight[:, start:stop].clone(), torch.empty(len(weight), stop - start)
        for i in range(stop - start):
            column, block = start + i, block_of[start + i : start + i + 1]
            code = grid.code(part[:, i : i + 1], block)
            error = (part[:, i : i + 1] - grid.value(code, block)) / factor[column, column]
            part[:, i:] -= error @ factor[None, column, column:stop]
            codes[:, column], errors[:, i] = code[:, 0], error[:, 0]
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return codes
