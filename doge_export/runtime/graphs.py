"""The interface of whatever computes a decoder: the standard graphs, or the one operator that does it all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .cache import Rows
from .description import DecoderDescription
from .exactness import Exactness
from .state import State

Logits = NDArray[np.float32]
BatchForward = Callable[[Sequence[int]], Logits]  # a token for each state: float32 [rows, vocab]


class Graphs(Protocol):
    """Computes tokens of states and moves the states on. Logits are overwritten by the next call for the same state.

    Attributes:
        kernels: who computes, in a word or two.
        description: of the decoder.
        drafts: whether `draft` equals single steps bit by bit.
        batches: whether a `batch` does.
        cuts_freely: whether logits are the same bit by bit wherever a prompt is cut into chunks.
    """

    kernels: str
    description: DecoderDescription
    drafts: Exactness
    batches: Exactness
    cuts_freely: bool

    def step(self, state: State, token_id: int) -> Logits:
        """Feed one token: float32 [1, vocab]."""

    def chunk(self, state: State, token_ids: NDArray[np.int64], keep: NDArray[np.int64]) -> Logits:
        """Feed int64 [S] tokens in one piece, at most `State.room_for_chunk` of them: float32 [N, vocab].

        keep: int64 [N] indices into the tokens, those whose logits are wanted.
        """

    def draft(self, state: State, token_ids: NDArray[np.int64]) -> Logits:
        """Write the rows of int64 [n] tokens, n <= DRAFT_TOKENS, into a window with room for DRAFT_TOKENS.

        Returns float32 [n, vocab]. The state stays where it is.
        """

    def batch(self, states: Sequence[State], memory: Rows) -> BatchForward:
        """Steps of several states whose windows are not full.

        memory: [layers, 2, rows, heads, slots, channels]; the states live in its first rows, in order.
        """
