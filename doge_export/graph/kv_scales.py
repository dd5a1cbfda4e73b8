"""The scales of a cache in 8 bits: a key or value of channel c is stored as rint(x / scale[c]), from -128 to 127.

GroupQueryAttention rounds the new rows as it appends them, and every query, their own included, sees what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .builder import GraphBuilder
from .layout import DecoderLayout

LARGEST = 127  # code of the largest magnitude that a scale is made for


@dataclass(frozen=True)
class KeyValueScales:
    """A scale per layer, kv head and channel.

    Attributes:
        keys, values: float32 [layers, kv heads, head_dim]; keys are rotated.
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]

    def tobytes(self) -> bytes:
        """What tells these scales from others."""
        return self.keys.tobytes() + self.values.tobytes()


def scale_names(index: int) -> list[str]:
    """The constants that hold the scales of a layer's keys and values."""
    return [f"layers.{index}.self_attn.{part}_scales" for part in ("key", "value")]


def declare_scales(graph: GraphBuilder, layout: DecoderLayout, scales: KeyValueScales) -> None:
    """Constants of all layers, float32 [1, cache heads, 1, channels]; padding, which is 0, gets a scale of 1."""
    copies = layout.cache_heads // layout.num_kv_heads
    for index in range(layout.num_layers):
        for name, rows in zip(scale_names(index), (scales.keys[index], scales.values[index]), strict=True):
            padded = np.pad(rows, ((0, 0), (0, layout.extra_channels)), constant_values=1)
            graph.constant(f"{name}", padded.repeat(copies, axis=0)[None, :, None])
