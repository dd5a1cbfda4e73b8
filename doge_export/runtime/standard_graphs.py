"""The decoder on onnxruntime's own operators: a plain graph, one for a full window and one for drafts.

Up to keep_window_size tokens the plain graph runs; from then on the recurrent one, which is opened when the first
stream needs it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .cache import Rows, new_precedence, precedence_outputs
from .description import DECODER_FILE, DRAFT_FILE, RECURRENT_FILE, DecoderDescription
from .exactness import Exactness
from .graphs import BatchForward, Logits
from .sessions import metadata_of, open_session, run
from .state import State
from .steps import BatchStep, BoundSteps, DraftStep, PlainStep, RecurrentStep, bind, step_inputs


class Sessions:
    """The sessions of an exported folder's graphs, each opened when it is first needed."""

    def __init__(self, folder: Path, threads: int, library: Path | None = None) -> None:
        """library: with the graphs' own operators."""
        self._folder, self._threads, self._library = folder, threads, library
        self._open: dict[str, ort.InferenceSession] = {}
        self._opening = threading.Lock()

    def get(self, file: str) -> Any:
        """The session of a graph.

        Raises:
            PackageError: of `open_session`.
        """
        if file not in self._open:
            with self._opening:
                if file not in self._open:
                    self._open[file] = open_session(self._folder / file, self._threads, self._library)
        return self._open[file]


class StandardGraphs:
    """See `Graphs`."""

    kernels = "onnxruntime's operators"
    cuts_freely = False  # a product of few rows is rounded otherwise than that of many

    def __init__(self, folder: Path, threads: int, sessions: Sessions | None = None) -> None:
        """Open the plain graph of an exported folder.

        sessions: of its graphs with an adapter in them; by default those without.

        Raises:
            PackageError: onnxruntime refuses, or the folder is not one of ours.
        """
        self._sessions = sessions or Sessions(folder, threads)
        self._plain = self._sessions.get(DECODER_FILE)
        self._bound: weakref.WeakKeyDictionary[State, BoundSteps] = weakref.WeakKeyDictionary()
        self.drafts = Exactness("prompt lookup and assistants are off")
        self.batches = Exactness("the rows of a batch are computed one by one")
        metadata = metadata_of(self._plain, folder / DECODER_FILE)
        self.description = DecoderDescription.from_metadata(metadata, folder / DECODER_FILE)

    def step(self, state: State, token_id: int) -> Logits:
        """Feed one token: float32 [1, vocab]."""
        if state.position >= self.description.keep_window_size:
            state.full_window()  # before binding: it may give the state a new cache
            steps = self._steps_of(state)
            if steps.recurrent is None:
                steps.recurrent = RecurrentStep(self._sessions.get(RECURRENT_FILE), state)
            return steps.recurrent(state, token_id)
        steps = self._steps_of(state)
        if steps.plain is None:
            steps.plain = PlainStep(self._plain, state)
        return steps.plain(state, token_id)

    def chunk(self, state: State, token_ids: NDArray[np.int64], keep: NDArray[np.int64]) -> Logits:
        """Feed int64 [S] tokens in one piece: float32 [N, vocab] of those in keep."""
        session, cached, candidates = self._plain, state.position, None
        evicting: dict[str, NDArray[Any]] = {}
        if state.position >= self.description.keep_window_size:
            session, cached = self._sessions.get(RECURRENT_FILE), self.description.keep_window_size
            candidates = state.full_window().candidates(len(token_ids), state.position)
            evicting = {"eviction_slots": candidates.slots, "eviction_precedence": candidates.keys.precedence}
        inputs = step_inputs(state, len(token_ids), cached) | evicting
        inputs |= {"input_ids": np.ascontiguousarray(token_ids[None]), "logits_to_keep": keep}
        logits = np.empty((1, len(keep), self.description.vocab_size), np.float32)
        precedence = new_precedence(self.description, 1, len(token_ids))
        run(session, bind(session, inputs, {"logits": logits, **precedence_outputs(precedence)}, state.rows()))
        state.take_precedence(precedence[:, 0])
        state.take_in(token_ids, candidates)
        rows: Logits = logits[0]
        return rows

    def draft(self, state: State, token_ids: NDArray[np.int64]) -> Logits:
        """Write the rows of int64 [n] tokens: float32 [n, vocab]."""
        steps = self._steps_of(state)
        if steps.draft is None:
            steps.draft = DraftStep(self._sessions.get(DRAFT_FILE), state)
        return steps.draft(state, token_ids)

    def batch(self, states: Sequence[State], memory: Rows) -> BatchForward:
        """Steps of several states."""
        return BatchStep(self._plain, states, memory)

    def _steps_of(self, state: State) -> BoundSteps:
        """The steps bound to a state's cache; a full window may have another cache than the state began with."""
        steps = self._bound.get(state)
        if steps is None or steps.rows is not state.cache:
            steps = self._bound[state] = BoundSteps(state.cache)
        return steps
