"""Several streams in one step: their rows are multiplied together, so weights are read once for all of them.

A row is a state like any other, in a slice of memory that the batch shares; its prompt is fed by itself. Every operator
of the graph treats a row the same whatever stands beside it, so each stream says what it would say alone. Where a
processor's kernels do not (`proof`), the rows take their steps one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .proof import Proof
from .state import Cache, State, empty_cache, new_precedence, precedence_outputs


class BatchStep:
    """One decoding step of several states in adjoining slices of one memory, none of which is full; bound once."""

    def __init__(self, session: ort.InferenceSession, states: Sequence[State], memory: Cache) -> None:
        """memory: [layers, 2, rows, heads, slots, channels]; states live in its first rows, in order."""
        self._session, self._states = session, list(states)
        rows = len(states)
        self.inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.zeros((rows, 1), np.int64),
            "position_ids": np.zeros((rows, 1), np.int64),
            "seqlens_k": np.zeros(rows, np.int32),
            "total_sequence_length": np.array(0, np.int32),
            "logits_to_keep": np.array([0]),
        }
        logits = np.zeros((rows, 1, states[0].description.vocab_size), np.float32)
        self._rows: NDArray[np.float32] = logits[:, 0]
        self._precedence = new_precedence(states[0].description, rows, 1)
        self._binding = session.io_binding()
        for name, array in self.inputs.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in {"logits": logits, **precedence_outputs(self._precedence)}.items():
            self._binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        for layer, parts in enumerate(memory[:, :, :rows]):
            for part, cache in zip(("key", "value"), parts, strict=True):
                value = ort.OrtValue.ortvalue_from_numpy(cache)
                self._binding.bind_ortvalue_input(f"past_key_values.{layer}.{part}", value)
                self._binding.bind_ortvalue_output(f"present.{layer}.{part}", value)

    def __call__(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Feed every state its token; returns logits [rows, vocab], overwritten by the next call."""
        inputs = self.inputs
        positions = [state.position for state in self._states]
        inputs["input_ids"][:, 0] = token_ids
        inputs["position_ids"][:, 0] = positions
        inputs["seqlens_k"][:] = positions
        inputs["total_sequence_length"][()] = max(positions) + 1
        self._session.run_with_iobinding(self._binding)
        for row, (state, ids) in enumerate(zip(self._states, inputs["input_ids"], strict=True)):
            state.take_precedence(self._precedence[:, row])
            state.take_in(ids)
        return self._rows


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
        proof: Proof,
    ) -> None:
        """prototype: any state of the decoder. size: most streams at a time. single_step: feeds a state one token."""
        self._session, self._description = session, prototype.description
        self._single_step, self._proof = single_step, proof
        self._memory = empty_cache(self._description, self._description.num_kv_heads, size)
        self._step: BatchStep | None = None
        self.states: list[State] = []

    def open(self) -> State:
        """A new stream in the next free row."""
        self._step = None
        self.states.append(State(self._description, self._memory[:, :, len(self.states)]))
        return self.states[-1]

    def close(self, row: int) -> None:
        """Give a row up. The last stream moves into it, as a new state in its place in `states`."""
        self._step = None
        last = self.states.pop()
        if row < len(self.states):
            self.states[row] = last.copy(self._memory[:, :, row])

    def forward(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Feed every stream its token: float32 [rows, vocab], valid until the next call."""
        if len(self.states) == 1 or self._proof.exact is False:
            return self._one_by_one(token_ids)
        if self._step is None:
            self._step = BatchStep(self._session, self.states, self._memory)
        rows = self._step(token_ids)
        if self._proof.exact is None:
            for state in self.states:
                state.truncate(state.position - 1)
            steps = self._one_by_one(token_ids)
            self._proof.settle(rows, steps)
            return steps
        return rows

    def _one_by_one(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        steps = [self._single_step(state, ids).copy() for state, ids in zip(self.states, token_ids, strict=True)]
        return np.concatenate(steps)
