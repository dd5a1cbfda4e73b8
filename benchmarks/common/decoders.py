"""Decoders of random models, and the one place where a benchmark reaches into the package beyond its public names."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from doge_export.export.random_model import export_random
from doge_export.runtime import sessions
from doge_export.runtime.cache import MAX_CHUNK
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.sessions import session_options

__all__ = ["MAX_CHUNK", "changed_sessions", "random_decoder", "random_ids", "session_options"]


@contextmanager
def random_decoder(size: str, weights: str, threads: int, keep_window: int | None = None) -> Iterator[Decoder]:
    """The decoder of a random model of the family; its files exist as long as the context.

    keep_window: tokens; None leaves the family's.
    """
    with tempfile.TemporaryDirectory() as folder:
        export_random(size, weights, Path(folder), keep_window)
        yield Decoder(Path(folder), threads)


@contextmanager
def changed_sessions(change: Callable[[ort.SessionOptions], None]) -> Iterator[None]:
    """Every session that a decoder opens inside gets its options changed first."""
    plain = sessions.session_options

    def changed(threads: int) -> ort.SessionOptions:
        options = plain(threads)
        change(options)
        return options

    with patch.object(sessions, "session_options", changed):
        yield


def random_ids(vocab_size: int, count: int) -> NDArray[np.int64]:
    """Always the same random tokens, int64 [count]."""
    return np.random.default_rng(0).integers(vocab_size, size=count)
