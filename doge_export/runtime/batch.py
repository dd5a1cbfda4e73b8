"""Several streams in one step: their rows are multiplied together, so weights are read once for all of them.

A row is a state like any other, in a slice of memory that the batch shares. Its prompt is fed by itself, there or
before it joins. Every operator of the graph treats a row alike in any company, so each stream answers as it would
alone. Where a processor's kernels do not (`exactness`), the rows take their steps one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .cache import Cache, empty_rows
from .graphs import BatchForward, Graphs
from .state import State


class Batch:
    """Room for several streams; those in use stand in front.

    Attributes:
        states: the streams, row by row.
    """

    def __init__(
        self,
        graphs: Graphs,
        prototype: State,
        size: int,
    ) -> None:
        """prototype: any state of the decoder. size: most streams at a time."""
        self._graphs, self._description = graphs, prototype.description
        self._memory = empty_rows(self._description, self._description.num_kv_heads, size)
        self._step: BatchForward | None = None
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
        if len(self.states) == 1 or self._graphs.batches.exact is False:
            return self._one_by_one(token_ids)
        if self._step is None:
            self._step = self._graphs.batch(self.states, self._memory)
        rows = self._step(token_ids)
        if self._graphs.batches.exact is None:
            for state in self.states:
                state.truncate(state.position - 1)
            steps = self._one_by_one(token_ids)
            self._graphs.batches.settle(rows, steps)
            return steps
        return rows

    def _one_by_one(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        steps = [self._graphs.step(state, ids).copy() for state, ids in zip(self.states, token_ids, strict=True)]
        return np.concatenate(steps)
