"""The decoder graphs on onnxruntime: feed tokens, get logits, keep the state.

A `Decoder` holds the sessions and can be shared; a `State` is one stream of tokens. Up to keep_window_size tokens the
plain graph runs; from then on the recurrent one, which is opened when the first stream needs it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as ort_errors
from numpy.typing import NDArray

from ..errors import OptionError, PackageError, StateError
from .batch import Batch
from .description import DATA_FILE, DECODER_FILE, DRAFT_FILE, DRAFT_TOKENS, RECURRENT_FILE, DecoderDescription
from .exactness import Proof
from .huge_pages import huge_pages
from .state import State, new_precedence, precedence_outputs
from .steps import DraftStep, PlainStep, RecurrentStep, bind, step_inputs
from .threads import SPIN_US, check_threads, default_threads

ORT_ERRORS = (  # what opening a file can raise; they share no base
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def session_options(threads: int) -> ort.SessionOptions:
    """How a session computes: on so many threads, which sleep soon when there is nothing to do, and in silence."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; onnxruntime would also print it
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    return options


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """An onnxruntime session on a model file and the data file beside it.

    Raises:
        PackageError: one of the two is missing, or onnxruntime refuses them.
    """
    for file in (path, path.with_name(Path(DATA_FILE).name)):
        if not file.is_file():
            raise PackageError(f"{file} is missing; give a folder that doge-export wrote, or export the model again")
    try:
        with huge_pages():
            return ort.InferenceSession(path, session_options(threads), providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        raise PackageError(
            f"onnxruntime cannot open {path}, it may be damaged: {str(error).splitlines()[0]}"
        ) from error


def open_changed(model: bytes, folder: Path, threads: int) -> ort.InferenceSession:
    """A session on a model that was made of a decoder file, over the data file that lies in `folder`."""
    options = session_options(threads)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Decoder:
    """An exported decoder, ready to run. Several states may be fed from several threads."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Open the decoder of an exported folder.

        Args:
            folder: what doge-export wrote.
            threads: threads within an operator; None takes `default_threads`.

        Raises:
            PackageError: the decoder is missing, damaged or not one of ours.
            OptionError: of `check_threads`.
        """
        check_threads(threads)
        data = folder / DATA_FILE
        self.threads = threads or default_threads(data.stat().st_size if data.is_file() else 0)
        self._folder = folder
        self._plain = open_session(folder / DECODER_FILE, self.threads)
        self._later: dict[str, ort.InferenceSession] = {}  # opened when first needed
        self._opening = threading.Lock()
        self._drafts = Proof("prompt lookup is off")
        self._batches = Proof("the rows of a batch are computed one by one")
        metadata = self._plain.get_modelmeta().custom_metadata_map
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
        """Refuse what is no state of this model.

        Raises:
            OptionError: it is no state at all.
            StateError: it belongs to another model.
        """
        if not isinstance(state, State):
            raise OptionError(f"state is {state!r}, but must be one that prefill, copy() or load_state returned")
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
            StateError: the state belongs to another model.
        """
        if state.description is not self.description:
            self.check_state(state)
        if len(token_ids) == 1:
            return self._step(state, int(token_ids[0]))
        count = logits_to_keep if isinstance(logits_to_keep, int) else 1 if logits_to_keep == "last" else len(token_ids)
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
            token_ids: int64 [n], the next token and at most `room_for_draft` guesses of what follows.

        Returns:
            float32 [n, vocab]; the next call for this state may overwrite it.
        """
        if state.draft_step is None:
            state.draft_step = DraftStep(self._session(DRAFT_FILE), state)
        rows = state.draft_step(state, token_ids)
        if self._drafts.exact:
            return rows
        position = state.position
        steps = np.concatenate([self._step(state, int(token_id)).copy() for token_id in token_ids])
        state.truncate(position)
        self._drafts.settle(rows, steps)
        return steps

    def _step(self, state: State, token_id: int) -> NDArray[np.float32]:
        if state.position < self.keep_window_size:
            if state.plain_step is None:
                state.plain_step = PlainStep(self._plain, state)
            return state.plain_step(state, token_id)
        if state.recurrent_step is None:
            state.full_window()  # before binding: it may give the state a new cache
            state.recurrent_step = RecurrentStep(self._session(RECURRENT_FILE), state)
        return state.recurrent_step(state, token_id)

    def _chunk(self, state: State, token_ids: NDArray[np.int64], keep: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed tokens that go through one of the graphs in one piece; logits of those that `keep` indexes."""
        run = self._plain_chunk if state.position < self.keep_window_size else self._recurrent_chunk
        logits = np.empty((1, len(keep), self.vocab_size), np.float32)
        run(state, token_ids, keep, logits)
        rows: NDArray[np.float32] = logits[0]
        return rows

    def _plain_chunk(
        self, state: State, token_ids: NDArray[np.int64], keep: NDArray[np.int64], logits: NDArray[np.float32]
    ) -> None:
        inputs = step_inputs(state, len(token_ids), cached=state.position)
        inputs |= {"input_ids": np.ascontiguousarray(token_ids[None]), "logits_to_keep": keep}
        precedence = new_precedence(self.description, 1, len(token_ids))
        outputs = {"logits": logits, **precedence_outputs(precedence)}
        self._plain.run_with_iobinding(bind(self._plain, inputs, outputs, state.rows()))
        state.take_precedence(precedence[:, 0])
        state.take_in(token_ids)

    def _recurrent_chunk(
        self, state: State, token_ids: NDArray[np.int64], keep: NDArray[np.int64], logits: NDArray[np.float32]
    ) -> None:
        length, window, session = len(token_ids), state.full_window(), self._session(RECURRENT_FILE)
        slots = window.next_to_leave(min(length, self.keep_window_size))
        leaving = window.keys_at(slots)
        inputs = step_inputs(state, length, cached=self.keep_window_size)
        inputs |= {"input_ids": np.ascontiguousarray(token_ids[None]), "logits_to_keep": keep}
        inputs |= {"eviction_slots": slots, "eviction_precedence": leaving.precedence}
        precedence = new_precedence(self.description, 1, length)
        outputs = {"logits": logits, **precedence_outputs(precedence)}
        session.run_with_iobinding(bind(session, inputs, outputs, state.rows()))
        state.take_precedence(precedence[:, 0])
        state.take_in(token_ids, slots, leaving)

    def _session(self, file: str) -> ort.InferenceSession:
        """The session of a graph that not every stream needs, opened by the first that does."""
        if file not in self._later:
            with self._opening:
                if file not in self._later:
                    self._later[file] = open_session(self._folder / file, self.threads)
        return self._later[file]
