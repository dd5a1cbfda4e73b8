"""The decoder as one operator of our own, DogeStep: prompts, steps, drafts, batches and full windows by one graph.

docs/operators.md describes the operator. It writes keys and values where they stay, and does the bookkeeping of a full
window too. Nothing but the position is left to do here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .cache import Rows
from .description import STEP_FILE, DecoderDescription
from .eviction import Keys
from .exactness import Exactness
from .graphs import BatchForward, Logits
from .operators import kernels_of
from .sessions import metadata_of, open_session, run
from .state import State
from .steps import Arrays, bind


class StepGraph:
    """See `Graphs`."""

    file: ClassVar[str] = STEP_FILE
    operator: ClassVar[str] = "DogeStep"
    cuts_freely = True  # every row is computed as in a step
    _constants: object = None
    _columns: int | None = None

    def __init__(self, folder: Path, threads: int, library: Path) -> None:
        """Open the graph of an exported folder that has one.

        library: the operator's.

        Raises:
            PackageError: onnxruntime refuses, or the folder is not one of ours.
        """
        path = folder / self.file
        session = open_session(path, threads, library)
        self._take(session, library, step_description(session, path))

    @classmethod
    def over(
        cls,
        session: Any,
        library: Path,
        description: DecoderDescription,
        constants: object = None,
        columns: int | None = None,
    ) -> StepGraph:
        """The graph of a session that is open, with the operator's library.

        session: of onnxruntime, or one with an adapter in it. constants: held as long as the graph, for the session has
            only their addresses. columns: of the logits, a classifier's labels; None: the vocabulary.
        """
        graph = cls.__new__(cls)
        graph._constants, graph._columns = constants, columns
        graph._take(session, library, description)
        return graph

    def _take(self, session: Any, library: Path, description: DecoderDescription) -> None:
        self._session, self.library, self.description = session, library, description
        self.kernels = f"{self.operator} with {kernels_of(library)}"
        # of steps and drafts by their number of tokens, for each state
        self._bound: weakref.WeakKeyDictionary[State, dict[int, BoundTokens]] = weakref.WeakKeyDictionary()
        self.drafts, self.batches = Exactness.by_construction(), Exactness.by_construction()

    @staticmethod
    def order(keys: Keys) -> Arrays:
        """The order of a full window's keys, by the ends of the names that past and present have in the graph."""
        return {"precedence": keys.precedence, "positions": keys.positions}

    def step(self, state: State, token_id: int) -> Logits:
        """Feed one token: float32 [1, vocab]."""
        use_full_window(state)
        return first(self._bound_once(state, 1).feed([state], token_id))

    def chunk(self, state: State, token_ids: NDArray[np.int64], keep: NDArray[np.int64]) -> Logits:
        """Feed int64 [S] tokens in one piece: float32 [N, vocab] of those in keep."""
        use_full_window(state)
        return first(self._bind(state, len(token_ids), keep).feed([state], token_ids))

    def whole(
        self, empty: State, token_ids: NDArray[np.int64], keep: NDArray[np.int64], memory: Rows
    ) -> NDArray[np.float32]:
        """Logits of streams from their first token on, int64 [B, S], that nobody continues: float32 [B, N, columns].

        empty: any state of the decoder that holds nothing. keep: int64 [N] indices into the S tokens. memory: for their
        keys and values, [layers, 2, B, heads, S or more, channels]; S fits the window.
        """
        count = token_ids.shape[1]
        return self._bind(empty, count, keep, memory).run([0] * len(token_ids), token_ids)

    def draft(self, state: State, token_ids: NDArray[np.int64]) -> Logits:
        """Write the rows of int64 [n] tokens: float32 [n, vocab]."""
        state.settle()
        return first(self._bound_once(state, len(token_ids)).run([state.position], token_ids))

    def batch(self, states: Sequence[State], memory: Rows) -> BatchForward:
        """Steps of several states."""
        states = list(states)
        bound = self._bind(states[0], 1, np.array([0]), memory[:, :, : len(states)])

        def forward(token_ids: Sequence[int]) -> Logits:
            rows: Logits = bound.feed(states, np.array(token_ids)[:, None])[:, 0]
            return rows

        return forward

    def _bound_once(self, state: State, count: int) -> BoundTokens:
        """So many tokens, all of whose logits are wanted; bound anew when the state has another cache."""
        of_state = self._bound.setdefault(state, {})
        bound = of_state.get(count)
        if bound is None or bound.rows is not state.cache or bound.full is not state.overflowed:
            bound = of_state[count] = self._bind(state, count, np.arange(count))
        return bound

    def _bind(self, state: State, count: int, keep: NDArray[np.int64], memory: Rows | None = None) -> BoundTokens:
        """So many tokens, bound to the memory of a state, or to that of several streams."""
        columns = self._columns or self.description.vocab_size
        return BoundTokens(self._session, self.order, state, count, keep, columns, memory)


def step_description(session: ort.InferenceSession, path: Path) -> DecoderDescription:
    """Of the open graph in a file.

    Raises:
        PackageError: it is not one of ours.
    """
    metadata = metadata_of(session, path)
    return DecoderDescription.from_metadata(metadata, path).of_step(metadata, path)


def first(logits: Logits) -> Logits:
    """Those of the one stream: float32 [1, N, vocab] -> [N, vocab]."""
    rows: Logits = logits[0]
    return rows


def use_full_window(state: State) -> None:
    """Give a state whose window is full the cache and the order of keys that the next token needs."""
    if state.position >= state.description.keep_window_size:
        state.full_window()


class BoundTokens:
    """Runs over so many tokens of each of some streams, bound once.

    Attributes:
        rows: the first state's cache, which the run writes to.
        full: whether its window is.
    """

    def __init__(
        self,
        session: Any,
        order: Callable[[Keys], Arrays],
        state: State,
        count: int,
        keep: NDArray[np.int64],
        columns: int,
        memory: Rows | None = None,
    ) -> None:
        """order: makes the arrays of a window's order by the ends of their names, `past_` or `present_` before these.

        state: the stream; any of several ones, where memory [layers, 2, streams, ...] holds them. columns: of the
        logits.
        """
        self._session = session
        self.rows, self.full = state.cache, state.overflowed
        memory = state.rows() if memory is None else memory
        streams = memory.shape[2]
        self._input_ids = np.zeros((streams, count), np.int64)
        self._lengths = np.zeros(streams, np.int64)
        self._logits = np.zeros((streams, len(keep), columns), np.float32)
        in_place = {"lengths": self._lengths} | order(state.full_window().keys if self.full else no_keys(state))
        inputs: Arrays = {"input_ids": self._input_ids, "logits_to_keep": keep}
        inputs |= {f"past_{name}": array for name, array in in_place.items()}
        outputs: Arrays = {"logits": self._logits} | {f"present_{name}": array for name, array in in_place.items()}
        self._binding = bind(session, inputs, outputs, memory)

    def feed(self, states: Sequence[State], token_ids: int | NDArray[np.int64]) -> Logits:
        """Feed int64 [streams, count] tokens, and move the streams on: float32 [streams, N, vocab].

        The operator counts the tokens in `_lengths` when their rows are written. So an exception between any two
        instructions, Ctrl-C included, leaves no doubt about whether they were.
        """
        for state in states:
            state.settle()
        positions = [state.position for state in states]
        self._fill(positions, token_ids)
        for row, state in enumerate(states):
            state.expect(self._input_ids[row], self._lengths[row : row + 1])
        run(self._session, self._binding)
        for state in states:
            state.arrive()
        return self._logits

    def run(self, positions: Sequence[int], token_ids: NDArray[np.int64]) -> Logits:
        """Write the rows of tokens behind so many of each stream, which stays there: float32 [streams, N, vocab]."""
        self._fill(positions, token_ids)
        run(self._session, self._binding)
        return self._logits

    def _fill(self, positions: Sequence[int], token_ids: int | NDArray[np.int64]) -> None:
        self._lengths[:] = positions
        self._input_ids[:] = token_ids


def no_keys(state: State) -> Keys:
    """The order of a window that is not full."""
    shape = (state.description.num_layers, state.description.num_recurrent_heads, 0)
    return Keys(np.zeros(shape, np.float32), np.zeros(shape, np.int64))
