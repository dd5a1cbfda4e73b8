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
from .state import State
from .step_graph import StepGraph, step_description

RUN_TOKENS = 512  # of one run, padding too, and MAX_CHUNK or more; larger runs were no faster
RUN_COST = 8  # tokens of padding that are as good as the start of another run

Tokens = NDArray[np.int64]


class ClassifierStep:
    """See `LabelGraph`.

    Several threads take a run each, which waits for nobody. A lone run has all of them within the operator.
    """

    def __init__(self, folder: Path, threads: int, library: Path) -> None:
        """Open the graph of an exported folder that has one.

        library: the operator's.

        Raises:
            PackageError: onnxruntime refuses, or the folder is not one of ours.
        """
        self._path, self._library = folder / CLASSIFIER_STEP_FILE, library
        self.description, self.threads = ClassifierDescription.from_graph(self._path), threads
        self._graph = self._opened(threads)
        self._beside = self._graph if threads == 1 else None  # of one thread, opened when it is first needed
        self.kernels = self._graph.kernels
        self._empty = State(self._graph.description)
        self._idle, self._lending = list[Rows](), threading.Lock()

    def logits(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Bit by bit the same for a text, whatever others there are, and on any number of threads.

        Raises:
            OptionError: a text is too long.
            PackageError: onnxruntime refuses.
        """
        out = np.empty((len(rows), self.description.num_labels), np.float32)
        texts = [self._counted(row) for row in rows]
        lengths = np.array([len(text) for text in texts], np.int64)
        work = [*runs(lengths, self._most), *([place] for place in np.flatnonzero(lengths > self._most).tolist())]
        sizes = [len(places) * int(lengths[places].max()) for places in work]
        if self.threads == 1 or not work or max(sizes) * self.threads > sum(sizes):
            for places in work:
                out[places] = self._run(self._graph, [texts[place] for place in places])
            return out
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - see `AsyncPieces`

        graph = self._of_one_thread()
        work = [work[index] for index in np.argsort(sizes)[::-1]]  # the longest first: no thread has it left at the end
        with ThreadPoolExecutor(self.threads) as pool:
            found = pool.map(lambda places: self._run(graph, [texts[place] for place in places]), work)
            for places, logits in zip(work, found, strict=True):
                out[places] = logits
        return out

    def _opened(self, threads: int) -> StepGraph:
        """The graph on so many threads."""
        session = open_session(self._path, threads, self._library)
        description = step_description(session, self._path)
        return StepGraph.over(session, self._library, description, columns=self.description.num_labels)

    def _of_one_thread(self) -> StepGraph:
        """The graph for runs beside each other."""
        with self._lending:
            if self._beside is None:
                self._beside = self._opened(1)
            return self._beside

    @property
    def _most(self) -> int:
        """Tokens of a text that is one run."""
        return min(MAX_CHUNK, self.description.keep_window_size)

    def _counted(self, row: Sequence[int]) -> Tokens:
        """A text up to the token whose logits count, the last that is no padding; those behind it change nothing."""
        longest = self.description.longest
        if longest and len(row) > longest:
            raise OptionError(f"a text has {len(row)} tokens; it must have at most {longest}: shorten it")
        ids = np.array(row, np.int64)
        counting = np.flatnonzero(ids != self.description.pad_token_id)
        return ids[: int(counting[-1]) + 1 if len(counting) else 1]

    def _run(self, graph: StepGraph, texts: Sequence[Tokens]) -> NDArray[np.float32]:
        """A long text by itself, or others together: float32 [texts, labels]."""
        if len(texts[0]) > self._most:
            return Decoder.over(graph, self.threads).forward(State(graph.description), texts[0])
        last = np.array([len(text) - 1 for text in texts])
        ids = np.zeros((len(texts), int(last.max()) + 1), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        keep, columns = np.unique(last, return_inverse=True)
        with self._memory(*ids.shape) as memory:
            logits = graph.whole(self._empty, ids, keep, memory)
        found: NDArray[np.float32] = logits[np.arange(len(texts)), columns]
        return found

    @contextmanager
    def _memory(self, texts: int, width: int) -> Iterator[Rows]:
        """Memory for the keys and values of a run, [layers, 2, texts, heads, width, channels], and of a later one."""
        d = self._graph.description
        with self._lending:
            memory = self._idle.pop() if self._idle else None
        if memory is None:
            memory = np.empty(d.num_layers * 2 * d.num_kv_heads * d.row_width * RUN_TOKENS, d.row_dtype)
        shape = (d.num_layers, 2, texts, d.num_kv_heads, width, d.row_width)
        try:
            yield memory[: int(np.prod(shape))].reshape(shape)
        finally:
            with self._lending:
                self._idle.append(memory)


def runs(lengths: NDArray[np.int64], most: int) -> Iterator[list[int]]:
    """The places of texts of at most so many tokens, in runs of at most RUN_TOKENS, the shortest texts first.

    A text joins those before it where the padding that it brings them costs no more than a run of its own.
    """
    run: list[int] = []
    width = 0
    order = np.argsort(lengths, kind="stable")
    for place in order[lengths[order] <= most].tolist():
        length = int(lengths[place])
        padding = len(run) * (length - width)
        if run and (padding > RUN_COST or (len(run) + 1) * length > RUN_TOKENS):
            yield run
            run = []
        run.append(place)
        width = length
    if run:
        yield run
