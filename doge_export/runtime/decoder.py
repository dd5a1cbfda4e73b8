"""The decoder graphs on onnxruntime: feed tokens, get logits, keep the state.

A `Decoder` holds the sessions and can be shared; a `State` is one stream of tokens. Up to keep_window_size tokens the
plain graph runs; from then on the recurrent one, which is opened when the first stream needs it.
"""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import OptionError, StateError
from .batch import Batch
from .cache import new_precedence, precedence_outputs
from .description import DATA_FILE, DECODER_FILE, DRAFT_FILE, DRAFT_TOKENS, RECURRENT_FILE, DecoderDescription
from .exactness import Exactness
from .folder_files import check_folder
from .sessions import metadata_of, open_session, run
from .state import State
from .steps import BoundSteps, DraftStep, PlainStep, RecurrentStep, bind, step_inputs
from .threads import check_threads, default_threads


class Decoder:
    """An exported decoder, ready to run. Several states may be fed from several threads."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Open the decoder of an exported folder.

        Args:
            folder: one that doge-export wrote.
            threads: threads within an operator; None takes `default_threads`.

        Raises:
            PackageError: a file is missing, damaged, of another export or not one of ours.
            OptionError: of `check_threads`.
        """
        check_threads(threads)
        check_folder(folder)
        self.threads = threads or default_threads((folder / DATA_FILE).stat().st_size)
        self._folder = folder
        self._plain = open_session(folder / DECODER_FILE, self.threads)
        self._later: dict[str, ort.InferenceSession] = {}  # opened when first needed
        self._opening = threading.Lock()
        self._bound: weakref.WeakKeyDictionary[State, BoundSteps] = weakref.WeakKeyDictionary()
        self._drafts = Exactness("prompt lookup is off")
        self._batches = Exactness("the rows of a batch are computed one by one")
        metadata = metadata_of(self._plain, folder / DECODER_FILE)
        self.description = DecoderDescription.from_metadata(metadata, folder / DECODER_FILE)
        self.vocab_size = self.description.vocab_size
        self.keep_window_size = self.description.keep_window_size

    def new_state(self) -> State:
        """An empty stream. Memory is taken from the system as the stream fills its window."""
        return State(self.description)

    def new_batch(self, size: int) -> Batch:
        """Room for `size` streams that take their steps together."""
        return Batch(self._plain, self.new_state(), size, self._step, self._batches)

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
        if state.description != self.description:
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
                return self._step(state, int(token_ids[0]))
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
            logits = self._chunk(state, chunk, np.arange(len(chunk) - max(wanted, 1), len(chunk)))
            if wanted > 0:
                rows.append(logits)
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def room_for_draft(self, state: State) -> int:
        """Guesses that `check_draft` can take behind the next token.

        None near the end of the window and beyond it, and none at all on a processor that computes several tokens
        otherwise than one.
        """
        fits = state.position + DRAFT_TOKENS <= self.keep_window_size
        return DRAFT_TOKENS - 1 if fits and self._drafts.exact is not False else 0

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
            steps = self._steps_of(state)
            if steps.draft is None:
                steps.draft = DraftStep(self._session(DRAFT_FILE), state)
            rows = steps.draft(state, token_ids)
            if self._drafts.exact:
                return rows
            position = state.position
            single = np.concatenate([self._step(state, int(token_id)).copy() for token_id in token_ids])
            state.truncate(position)
            self._drafts.settle(rows, single)
            return single

    def _steps_of(self, state: State) -> BoundSteps:
        """The steps bound to a state's cache; a full window may have another cache than the state began with."""
        steps = self._bound.get(state)
        if steps is None or steps.rows is not state.cache:
            steps = self._bound[state] = BoundSteps(state.cache)
        return steps

    def _step(self, state: State, token_id: int) -> NDArray[np.float32]:
        if state.position >= self.keep_window_size:
            state.full_window()  # before binding: it may give the state a new cache
            steps = self._steps_of(state)
            if steps.recurrent is None:
                steps.recurrent = RecurrentStep(self._session(RECURRENT_FILE), state)
            return steps.recurrent(state, token_id)
        steps = self._steps_of(state)
        if steps.plain is None:
            steps.plain = PlainStep(self._plain, state)
        return steps.plain(state, token_id)

    def _chunk(self, state: State, token_ids: NDArray[np.int64], keep: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed int64 [S] tokens that go through one graph in one piece: logits float32 [N, vocab] of those in keep.

        keep: int64 [N] indices into the tokens.
        """
        session, cached, candidates = self._plain, state.position, None
        evicting: dict[str, NDArray[Any]] = {}
        if state.position >= self.keep_window_size:
            session, cached = self._session(RECURRENT_FILE), self.keep_window_size
            candidates = state.full_window().candidates(len(token_ids))
            evicting = {"eviction_slots": candidates.slots, "eviction_precedence": candidates.keys.precedence}
        inputs = step_inputs(state, len(token_ids), cached) | evicting
        inputs |= {"input_ids": np.ascontiguousarray(token_ids[None]), "logits_to_keep": keep}
        logits = np.empty((1, len(keep), self.vocab_size), np.float32)
        precedence = new_precedence(self.description, 1, len(token_ids))
        run(session, bind(session, inputs, {"logits": logits, **precedence_outputs(precedence)}, state.rows()))
        state.take_precedence(precedence[:, 0])
        state.take_in(token_ids, candidates)
        rows: NDArray[np.float32] = logits[0]
        return rows

    def _session(self, file: str) -> ort.InferenceSession:
        """The session of a graph that not every stream needs, opened by the first that does."""
        if file not in self._later:
            with self._opening:
                if file not in self._later:
                    self._later[file] = open_session(self._folder / file, self.threads)
        return self._later[file]
