"""Calls from several threads, merged: their streams take their steps together, and each answers as it would alone.

One thread computes while there is anything to compute, and ends when there is not. A new stream joins between two
steps; one that is closed leaves before the next.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from queue import SimpleQueue
from typing import NamedTuple

from ..errors import DogeError, OptionError
from .batch_generation import BatchGeneration, BatchRequest, Event
from .generation import GeneratedToken, TokenDecoder
from .prefix_cache import PrefixCache


class Failure(NamedTuple):
    """The end of requests that were under way, and its reason."""

    requests: Sequence[BatchRequest]
    error: Exception


Delivery = Event | Failure
Deliver = Callable[[Sequence[Delivery]], None]


class StreamMerger:
    """Answers requests of any thread in one batch.

    Attributes:
        max_streams: that are computed at a time; more wait for a place, in the order of their coming.
        prefixes: the known beginnings of prompts, used by the thread that computes; None where there is no cache.
    """

    def __init__(self, decoder: TokenDecoder, max_streams: int, cache_mb: float = 0) -> None:
        """cache_mb: megabytes for known beginnings of prompts; see `prefix_cache`."""
        if isinstance(max_streams, bool) or not isinstance(max_streams, int) or max_streams < 1:
            raise OptionError(f"max_streams is {max_streams!r}; it must be a whole number of at least 1, or None")
        if isinstance(cache_mb, bool) or not isinstance(cache_mb, int | float) or not 0 <= cache_mb < math.inf:
            raise OptionError(f"cache_mb is {cache_mb!r}; it must be a number of megabytes, 0 for no cache")
        self.max_streams = max_streams
        self.prefixes = PrefixCache(decoder, int(cache_mb * 1e6)) if cache_mb else None
        self._decoder = decoder
        self._lock = threading.Lock()  # of the next two
        self._arriving: list[tuple[BatchRequest, Deliver]] = []
        self._worker: threading.Thread | None = None

    def tokens(self, request: BatchRequest) -> Generator[GeneratedToken]:
        """The tokens of an answer, computed from the first `next` on, whether or not they are read. `close` ends it.

        Raises OptionError where options leave no token to choose, and PackageError where the decoder cannot be run.
        """
        with closing(self.events([request])) as events:
            for event in events:
                if not isinstance(event.outcome, GeneratedToken):
                    raise event.outcome
                yield event.outcome

    def events(self, requests: Sequence[BatchRequest]) -> Generator[Event]:
        """The events of requests that are put at once, in the order in which they are made."""
        deliveries: SimpleQueue[Delivery] = SimpleQueue()

        def deliver(together: Sequence[Delivery]) -> None:
            for delivery in together:
                deliveries.put(delivery)

        self.put(requests, deliver)
        left = len(requests)
        try:
            while left:
                delivery = deliveries.get()
                if isinstance(delivery, Failure):
                    raise delivery.error
                left -= is_last(delivery)
                yield delivery
        finally:
            for request in requests:
                request.cancelled = True

    def put(self, requests: Sequence[BatchRequest], deliver: Deliver) -> None:
        """Let requests join. The thread that computes calls `deliver` once a step, with the events of its requests.

        It should return at once. Requests of equal ones are told together.

        A request whose `cancelled` is set leaves before the next step, and nothing more is delivered.
        """
        with self._lock:
            self._arriving += [(request, deliver) for request in requests]
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="doge-batch", daemon=True)
                self._worker.start()

    def _work(self) -> None:
        """Compute until no request is left; whatever goes wrong, no reader waits for ever."""
        readers: dict[BatchRequest, Deliver] = {}
        failure: Exception | None = RuntimeError("the thread that computes the streams broke off; see its traceback")
        try:
            self._compute(readers)
            failure = None
        except DogeError as error:
            failure = error
        finally:
            if failure is not None:
                self._fail(readers, failure)

    def _compute(self, readers: dict[BatchRequest, Deliver]) -> None:
        generation = BatchGeneration(self._decoder, self.max_streams, self.prefixes)
        while self._take_in(generation, readers):
            told: dict[Deliver, list[Delivery]] = {}
            for event in generation.step():
                deliver = readers.pop(event.request) if is_last(event) else readers[event.request]
                told.setdefault(deliver, []).append(event)
            for deliver, events in told.items():
                deliver(events)

    def _take_in(self, generation: BatchGeneration, readers: dict[BatchRequest, Deliver]) -> bool:
        """Let the requests that have come join, and forget those that were closed; False when nothing is left to do.

        Closed streams stay in the generation until its next step, which keeps their states for prompts to come.
        """
        for request in [request for request in readers if request.cancelled]:
            del readers[request]
        with self._lock:
            for request, deliver in self._arriving:
                generation.add(request)
                readers[request] = deliver
            self._arriving = []
            if readers or generation.busy:
                return True
            self._worker = None
            return False

    def _fail(self, readers: dict[BatchRequest, Deliver], failure: Exception) -> None:
        with self._lock:
            readers.update(self._arriving)
            self._arriving, self._worker = [], None
        told: dict[Deliver, list[BatchRequest]] = {}
        for request, deliver in readers.items():
            told.setdefault(deliver, []).append(request)
        for deliver, requests in told.items():
            deliver([Failure(requests, failure)])


def is_last(event: Event) -> bool:
    """Whether no token of this request comes after it."""
    return not isinstance(event.outcome, GeneratedToken) or event.outcome.finish_reason is not None
