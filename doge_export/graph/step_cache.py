"""How the project's own operators keep keys and values, and the attributes of attention that they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .dimensions import Dimensions
from .kv_scales import KeyValueScales

CACHE_TYPES = {"float32": 0, "packed_float16": 1, "packed_int8": 2}


@dataclass(frozen=True)
class StepCache:
    """How they keep keys and values.

    Attributes:
        cache_type: one of CACHE_TYPES.
        row_width: elements of a cached row, float32 or bytes.
        scales: of packed_int8; None otherwise.
    """

    cache_type: str
    row_width: int
    scales: KeyValueScales | None = None

    @property
    def number(self) -> type[np.generic]:
        """Of an element."""
        return np.float32 if self.cache_type == "float32" else np.uint8


def attention_attributes(d: Dimensions, cache: StepCache) -> dict[str, int | float]:
    """The sizes that no input shows; a graph without sinks, bonuses or safe keys is one of before there were any."""
    rule = {"keep_sinks": d.keep_sinks, "keep_bonus": d.keep_bonus, "keep_recent": d.keep_recent}
    newer = {name: size for name, size in rule.items() if size}
    return {
        "cache_type": CACHE_TYPES[cache.cache_type],
        "num_heads": d.num_heads,
        "kv_num_heads": d.num_kv_heads,
        "head_dim": d.head_dim,
        "channels": d.channels,
        "num_mask_heads": d.num_mask_heads if d.has_mask else 0,
        "dt_digits": d.dt_digits,
        "keep_window_size": d.keep_window_size,
        "qk_norm": int(d.qk_norm),
        "epsilon": d.rms_norm_eps,
        **newer,
    }
