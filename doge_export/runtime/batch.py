"""Several streams in one step: their rows are multiplied together, so weights are read once for all of them.

A row is a state like any other, in a slice of memory that the batch shares. Its prompt is fed by itself, there or
before it joins. Every operator of the graph treats a row alike in any company, so each stream answers as it would
alone. Where a processor's kernels do not (`exactness`), the rows take their steps one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .cache import Cache, empty_rows
from .exactness import Exactness
from .state import State
from .steps import BatchStep


class Batch:
    """Room for several streams; those in use stand in front.

    Attributes:
        states: the streams, row by row.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        prototype: State,
        size: int,
        single_step: Callable[[State, int], NDArray[np.float32]],
        exactness: Exactness,
    ) -> None:
        """prototype: any state of the decoder. size: most streams at a time. single_step: feeds a state one token."""
        self._session, self._description = session, prototype.description
        self._single_step, self._exactness = single_step, exactness
        self._memory = empty_rows(self._description, self._description.num_kv_heads, size)
        self._step: BatchStep | None = None
        self.states: list[State] = []

    def open(self, state: State | None = None) -> State:
        """A new stream in the next free row, or a copy of `state` there, whose window is not full."""
        self._step = None
        memory = self._memory[:, :, len(self.states)]
        new = State(self._description, Cache(self._description, memory)) if state is None else state.copy(memory)
        self.states.append(new)
        return new

    def close(self, row: int) -> None:
        """Give a row up. The last stream moves into it, as a new state in its place in `states`."""
        self._step = None
        last = self.states.pop()
        if row < len(self.states):
            self.states[row] = last.copy(self._memory[:, :, row])

    def forward(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Feed every stream its token: float32 [rows, vocab], valid until the next call."""
        if len(self.states) == 1 or self._exactness.exact is False:
            return self._one_by_one(token_ids)
        if self._step is None:
            self._step = BatchStep(self._session, self.states, self._memory)
        rows = self._step(token_ids)
        if self._exactness.exact is None:
            for state in self.states:
                state.truncate(state.position - 1)
            steps = self._one_by_one(token_ids)
            self._exactness.settle(rows, steps)
            return steps
        return rows

    def _one_by_one(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        steps = [self._single_step(state, ids).copy() for state, ids in zip(self.states, token_ids, strict=True)]
        return np.concatenate(steps)
