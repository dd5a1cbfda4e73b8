"""Answers to many prompts at once: streams start, take their steps together, and leave when they are done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .generation import TokenBatch, TokenDecoder, TokenSelector
from .sampling import Logits
from .state import State
from .streaming import TextStream

MAX_ROWS = 16  # streams at a time; more would hardly be faster, and each needs memory for its keys and values


@dataclass
class Row:
    """A stream of the batch: the tokens of its answer, and their text."""

    selector: TokenSelector
    stream: TextStream


class BatchGeneration:
    """Generates for a list of prompts; a place that becomes free is given to the next one."""

    def __init__(
        self,
        decoder: TokenDecoder,
        selector: Callable[[Sequence[int]], TokenSelector],
        stream: Callable[[int], TextStream],
    ) -> None:
        """selector: begins an answer to a prompt. stream: begins the text of one whose prompt has so many tokens."""
        self._decoder, self._selector, self._stream = decoder, selector, stream
        self._rows: list[Row] = []

    def run(self, prompts: Sequence[Sequence[int]]) -> list[TextStream]:
        """The finished texts of prompts of at least one token each, in their order."""
        batch = self._decoder.new_batch(min(len(prompts), MAX_ROWS))
        waiting, streams = deque(prompts), []
        while waiting or self._rows:
            while waiting and len(self._rows) < MAX_ROWS:
                prompt = waiting.popleft()
                streams.append(self._stream(len(prompt)))
                self._start(batch, Row(self._selector(prompt), streams[-1]), prompt)
            self._leave_full_windows(batch)
            if self._rows:
                self._step(batch)
        return streams

    def _start(self, batch: TokenBatch, row: Row, prompt: Sequence[int]) -> None:
        """Feed a prompt; a stream that is done with its first token takes no place."""
        start = time.perf_counter()
        state = self._decoder.new_state() if len(prompt) >= self._decoder.keep_window_size else batch.open()
        in_batch = len(prompt) < self._decoder.keep_window_size
        if in_batch:
            self._rows.append(row)
        self._take(row, state, self._decoder.forward(state, np.asarray(prompt, np.int64))[-1], start)
        if not in_batch:
            self._finish_alone(row, state)
        elif row.stream.finished:
            self._close(batch, len(self._rows) - 1)

    def _step(self, batch: TokenBatch) -> None:
        """One token for every row."""
        start = time.perf_counter()
        logits = batch.forward([row.stream.last_token_id for row in self._rows])
        for row, state, row_logits in zip(self._rows, batch.states, logits, strict=True):
            self._take(row, state, row_logits, start)
        for index in reversed(range(len(self._rows))):
            if self._rows[index].stream.finished:
                self._close(batch, index)

    def _leave_full_windows(self, batch: TokenBatch) -> None:
        """Streams whose window is full go on by themselves: each evicts other keys."""
        for index in reversed(range(len(self._rows))):
            if batch.states[index].position >= self._decoder.keep_window_size:
                row, state = self._rows[index], batch.states[index].copy()
                self._close(batch, index)
                self._finish_alone(row, state)

    def _finish_alone(self, row: Row, state: State) -> None:
        while not row.stream.finished:
            start = time.perf_counter()
            fed = np.array([row.stream.last_token_id], np.int64)
            self._take(row, state, self._decoder.forward(state, fed)[-1], start)

    def _take(self, row: Row, state: State, logits: Logits, start: float) -> None:
        token = row.selector.next_token(logits, state)
        row.stream.push(token, time.perf_counter() - start)

    def _close(self, batch: TokenBatch, index: int) -> None:
        """As in the batch, the last row moves into the free place."""
        batch.close(index)
        last = self._rows.pop()
        if index < len(self._rows):
            self._rows[index] = last
