"""Answers to many prompts at once: streams join, take their steps together, and leave when they are done.

A prompt is fed by itself, a chunk at a time between two steps of the others, so none waits longer than that. A short
prompt passes a long one that is being fed: they take their chunks in turns. A
beginning that is known from earlier prompts and answers is not fed again. Streams whose window is full go on by
themselves, as each evicts other keys.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from .cache import MAX_CHUNK
from .generation import GeneratedToken, TokenDecoder, TokenSelector
from .logprobs import TokenLogprobs, token_logprobs
from .prefix_cache import PrefixCache
from .sampling import Logits
from .state import State

MAX_ROWS = 16  # streams at a time; more would hardly be faster, and each needs memory for its keys and values
CHUNK_BESIDE = 64  # tokens of a prompt between two steps of answers: as fast as more by DogeStep, and a shorter wait


SHORT_PROMPT = MAX_CHUNK  # tokens of a prompt that need not wait for longer ones


class BatchRequest:
    """One prompt that is to be answered in a batch.

    Attributes:
        cancelled: set it to True, from any thread, and no more tokens come.
        tokens_found: of the prompt, that were known and not fed again.
        prompt_best: set it before, and `prompt_logprobs` are there with the first token, of so many best ones each.
        prompt_logprobs: of every prompt token but the first.
    """

    def __init__(self, prompt_ids: Sequence[int], selector: TokenSelector) -> None:
        """prompt_ids: at least one. selector: chooses the tokens of this answer."""
        self.prompt_ids, self.selector = list(prompt_ids), selector
        self.cancelled = False
        self.tokens_found = 0
        self.prompt_best: int | None = None
        self.prompt_logprobs: list[TokenLogprobs] = []

    @property
    def is_short(self) -> bool:
        """Whether the prompt need not wait for longer ones."""
        return len(self.prompt_ids) <= SHORT_PROMPT

    def note_prompt(self, logits: NDArray[np.float32], fed: int) -> None:
        """Take in the logits of prompt tokens, float32 [S, vocab], behind so many others."""
        assert self.prompt_best is not None
        following = self.prompt_ids[fed + 1 : fed + 1 + len(logits)]
        rows = zip(logits, following, strict=False)  # nothing follows the last
        self.prompt_logprobs += [token_logprobs(row, token_id, self.prompt_best) for row, token_id in rows]


class Event(NamedTuple):
    """The next token of a request with the seconds it took, or the error that ends this request alone."""

    request: BatchRequest
    outcome: GeneratedToken | OptionError
    seconds: float


@dataclass
class Row:
    """A stream of the batch."""

    request: BatchRequest
    state: State
    fed: int = 0
    seconds: float = 0.0  # that feeding the prompt has taken
    last_token_id: int = 0
    answer_ids: array[int] = field(default_factory=lambda: array("i"))  # where a cache of prefixes wants them


class BatchGeneration:
    """Generates for requests that are added at any time; a place that becomes free is given to the next one."""

    def __init__(self, decoder: TokenDecoder, max_rows: int, prefixes: PrefixCache | None = None) -> None:
        """max_rows: streams at a time. prefixes: known beginnings of prompts."""
        self._decoder, self._max_rows, self._prefixes = decoder, max_rows, prefixes
        self._batch = decoder.new_batch(max_rows)
        self._waiting: deque[BatchRequest] = deque()
        self._starting: list[Row] = []  # at most one short prompt and one long, the one whose turn it is in front
        self._together: list[Row] = []  # in the order of the batch's rows
        self._alone: list[Row] = []

    def add(self, request: BatchRequest) -> None:
        """Queue a request; it begins with the next step if there is room."""
        self._waiting.append(request)

    @property
    def busy(self) -> bool:
        """Whether an answer is unfinished."""
        return bool(self._waiting or self._starting or self._together or self._alone)

    def step(self) -> list[Event]:
        """At most a chunk of new prompts, then one token of every answer that is under way."""
        self._drop_cancelled()
        events = self._feed_prompts()
        self._leave_full_windows()
        events += self._step_together()
        events += self._step_alone()
        return events

    def _drop_cancelled(self) -> None:
        self._waiting = deque(request for request in self._waiting if not request.cancelled)
        for row in [row for row in self._alone if row.request.cancelled]:
            self._keep(row, row.state)
            self._alone.remove(row)
        for row in [row for row in self._starting if row.request.cancelled]:
            self._keep(row, row.state)
            self._starting.remove(row)
        for index in reversed(range(len(self._together))):
            if self._together[index].request.cancelled:
                self._close(index)

    def _feed_prompts(self) -> list[Event]:
        """Feed prompts, a chunk of tokens in all.

        They are fed in the very chunks in which each would be fed alone, unless these do not matter.
        """
        cuts_freely = self._decoder.cuts_freely
        events, room = [], CHUNK_BESIDE if cuts_freely and (self._together or self._alone) else MAX_CHUNK
        while room > 0:
            self._let_start()
            if not self._starting:
                break
            row, start = self._starting[0], time.perf_counter()
            chunk = row.request.prompt_ids[row.fed : row.fed + row.state.room_for_chunk()]
            if cuts_freely:
                chunk = chunk[:room]
            if len(chunk) > room:
                break
            logits = self._feed(row, chunk)
            row.seconds += time.perf_counter() - start
            room -= len(chunk)
            self._starting.append(self._starting.pop(0))  # the other one's turn
            if row.fed == len(row.request.prompt_ids):
                self._starting.remove(row)
                events.append(self._start(row, logits))
        return events

    def _let_start(self) -> None:
        """Begin with the first requests for which there is a place, while no other of their kind is being fed."""
        fed = {row.request.is_short for row in self._starting}
        for request in list(self._waiting):
            rows = len(self._together) + len(self._alone) + len(self._starting)
            if rows == self._max_rows or len(fed) == 2:
                return
            if request.is_short not in fed:
                self._waiting.remove(request)
                self._starting.append(self._new_row(request))
                fed.add(request.is_short)

    def _feed(self, row: Row, chunk: Sequence[int]) -> Logits:
        """Feed a chunk of a prompt: float32 [vocab] behind it."""
        wants_all = row.request.prompt_best is not None
        rows = self._decoder.forward(row.state, np.asarray(chunk, np.int64), "all" if wants_all else "last")
        if wants_all:
            row.request.note_prompt(rows, row.fed)
        row.fed += len(chunk)
        last: Logits = rows[-1]
        return last

    def _new_row(self, request: BatchRequest) -> Row:
        if self._prefixes is None or request.prompt_best is not None:
            return Row(request, self._decoder.new_state())
        state = self._prefixes.begin(request.prompt_ids)
        request.tokens_found = state.position
        return Row(request, state, state.position)

    def _keep(self, row: Row, state: State) -> None:
        """Remember the tokens that a stream holds, for prompts to come."""
        if self._prefixes is not None:
            tokens = [*row.request.prompt_ids, *row.answer_ids][: state.position]
            self._prefixes.keep(tokens, state, fed_as_prompt=state.position <= len(row.request.prompt_ids))

    def _start(self, row: Row, logits: Logits) -> Event:
        """Take the first token of an answer; a stream that is done with it takes no place."""
        self._keep(row, row.state)
        event, goes_on = self._take(row, row.state, logits, time.perf_counter() - row.seconds)
        if goes_on and row.state.position >= self._decoder.keep_window_size:
            self._alone.append(row)
        elif goes_on:
            row.state = self._batch.open(row.state)
            self._together.append(row)
        return event

    def _step_together(self) -> list[Event]:
        if not self._together:
            return []
        start, events, finished = time.perf_counter(), [], []
        logits = self._batch.forward([row.last_token_id for row in self._together])
        for index, (row, row_logits) in enumerate(zip(self._together, logits, strict=True)):
            event, goes_on = self._take(row, self._batch.states[index], row_logits, start)
            events.append(event)
            if not goes_on:
                finished.append(index)
        for index in reversed(finished):
            self._close(index)
        return events

    def _step_alone(self) -> list[Event]:
        events, left = [], []
        for row in self._alone:
            start = time.perf_counter()
            logits = self._decoder.forward(row.state, np.array([row.last_token_id], np.int64))[-1]
            event, goes_on = self._take(row, row.state, logits, start)
            events.append(event)
            if goes_on:
                left.append(row)
            else:
                self._keep(row, row.state)
        self._alone = left
        return events

    def _leave_full_windows(self) -> None:
        for index in reversed(range(len(self._together))):
            if self._batch.states[index].position >= self._decoder.keep_window_size:
                row = self._together[index]
                row.state = self._batch.states[index].copy()
                self._alone.append(row)
                self._forget(index)

    def _take(self, row: Row, state: State, logits: Logits, start: float) -> tuple[Event, bool]:
        """The event of a stream's next logits, and whether its answer goes on."""
        try:
            token = row.request.selector.next_token(logits, state)
        except OptionError as error:  # its options leave no token to choose
            return Event(row.request, error, time.perf_counter() - start), False
        row.last_token_id = token.token_id
        if self._prefixes is not None:
            row.answer_ids.append(token.token_id)
        return Event(row.request, token, time.perf_counter() - start), token.finish_reason is None

    def _close(self, index: int) -> None:
        """Give up the place of an answer that has ended."""
        self._keep(self._together[index], self._batch.states[index])
        self._forget(index)

    def _forget(self, index: int) -> None:
        """As in the batch, the last row moves into the free place."""
        self._batch.close(index)
        last = self._together.pop()
        if index < len(self._together):
            self._together[index] = last


def generate_events(decoder: TokenDecoder, requests: Sequence[BatchRequest]) -> Iterator[Event]:
    """The events of requests that are answered together, made when they are asked for."""
    generation = BatchGeneration(decoder, min(len(requests), MAX_ROWS))
    for request in requests:
        generation.add(request)
    while generation.busy:
        yield from generation.step()
