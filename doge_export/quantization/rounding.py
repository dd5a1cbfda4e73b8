"""The stored form of every matrix of a decoder, for recipes that look at nothing but the matrix itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError
from ..graph import Matrix, Part, Plan
from ..graph.blocks import quantize_blocks
from ..recipes import Recipe

TINY_ROW = 2.0**-10  # a row whose numbers are all smaller than this would lose digits in float16


def simple_plan(matrices: Mapping[str, Matrix], recipe: Recipe) -> Plan:
    """The plan of a recipe that rounds to the nearest, or not at all.

    Raises:
        ExportError: a number is too large for the recipe.
    """
    if recipe.name == "int8":
        return {storage: (quantize_blocks(matrix.weight),) for storage, matrix in matrices.items()}
    if recipe.name == "fp16":
        return {storage: float16_parts(storage, matrix) for storage, matrix in matrices.items()}
    assert recipe.name == "fp32", f"{recipe.name} needs more than the matrices"
    return {storage: (matrix.weight,) for storage, matrix in matrices.items()}


def float16_parts(storage: str, matrix: Matrix) -> tuple[Part, ...]:
    """A matrix in float16; roles with rows of tiny numbers (the precedence of values) stay in float32."""
    if np.abs(matrix.weight).max(initial=0.0) > np.finfo(np.float16).max:
        raise ExportError(
            f"{storage} has numbers beyond 65504, the largest of float16; --int8 has a scale for every block"
        )
    parts = [float16_or_not(rows) for rows in rows_by_role(matrix).values()]
    if all(part.dtype == np.float16 for part in parts):
        return (matrix.weight.astype(np.float16),)
    return tuple(parts)


def float16_or_not(rows: NDArray[np.float32]) -> NDArray[np.float16] | NDArray[np.float32]:
    """Rows, float32 [rows, in_features], in float16 if that has their digits."""
    largest = np.abs(rows).max(axis=1)
    return rows if np.any((largest > 0) & (largest < TINY_ROW)) else rows.astype(np.float16)


def rows_by_role(matrix: Matrix) -> dict[str, NDArray[np.float32]]:
    """The rows of a matrix by role: float32 [rows, in_features] each, a view."""
    ends = np.cumsum(list(matrix.roles.values()))
    return dict(zip(matrix.roles, np.split(matrix.weight, ends[:-1]), strict=True))


def plan_bytes(plan: Plan) -> int:
    """Bytes of all matrices in the file."""
    return sum(part.nbytes for parts in plan.values() for part in parts)


def bits_per_weight(plan: Plan, matrices: Mapping[str, Matrix]) -> float:
    """Mean over all matrices, scales and padding included."""
    return 8 * plan_bytes(plan) / sum(matrix.weight.size for matrix in matrices.values())
