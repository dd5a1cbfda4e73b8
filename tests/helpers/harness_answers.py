"""Answers of lm-evaluation-harness, compared. Imports nothing, for environments of other programs."""

from __future__ import annotations

import math
from typing import Any


def same(found: Any, expected: Any, nats: float) -> bool:
    """Whether two answers are the same, numbers within `nats`."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(same(*pair, nats) for pair in zip(found, expected, strict=True))
    if isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=0, abs_tol=nats)
    return bool(found == expected)
