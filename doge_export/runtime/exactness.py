"""Whether several rows, computed together, give the same as one by one, on the processor at hand.

onnxruntime has kernels for each kind of processor, and some round a product of several rows otherwise than that of one
(docs/quantization.md). Where two tokens are nearly as likely, an answer could then depend on its neighbours in a batch.
So the first time that rows are computed together, they are computed one by one too.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray


class Exactness:
    """Knowledge about one way of computing rows together.

    Attributes:
        exact: whether it equals single steps to the last bit; None before it was tried.
    """

    def __init__(self, consequence: str) -> None:
        """consequence: told to the user where the results differ."""
        self._consequence = consequence
        self.exact: bool | None = None

    @classmethod
    def by_construction(cls) -> Exactness:
        """Of computations that give every row the same bits in any company."""
        known = cls("")
        known.exact = True
        return known

    def settle(self, together: NDArray[np.float32], apart: NDArray[np.float32]) -> None:
        """Compare the logits of the same tokens, computed in both ways, and warn where they differ."""
        self.exact = np.array_equal(together, apart)
        if not self.exact:
            warnings.warn(
                f"{self._consequence}: this processor computes several tokens at once otherwise than one by one, "
                "and answers could change; 8 bits may do better than 4",
                stacklevel=2,
            )
