"""The memory that objects hold, measured from outside, so that a leak shows."""

from __future__ import annotations

import gc
import mmap
import sys
from types import FunctionType, ModuleType

import numpy as np


def held_bytes(*objects: object) -> int:
    """Bytes of all that some objects refer to, arrays and mapped memory included; no code, and nothing of C++."""
    seen: set[int] = set()
    waiting, total = list(objects), 0
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | ModuleType | FunctionType):
            continue
        seen.add(id(thing))
        total += len(thing) if isinstance(thing, mmap.mmap) else sys.getsizeof(thing)
        if isinstance(thing, np.ndarray):
            waiting.append(thing.base)
        elif isinstance(thing, memoryview):
            waiting.append(thing.obj)
        else:
            waiting += gc.get_referents(thing)
    return total
