"""One served model: its answers for the event loop, made by the batch that all requests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from ..runtime.answers import Ends
from ..runtime.batch_generation import BatchRequest
from ..runtime.generation import GeneratedToken
from ..runtime.generation_options import GenerationOptions
from ..runtime.merging import Delivery, Failure
from ..runtime.model import Model
from ..runtime.streaming import AnswerText
from .limits import Places
from .metrics import Metrics
from .schemas import ReasoningFormat


class Job(NamedTuple):
    """Prompts to be answered in the batch, each with its request and the text of its answer."""

    requests: list[BatchRequest]
    answers: list[AnswerText]


class Piece(NamedTuple):
    """A token, the number of its answer, and the text that became certain with it, maybe ""."""

    number: int
    text: str
    token: GeneratedToken


class Engine:
    """A model with its name and its places.

    Attributes:
        created: when it was loaded, in seconds since 1970.
        reasoning_format: of chats that do not say.
    """

    def __init__(
        self, name: str, model: Model, places: Places, metrics: Metrics, reasoning_format: ReasoningFormat = "none"
    ) -> None:
        """model: one that merges calls."""
        self.reasoning_format = reasoning_format
        self.name, self.model, self.places, self.metrics = name, model, places, metrics
        self.created = int(time.time())
        self._queues: dict[BatchRequest, asyncio.Queue[Delivery]] = {}  # of the requests under way

    def prepared(self, prompts: Sequence[Sequence[int]], options: Sequence[GenerationOptions], ends: Ends) -> Job:
        """A job. Raises OptionError for prompts or options with which no answer can begin."""
        return Job(*self.model.answers.prepared(prompts, options, ends))

    async def pieces(self, job: Job) -> AsyncGenerator[Piece]:
        """The pieces of all answers in the order in which they are made; closing it takes the rest out of the batch.

        Raises OptionError where options leave no token to choose, and PackageError where the decoder cannot be run.
        """
        deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
        index = {id(request): number for number, request in enumerate(job.requests)}
        start, left, found = time.monotonic(), set(range(len(job.requests))), False
        self._queues |= dict.fromkeys(job.requests, deliveries)
        try:
            self.model.answers.merger.put(job.requests, Deliverer(self, asyncio.get_running_loop()))
            while left:
                delivery = await deliveries.get()
                if isinstance(delivery, Failure):
                    raise delivery.error
                number = index[id(delivery.request)]
                if number not in left:
                    continue  # a stop string ended it, and the batch had gone on by a token
                if not isinstance(delivery.outcome, GeneratedToken):
                    raise delivery.outcome
                if not found:
                    found = True
                    self.metrics.first_token.labels(self.name).observe(time.monotonic() - start)
                text = job.answers[number].push(delivery.outcome, delivery.seconds)
                if job.answers[number].finished:
                    delivery.request.cancelled = True
                    left.remove(number)
                yield Piece(number, text, delivery.outcome)
        finally:
            for request in job.requests:
                request.cancelled = True
                del self._queues[request]
            self.metrics.count(self.name, job.requests, job.answers)

    def sort(self, deliveries: Sequence[Delivery]) -> None:
        """Put each delivery into the queues of its requests, but for those whose client has left."""
        for delivery in deliveries:
            requests = delivery.requests if isinstance(delivery, Failure) else [delivery.request]
            for request in requests:
                if request in self._queues:
                    self._queues[request].put_nowait(delivery)


@dataclass(frozen=True)
class Deliverer:
    """Brings the events of a step from the thread that computes to an engine in its event loop.

    Those of one engine are equal, so the events of all its jobs come at once: each call wakes the loop.
    """

    engine: Engine
    loop: asyncio.AbstractEventLoop

    def __call__(self, deliveries: Sequence[Delivery]) -> None:
        """Hand them over; the loop sorts them when its turn comes."""
        with suppress(RuntimeError):  # the loop is closed: the server was told to leave at once
            self.loop.call_soon_threadsafe(self.engine.sort, deliveries)
