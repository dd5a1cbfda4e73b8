"""The right to use a stream of tokens or of text, which one thread has at a time."""

from __future__ import annotations

import threading

from ..errors import StateError


class Claim:
    """One thread at a time; the one that has it may enter again."""

    def __init__(self, refusal: str) -> None:
        """refusal: the message for a second thread."""
        self._lock, self._refusal = threading.RLock(), refusal

    def __enter__(self) -> None:
        """Raises StateError where another thread is inside."""
        if not self._lock.acquire(blocking=False):
            raise StateError(self._refusal)

    def __exit__(self, *error: object) -> None:
        self._lock.release()
