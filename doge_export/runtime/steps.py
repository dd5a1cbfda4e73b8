"""Bindings of a decoder graph to the memory of states, and the steps that are bound once and run again and again.

A state's numpy array is bound as past input and present output at once, so GroupQueryAttention writes the new rows in
place. A step neither allocates nor binds anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .cache import Rows, new_precedence, precedence_outputs
from .description import DRAFT_TOKENS
from .sessions import refusals, run
from .state import State

Arrays = dict[str, NDArray[Any]]


def step_inputs(state: State, tokens: int, cached: int) -> Arrays:
    """New input arrays for `tokens` tokens at the state's position, `cached` keys before them; the ids are zero."""
    return {
        "input_ids": np.zeros((1, tokens), np.int64),
        "position_ids": np.arange(state.position, state.position + tokens)[None],
        "seqlens_k": np.array([cached + tokens - 1], np.int32),
        "total_sequence_length": np.array(cached + tokens, np.int32),
        "logits_to_keep": np.array([tokens - 1]),
    }


def bind(
    session: ort.InferenceSession, inputs: Arrays, outputs: Arrays, memory: Rows, presents: Sequence[str] = ("",)
) -> ort.IOBinding:
    """Bind arrays by name, and memory as past and present alike. The binding holds on to all of them.

    memory: [layers, 2, rows, heads, slots, channels]. presents: endings of the names of a layer's presents, where a
    graph has several.

    Raises:
        PackageError: the graph has no such inputs or outputs.
    """
    values = {
        (layer, part): ort.OrtValue.ortvalue_from_numpy(rows)
        for layer, parts in enumerate(memory)
        for part, rows in zip(("key", "value"), parts, strict=True)
    }
    with refusals("bind the decoder's inputs and outputs"):
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        for (layer, part), value in values.items():
            binding.bind_ortvalue_input(f"past_key_values.{layer}.{part}", value)
            for ending in presents:
                binding.bind_ortvalue_output(f"present.{layer}.{part}{ending}", value)
    return binding


class BoundSteps:
    """The steps bound to one cache, each made when it is first needed."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.plain: PlainStep | None = None
        self.draft: DraftStep | None = None
        self.recurrent: RecurrentStep | None = None


class PlainStep:
    """One decoding step while the window is not full, bound once per state."""

    def __init__(self, session: ort.InferenceSession, state: State) -> None:
        self._session = session
        self.inputs = step_inputs(state, tokens=1, cached=0)
        logits = np.zeros((1, 1, state.description.vocab_size), np.float32)
        self._row: NDArray[np.float32] = logits[0]
        self._precedence = new_precedence(state.description, 1, 1)
        outputs = {"logits": logits, **precedence_outputs(self._precedence)}
        self._binding = bind(session, self.inputs, outputs, state.rows())

    def __call__(self, state: State, token_id: int) -> NDArray[np.float32]:
        """Feed one token; returns logits [1, vocab], overwritten by the next call."""
        inputs = self.inputs
        inputs["input_ids"][0, 0] = token_id
        inputs["position_ids"][0, 0] = state.position
        inputs["seqlens_k"][0] = state.position
        inputs["total_sequence_length"][()] = state.position + 1
        run(self._session, self._binding)
        state.take_precedence(self._precedence[:, 0])
        state.take_in(inputs["input_ids"][0])
        return self._row


class DraftStep:
    """Several tokens at once while the window is not full, each computed as a step of its own; bound once per state."""

    def __init__(self, session: ort.InferenceSession, state: State) -> None:
        self._session = session
        self.inputs = step_inputs(state, tokens=DRAFT_TOKENS, cached=0)
        self.inputs |= {
            "seqlens_k": np.zeros(DRAFT_TOKENS, np.int32),
            "total_sequence_length": np.zeros(DRAFT_TOKENS, np.int32),
            "logits_to_keep": np.arange(DRAFT_TOKENS),
        }
        logits = np.zeros((1, DRAFT_TOKENS, state.description.vocab_size), np.float32)
        self._rows: NDArray[np.float32] = logits[0]
        self._precedence = new_precedence(state.description, 1, DRAFT_TOKENS)
        outputs = {"logits": logits, **precedence_outputs(self._precedence)}
        links = [f".{j}" for j in range(DRAFT_TOKENS - 1)]
        self._binding = bind(session, self.inputs, outputs, state.rows(), ["", *links])

    def __call__(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Write the rows of int64 [n] tokens, n <= DRAFT_TOKENS; returns logits [n, vocab], the state stays put."""
        inputs, count = self.inputs, len(token_ids)
        inputs["input_ids"][0, :count] = token_ids  # the rest is computed for nothing, and never looked at
        inputs["position_ids"][0] = np.arange(state.position, state.position + DRAFT_TOKENS)
        inputs["seqlens_k"][:] = inputs["position_ids"][0]
        inputs["total_sequence_length"][:] = inputs["position_ids"][0] + 1
        run(self._session, self._binding)
        state.take_precedence(self._precedence[:, 0])
        return self._rows[:count]


class RecurrentStep:
    """One decoding step over a full window, bound once per state."""

    def __init__(self, session: ort.InferenceSession, state: State) -> None:
        self._session = session
        d = state.description
        shape = (d.num_layers, d.num_recurrent_heads, 1 + min(1, d.keep_recent))
        self.inputs = step_inputs(state, tokens=1, cached=d.keep_window_size)
        self.inputs |= {"eviction_slots": np.zeros(shape, np.int64), "eviction_precedence": np.zeros(shape, np.float32)}
        logits = np.zeros((1, 1, d.vocab_size), np.float32)
        self._row: NDArray[np.float32] = logits[0]
        self._precedence = new_precedence(state.description, 1, 1)
        outputs = {"logits": logits, **precedence_outputs(self._precedence)}
        self._binding = bind(session, self.inputs, outputs, state.rows())

    def __call__(self, state: State, token_id: int) -> NDArray[np.float32]:
        """Feed one token and evict one key per head; returns logits [1, vocab], overwritten by the next call."""
        inputs, window = self.inputs, state.full_window()
        candidates = window.candidates(1, state.position)
        inputs["input_ids"][0, 0] = token_id
        inputs["position_ids"][0, 0] = state.position
        inputs["eviction_slots"][:] = candidates.slots
        inputs["eviction_precedence"][:] = candidates.keys.precedence
        run(self._session, self._binding)
        state.take_precedence(self._precedence[:, 0])
        state.take_in(inputs["input_ids"][0], candidates)
        return self._row


class BatchStep:
    """One decoding step of several states in adjoining slices of one memory, none of which is full; bound once."""

    def __init__(self, session: ort.InferenceSession, states: Sequence[State], memory: Rows) -> None:
        """memory: [layers, 2, rows, heads, slots, channels]; states live in its first rows, in order."""
        self._session, self._states = session, list(states)
        rows = len(states)
        self.inputs: Arrays = {
            "input_ids": np.zeros((rows, 1), np.int64),
            "position_ids": np.zeros((rows, 1), np.int64),
            "seqlens_k": np.zeros(rows, np.int32),
            "total_sequence_length": np.array(0, np.int32),
            "logits_to_keep": np.array([0]),
        }
        logits = np.zeros((rows, 1, states[0].description.vocab_size), np.float32)
        self._rows: NDArray[np.float32] = logits[:, 0]
        self._precedence = new_precedence(states[0].description, rows, 1)
        outputs = {"logits": logits, **precedence_outputs(self._precedence)}
        self._binding = bind(session, self.inputs, outputs, memory[:, :, :rows])

    def __call__(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Feed every state its token; returns logits [rows, vocab], overwritten by the next call."""
        inputs = self.inputs
        positions = [state.position for state in self._states]
        inputs["input_ids"][:, 0] = token_ids
        inputs["position_ids"][:, 0] = positions
        inputs["seqlens_k"][:] = positions
        inputs["total_sequence_length"][()] = max(positions) + 1
        run(self._session, self._binding)
        for row, (state, ids) in enumerate(zip(self._states, inputs["input_ids"], strict=True)):
            state.take_precedence(self._precedence[:, row])
            state.take_in(ids)
        return self._rows
