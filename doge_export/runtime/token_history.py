"""The tokens of a stream in their order, as long as its window can still go back: for guesses of an assistant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class TokenHistory:
    """The tokens from a position on.

    Attributes:
        start: the position of the first.
        tokens: all that were fed since.
    """

    def __init__(self, start: int = 0, tokens: Sequence[int] = ()) -> None:
        self.start, self.tokens = start, list(tokens)

    def note(self, token_ids: NDArray[np.int64], position: int) -> None:
        """Tokens int64 [S] were fed from a position on. Doing it twice is as doing it once."""
        self.tokens[position - self.start :] = token_ids.tolist()

    def up_to(self, position: int) -> TokenHistory:
        """The same stream cut at a position, with a list of its own."""
        return TokenHistory(min(self.start, position), self.tokens[: max(0, position - self.start)])
