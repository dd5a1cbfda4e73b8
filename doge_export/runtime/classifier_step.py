"""An exported classifier by the operator DogeStep: texts are streams, of which nothing but the last logits is wanted.

Texts of up to 256 tokens are whole streams, several of like lengths in a run. Their rows are padded on the right, where
no token of a text sees any. Longer ones go through a state in pieces, as prompts of a decoder do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from .cache import MAX_CHUNK, Rows
from .classifier_graph import ClassifierDescription
from .decoder import Decoder
from .description import CLASSIFIER_STEP_FILE
from .sessions import open_session
from .step_graph import StepGraph, step_description

RUN_TOKENS = 512  # of one run, padding too; more were no faster
RUN_COST = 8  # tokens of padding that are as good as the start of another run

Tokens = NDArray[np.int64]


class ClassifierStep:
    """See `LabelGraph`."""

    def __init__(self, folder: Path, threads: int, library: Path) -> None:
        """Open the graph of an exported folder that has one.

        library: the operator's.

        Raises:
            PackageError: onnxruntime refuses, or the folder is not one of ours.
        """
        path = folder / CLASSIFIER_STEP_FILE
        self.description, self.threads = ClassifierDescription.from_graph(path), threads
        session = open_session(path, threads, library)
        description, labels = step_description(session, path), self.description.num_labels
        self._graph = StepGraph.over(session, library, description, columns=labels)
        self.kernels = self._graph.kernels
        self._streams = Decoder.over(self._graph, threads)
        self._empty = self._streams.new_state()
        self._shape = (description.num_layers, 2, description.num_kv_heads, description.row_width)
        self._idle, self._lending = list[Rows](), threading.Lock()

    def logits(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Bit by bit the same for a text, whatever others there are.

        Raises:
            OptionError: a text is too long.
            PackageError: onnxruntime refuses.
        """
        out = np.empty((len(rows), self.description.num_labels), np.float32)
        texts = [self._counted(row) for row in rows]
        most = min(MAX_CHUNK, self._streams.keep_window_size)
        lengths = np.array([len(text) for text in texts], np.int64)
        for places in runs(lengths, np.flatnonzero(lengths <= most)):
            out[places] = self._together([texts[place] for place in places])
        for place in np.flatnonzero(lengths > most).tolist():
            out[place] = self._streams.forward(self._streams.new_state(), texts[place])[0]
        return out

    def _counted(self, row: Sequence[int]) -> Tokens:
        """A text up to the token whose logits count, the last that is no padding; those behind it change nothing."""
        longest = self.description.longest
        if longest and len(row) > longest:
            raise OptionError(f"a text has {len(row)} tokens; it must have at most {longest}: shorten it")
        ids = np.array(row, np.int64)
        counting = np.flatnonzero(ids != self.description.pad_token_id)
        return ids[: int(counting[-1]) + 1 if len(counting) else 1]

    def _together(self, texts: Sequence[Tokens]) -> NDArray[np.float32]:
        """One run over texts that fit it: float32 [texts, labels]."""
        last = np.array([len(text) - 1 for text in texts])
        ids = np.zeros((len(texts), int(last.max()) + 1), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        keep, columns = np.unique(last, return_inverse=True)
        with self._memory(*ids.shape) as memory:
            logits = self._graph.whole(self._empty, ids, keep, memory)
        found: NDArray[np.float32] = logits[np.arange(len(texts)), columns]
        return found

    @contextmanager
    def _memory(self, texts: int, width: int) -> Iterator[Rows]:
        """Memory for the keys and values of a run, [layers, 2, texts, heads, width, channels], and of a later one."""
        layers, parts, heads, channels = self._shape
        with self._lending:
            memory = self._idle.pop() if self._idle else None
        if memory is None:
            size = layers * parts * heads * channels * max(RUN_TOKENS, MAX_CHUNK)
            memory = np.empty(size, self._graph.description.row_dtype)
        shape = (layers, parts, texts, heads, width, channels)
        try:
            yield memory[: int(np.prod(shape))].reshape(shape)
        finally:
            with self._lending:
                self._idle.append(memory)


def runs(lengths: NDArray[np.int64], places: NDArray[np.int64]) -> Iterator[list[int]]:
    """The places of texts in runs of at most RUN_TOKENS, the shortest texts first; a longer text is alone.

    A text joins those before it where the padding that it brings them costs no more than a run of its own.
    """
    run: list[int] = []
    width = 0
    for place in places[np.argsort(lengths[places], kind="stable")].tolist():
        length = int(lengths[place])
        padding = len(run) * (length - width)
        if run and (padding > RUN_COST or (len(run) + 1) * length > RUN_TOKENS):
            yield run
            run = []
        run.append(place)
        width = length
    if run:
        yield run
