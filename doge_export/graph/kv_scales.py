"""The scales of a cache in 8 bits: a key or value of channel c is stored as rint(x / scale[c]), from -128 to 127.

GroupQueryAttention rounds the new rows as it appends them. Every query, their own included, sees the stored numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .builder import GraphBuilder
from .dimensions import Dimensions

FINE_STEPS = np.float32(256)  # in a step of dt


@dataclass(frozen=True)
class KeyValueScales:
    """A scale per layer, kv head and channel.

    Attributes:
        keys, values: float32 [layers, kv heads, head_dim]; keys are rotated.
        dt: float32 [layers, kv heads, mask heads of each]: the coarse step of dt, a power of two.
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    dt: NDArray[np.float32]

    def with_room_for(self, other: KeyValueScales) -> KeyValueScales:
        """The larger of both scales everywhere."""
        parts = [(vars(self)[name], vars(other)[name]) for name in ("keys", "values", "dt")]
        return KeyValueScales(*(np.maximum(*pair) for pair in parts))

    def tobytes(self) -> bytes:
        """The bytes that tell these scales from others."""
        return self.keys.tobytes() + self.values.tobytes() + self.dt.tobytes()


def scale_names(index: int, cache_heads: int) -> list[str]:
    """The constants that hold the scales of a layer's keys and values."""
    return [f"layers.{index}.self_attn.{part}_scales.{cache_heads}_heads" for part in ("key", "value")]


def declare_scales(graph: GraphBuilder, d: Dimensions, cache_heads: int, scales: KeyValueScales) -> None:
    """Constants of all layers, float32 [1, cache_heads, 1, channels].

    Padding and a value's precedence get a scale of 1, which rounds the latter to 0.
    """
    copies = cache_heads // d.num_kv_heads
    for index in range(d.num_layers):
        padding = ((0, 0), (0, d.extra_channels))
        keys, values = (np.pad(part[index], padding, constant_values=1) for part in (scales.keys, scales.values))
        if d.has_mask:
            keys[:, d.head_dim :] = dt_scales(d, scales.dt[index])
            declare_dt_steps(graph, d, index, scales.dt[index])
        for name, rows in zip(scale_names(index, cache_heads), (keys, values), strict=True):
            graph.constant(name, rows.repeat(copies, axis=0)[None, :, None])


def dt_scales(d: Dimensions, steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales of the extra channels of keys, from the steps of dt [kv heads, mask channels]: [kv heads, extra]."""
    scales = np.ones((d.num_kv_heads, d.extra_channels), np.float32)
    scales[:, : 2 * d.mask_channels : 2] = steps
    scales[:, 1 : 2 * d.mask_channels : 2] = steps / FINE_STEPS
    return scales


def declare_dt_steps(graph: GraphBuilder, d: Dimensions, index: int, steps: NDArray[np.float32]) -> None:
    """The factors of `mask.split_dt`, [query_key_heads, extra_channels]: only fine channels of keys are not 0."""
    fine = np.zeros((d.query_key_heads, d.extra_channels), np.float32)
    fine[d.num_heads :, 1 : 2 * d.mask_channels : 2] = steps
    inverses = np.divide(1, fine, out=np.zeros_like(fine), where=fine != 0)
    for part, values in (("inverses", inverses), ("steps", fine)):
        graph.constant(f"layers.{index}.self_attn.dt_{part}", values)
