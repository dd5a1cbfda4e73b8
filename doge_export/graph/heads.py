"""Between rows of heads and flat rows: views that cost nothing but a node."""

from __future__ import annotations

import numpy as np

from .builder import GraphBuilder
from .layout import DecoderLayout


def per_head(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, width: int) -> str:
    """[B, S, heads * width] -> [B, S, heads, width]; 0 copies a dimension."""
    shape = graph.constant(f"{name}.shape", np.array([0, 0, layout.query_key_heads, width], np.int64))
    (y,) = graph.op("Reshape", [x, shape], name)
    return y


def flat(graph: GraphBuilder, layout: DecoderLayout, name: str, x: str, width: int) -> str:
    """[B, S, heads, width] -> [B, S, heads * width]."""
    shape = graph.constant(f"{name}.shape", np.array([0, 0, layout.query_key_heads * width], np.int64))
    (y,) = graph.op("Reshape", [x, shape], name)
    return y
