"""An exported decoder on onnxruntime: feed tokens, get logits, keep the state.

A `Decoder` holds the graphs and can be shared; a `State` is one stream of tokens.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, StateError
from .batch import Batch
from .description import DATA_FILE, DRAFT_TOKENS, LAYERED_FILE, STEP_FILE
from .folder_files import check_folder
from .graphs import Graphs
from .layered_graph import LayeredGraph
from .operators import SWITCH, operators_library, wanted
from .standard_graphs import StandardGraphs
from .state import State
from .step_graph import StepGraph
from .threads import check_threads, default_threads


class Decoder:
    """An exported decoder, ready to run. Several states may be fed from several threads."""

    def __init__(self, folder: Path, threads: int | None = None, operators: bool | None = None) -> None:
        """Open the decoder of an exported folder.

        Args:
            folder: one that doge-export wrote.
            threads: threads within an operator; None takes `default_threads`.
            operators: whether the project's own operators compute it; None: where there are any, see
                `operators_library`.

        Raises:
            PackageError: a file is missing, damaged, of another export or not one of ours.
            OptionError: of `check_threads` and `operators_library`.
        """
        check_threads(threads)
        check_folder(folder)
        threads = threads or default_threads((folder / DATA_FILE).stat().st_size)
        self._take(open_graphs(folder, threads, operators), threads)

    @classmethod
    def over(cls, graphs: Graphs, threads: int) -> Decoder:
        """The decoder of graphs that are open."""
        decoder = cls.__new__(cls)
        decoder._take(graphs, threads)
        return decoder

    def _take(self, graphs: Graphs, threads: int) -> None:
        self.graphs: Graphs = graphs
        self.threads, self.description = threads, graphs.description
        self.vocab_size = self.description.vocab_size
        self.keep_window_size = self.description.keep_window_size

    def computed_by(self, graphs: Graphs) -> Decoder:
        """The same decoder by other graphs, such as those with an adapter."""
        other = copy.copy(self)
        other.graphs, other.description = graphs, graphs.description
        return other

    @property
    def kernels(self) -> str:
        """Who computes: onnxruntime's operators, or DogeStep with its kernels for this processor."""
        return self.graphs.kernels

    @property
    def cuts_freely(self) -> bool:
        """Whether logits are the same bit by bit wherever a prompt is cut into chunks."""
        return self.graphs.cuts_freely

    def new_state(self) -> State:
        """An empty stream. Memory is taken from the system as the stream fills its window."""
        return State(self.description)

    def new_batch(self, size: int) -> Batch:
        """Room for `size` streams that take their steps together."""
        return Batch(self.graphs, self.new_state(), size)

    def load_state(self, path: str | Path) -> State:
        """The stream that `State.save` wrote to a file.

        Raises:
            StateError: the file is missing, damaged, of another format version, or from another model.
        """
        return State.load(path, self.description)

    def check_state(self, state: State) -> None:
        """Refuse all but states of this model.

        Raises:
            OptionError: it is no state at all.
            StateError: it belongs to another model.
        """
        if not isinstance(state, State):
            raise OptionError(f"state is {state!r}; it must be one that prefill, copy() or load_state returned")
        theirs, ours = state.description, self.description
        if theirs != ours and dataclasses.replace(theirs, cache_type=ours.cache_type) == ours:
            remedy = "save it to a file, and load that here"
            if "int8" in (theirs.cache_type, ours.cache_type):
                remedy = f"load the model with operators={theirs.cache_type != 'int8'}, the way that made it"
            raise StateError(
                f"the state has a cache of type {theirs.cache_type}, but this way to compute keeps {ours.cache_type}; "
                f"{remedy}"
            )
        if theirs != ours and theirs.adapter != ours.adapter:
            made = f"with the adapter {theirs.adapter!r}" if theirs.adapter else "without an adapter"
            raise StateError(f"the state was made {made}, and goes on in no other way; give it to its own")
        if theirs != ours:
            raise StateError("the state belongs to another model; use it with the model that it was made with")

    def forward(
        self, state: State, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] | int = "last"
    ) -> NDArray[np.float32]:
        """Feed tokens, in chunks where there are many, and advance the state.

        Args:
            state: the stream that continues.
            token_ids: int64 [S], S >= 1, each below vocab_size.
            logits_to_keep: rows of logits to compute: of the last token, of all, or of so many last ones (1 to S).

        Returns:
            float32 [1, vocab], [S, vocab] or [logits_to_keep, vocab]; the next call for this state may overwrite it.

        Raises:
            StateError: the state belongs to another model, or another thread uses it.
            PackageError: onnxruntime cannot run the decoder.
        """
        if state.description is not self.description:
            self.check_state(state)
        with state.claim:
            if len(token_ids) == 1:
                return self.graphs.step(state, int(token_ids[0]))
            counts = {"last": 1, "all": len(token_ids)}
            count = logits_to_keep if isinstance(logits_to_keep, int) else counts[logits_to_keep]
            return self._feed(state, token_ids, count)

    def _feed(self, state: State, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        """Feed tokens in chunks; logits of the last `count`."""
        rows, start = [], 0
        while start < len(token_ids):
            chunk = token_ids[start : start + state.room_for_chunk()]
            start += len(chunk)
            wanted = min(len(chunk), start - (len(token_ids) - count))
            logits = self.graphs.chunk(state, chunk, np.arange(len(chunk) - max(wanted, 1), len(chunk)))
            if wanted > 0:
                rows.append(logits)
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def room_for_draft(self, state: State) -> int:
        """Guesses that `check_draft` can take behind the next token.

        None near the end of the window and beyond it, and none at all on a processor that computes several tokens
        otherwise than one.
        """
        fits = state.position + DRAFT_TOKENS <= self.keep_window_size
        return DRAFT_TOKENS - 1 if fits and self.graphs.drafts.exact is not False else 0

    def check_draft(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits after every one of some tokens, bit by bit those of feeding one after the other.

        The state stays where it is: `State.take_in` moves it on over as many of the tokens as were right.

        Args:
            state: with room for the draft.
            token_ids: int64 [n], the next token and at most `room_for_draft` guesses behind it.

        Returns:
            float32 [n, vocab]; the next call for this state may overwrite it.
        """
        with state.claim:
            rows = self.graphs.draft(state, token_ids)
            if self.graphs.drafts.exact:
                return rows
            position = state.position
            single = np.concatenate([self.graphs.step(state, int(token_id)).copy() for token_id in token_ids])
            state.truncate(position)
            self.graphs.drafts.settle(rows, single)
            return single


def open_graphs(folder: Path, threads: int, operators: bool | None) -> Graphs:
    """The graph of our own operators that a folder has, where the operators are there too; else the standard ones.

    Raises:
        PackageError, OptionError: of the graphs and of `operators_library`.
    """
    demanded = wanted(operators)
    own = next((graph for graph in (StepGraph, LayeredGraph) if (folder / graph.file).is_file()), None)
    if own is None and demanded:
        raise OptionError(
            f"{folder} has no {STEP_FILE} and no {LAYERED_FILE}, so operators cannot be True, nor {SWITCH} 1; "
            "leave both out, or export the checkpoint again"
        )
    library = None if own is None else operators_library(demanded)
    return StandardGraphs(folder, threads) if own is None or library is None else own(folder, threads, library)
