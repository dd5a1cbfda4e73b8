"""The decoder graph on onnxruntime: feed tokens, get logits, keep the state.

A `Decoder` is the session and can be shared; a `State` is one stream of tokens. State lives in numpy arrays that are
bound as past input and present output at once, so GroupQueryAttention writes the new rows in place, and a decoding step
neither allocates nor binds anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as ort_errors
from numpy.typing import NDArray

from ..errors import ContextLengthError, PackageError
from .description import DECODER_FILE, DecoderDescription

ORT_ERRORS = (ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.InvalidGraph, ort_errors.InvalidProtobuf)
ORT_ERRORS += (ort_errors.NoSuchFile, ort_errors.NotImplemented, ort_errors.RuntimeException)  # they share no base
MAX_CHUNK = 256  # tokens of a prompt that go through the graph at once: long enough to be fast, small in memory


class State:
    """One stream: the keys and values of its tokens.

    Attributes:
        cache: float32 [layers, 2 (key, value), kv_heads, slots, channels]; rows from `position` on mean nothing.
        position: tokens fed so far.
    """

    def __init__(self, description: DecoderDescription) -> None:
        d = description
        self.cache = np.zeros((d.num_layers, 2, d.num_kv_heads, d.keep_window_size, d.channels), np.float32)
        self.position = 0
        self._description = description
        self._step: BoundStep | None = None

    def copy(self) -> State:
        """An independent state at the same position."""
        other = State(self._description)
        other.cache[..., : self.position, :] = self.cache[..., : self.position, :]
        other.position = self.position
        return other

    def truncate(self, position: int) -> None:
        """Forget every token from `position` on."""
        if not 0 <= position <= self.position:
            raise ContextLengthError(f"cannot go back to position {position}: the state is at {self.position}")
        self.position = position


class BoundStep:
    """Inputs and outputs of one decoding step over a state, bound once."""

    def __init__(self, session: ort.InferenceSession, description: DecoderDescription, state: State) -> None:
        self.token = np.zeros((1, 1), np.int64)
        self.position = np.zeros((1, 1), np.int64)
        self.seqlens_k = np.zeros(1, np.int32)
        self.total = np.zeros((), np.int32)
        self.logits = np.zeros((1, 1, description.vocab_size), np.float32)
        self._session = session
        inputs = {"input_ids": self.token, "position_ids": self.position, "seqlens_k": self.seqlens_k}
        inputs |= {"total_sequence_length": self.total, "logits_to_keep": np.zeros(1, np.int64)}
        self._binding = bind(session, inputs, {"logits": self.logits}, state)

    def __call__(self, token_id: int, position: int) -> NDArray[np.float32]:
        """Feed one token at a position; returns logits [1, vocab], overwritten by the next call."""
        self.token[0, 0] = token_id
        self.position[0, 0] = position
        self.seqlens_k[0] = position
        self.total[()] = position + 1
        self._session.run_with_iobinding(self._binding)
        return self.logits[0]


def bind(
    session: ort.InferenceSession,
    inputs: dict[str, NDArray[np.generic]],
    outputs: dict[str, NDArray[np.float32]],
    state: State,
) -> ort.IOBinding:
    """Bind arrays by name, and the state's cache as past and present alike. The binding holds on to all of them."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
    for layer, parts in enumerate(state.cache):
        for part, rows in zip(("key", "value"), parts, strict=True):
            value = ort.OrtValue.ortvalue_from_numpy(rows[None])
            binding.bind_ortvalue_input(f"past_key_values.{layer}.{part}", value)
            binding.bind_ortvalue_output(f"present.{layer}.{part}", value)
    return binding


def open_session(path: Path, threads: int | None) -> ort.InferenceSession:
    """An onnxruntime session on a model file and the data file beside it.

    Raises:
        PackageError: one of the two is missing, or onnxruntime refuses them.
    """
    for file in (path, path.with_name(path.name + "_data")):
        if not file.is_file():
            raise PackageError(f"{file} is missing; give a folder that doge-export wrote, or export the model again")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; onnxruntime would also print it
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        raise PackageError(f"onnxruntime cannot open {path}, it may be damaged: {str(error).splitlines()[0]}") from error


class Decoder:
    """An exported decoder, ready to run. Several states may be fed from several threads."""

    max_chunk = MAX_CHUNK

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Open the decoder of an exported folder.

        Args:
            folder: what doge-export wrote.
            threads: threads within an operator; None leaves the choice to onnxruntime.

        Raises:
            PackageError: the decoder is missing, damaged or not one of ours.
        """
        path = folder / DECODER_FILE
        self._session = open_session(path, threads)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.description = DecoderDescription.from_metadata(metadata, path)
        self.vocab_size = self.description.vocab_size
        self.keep_window_size = self.description.keep_window_size

    def new_state(self) -> State:
        """An empty stream. Memory is taken from the system as the stream fills its window."""
        return State(self.description)

    def forward(
        self, state: State, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] = "last"
    ) -> NDArray[np.float32]:
        """Feed tokens, in chunks where there are many, and advance the state.

        Args:
            state: the stream that continues.
            token_ids: int64 [S], S >= 1, each below vocab_size.
            logits_to_keep: rows of logits to compute: of the last token, or of all.

        Returns:
            float32 [1, vocab] or [S, vocab]; the next call for this state may overwrite it.

        Raises:
            ContextLengthError: the stream would become longer than keep_window_size; nothing was fed.
        """
        length = len(token_ids)
        if state.position + length > self.keep_window_size:
            raise ContextLengthError(
                f"{state.position} tokens so far and {length} more exceed this model's window of "
                f"{self.keep_window_size} tokens; shorten the prompt or start anew"
            )
        if length == 1:
            return self._step(state, int(token_ids[0]))
        chunks = [token_ids[i : i + self.max_chunk] for i in range(0, length, self.max_chunk)]
        rows = [self._chunk(state, chunk, logits_to_keep) for chunk in chunks]
        return np.concatenate(rows) if logits_to_keep == "all" else rows[-1]

    def _step(self, state: State, token_id: int) -> NDArray[np.float32]:
        if state._step is None:
            state._step = BoundStep(self._session, self.description, state)
        logits = state._step(token_id, state.position)
        state.position += 1
        return logits

    def _chunk(self, state: State, token_ids: NDArray[np.int64], logits_to_keep: str) -> NDArray[np.float32]:
        length, start = len(token_ids), state.position
        keep = np.arange(length) if logits_to_keep == "all" else np.array([length - 1])
        inputs: dict[str, NDArray[np.generic]] = {
            "input_ids": np.ascontiguousarray(token_ids[None]),
            "position_ids": np.arange(start, start + length)[None],
            "seqlens_k": np.array([start + length - 1], np.int32),
            "total_sequence_length": np.array(start + length, np.int32),
            "logits_to_keep": keep,
        }
        logits = np.empty((1, len(keep), self.vocab_size), np.float32)
        self._session.run_with_iobinding(bind(self._session, inputs, {"logits": logits}, state))
        state.position += length
        return logits[0]
