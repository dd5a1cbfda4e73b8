"""Timing that bears a machine whose speed changes within minutes: everyone in turns, medians of pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Figures = Sequence[float] | NDArray[np.floating[Any]]


def seconds(call: Callable[..., object], *arguments: Any) -> float:
    """Time one call."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def processor_seconds(call: Callable[..., object], *arguments: Any) -> float:
    """Processor time of one call, over all threads of this process: of one thread, its time on an idle machine."""
    start = time.process_time()
    call(*arguments)
    return time.process_time() - start


def in_turns(calls: Sequence[Callable[[], ArrayLike]], rounds: int) -> NDArray[np.float64]:
    """Figures of several calls, each once a round: float64 [rounds, calls, ...].

    A slow minute of the machine then meets all of them, and leaves the ratios of a round as they are.
    """
    return np.array([[call() for call in calls] for _ in range(rounds)], np.float64)


def median(values: Figures) -> float:
    """Of all values."""
    return float(np.median(values))
