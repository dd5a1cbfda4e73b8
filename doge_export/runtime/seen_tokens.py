"""The different tokens of a stream and where each came first, for the repetition penalty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNSEEN = np.iinfo(np.int64).max


class SeenTokens:
    """Where each token came first.

    Attributes:
        first: int64 [vocab], UNSEEN for a token that did not come.
    """

    def __init__(self, vocab_size: int) -> None:
        self.first = np.full(vocab_size, UNSEEN, np.int64)

    def note(self, token_ids: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Tokens came at positions, int64 [S] each. Doing it twice is as doing it once."""
        np.minimum.at(self.first, token_ids, positions)

    def before(self, position: int) -> NDArray[np.int64]:
        """The tokens that came before a position: int64 [n], in ascending order."""
        return np.flatnonzero(self.first < position)

    def up_to(self, position: int) -> SeenTokens:
        """The same stream cut at a position, in memory of its own."""
        other = SeenTokens(len(self.first))
        other.first = np.where(self.first < position, self.first, UNSEEN)
        return other
