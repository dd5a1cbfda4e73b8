"""Pieces of the texts of several answers that are made together.

for index, piece in model.stream(["One", "Two"]):
    texts[index] += piece
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .async_pieces import AsyncPieces
from .batch_generation import BatchRequest, Event
from .claim import Claim
from .generation import GeneratedToken
from .reasoning import Reasoning
from .streaming import ANOTHER_READER, AnswerText, GenerationResult


class BatchStream(Iterator[tuple[int, str]]):
    """Pairs of a prompt's index and the next piece of its answer, in the order in which they are made.

    The pieces of an index add up to its text. The model runs only while a piece is asked for, unless the calls of
    threads are merged. `results` is there after the last piece.
    """

    def __init__(
        self, events: Iterable[Event], requests: Sequence[BatchRequest], answers: Sequence[AnswerText]
    ) -> None:
        """events: of the requests, made when asked for. answers: that take the tokens of each request."""
        self._events, self._answers = iter(events), list(answers)
        self._requests = list(requests)
        self._index = {id(request): index for index, request in enumerate(requests)}
        self._claim = Claim(ANOTHER_READER)

    def hide_reasoning(self, reasoning: Sequence[Reasoning]) -> None:
        """Keep the traces out of the pieces, one `Reasoning` for each answer; before the first piece."""
        for answer, own in zip(self._answers, reasoning, strict=True):
            answer.hide_reasoning(own)

    def __next__(self) -> tuple[int, str]:
        """The next piece of any answer.

        Raises:
            OptionError: options leave an answer no token to choose.
            StateError: another thread reads a piece.
        """
        with self._claim:
            return self._next()

    def _next(self) -> tuple[int, str]:
        while not all(answer.finished for answer in self._answers):
            event = next(self._events)
            index = self._index[id(event.request)]
            if not isinstance(event.outcome, GeneratedToken):
                self.close()
                raise event.outcome
            answer = self._answers[index]
            if answer.finished:
                continue  # a stop string ended it, and another thread had gone on by a token
            piece = answer.push(event.outcome, event.seconds)
            if answer.finished:
                event.request.cancelled = True
            if piece:
                return index, piece
        raise StopIteration

    def close(self) -> None:
        """End all answers here."""
        for request in self._requests:
            request.cancelled = True
        self._events = iter(())

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __aiter__(self) -> AsyncPieces[tuple[int, str]]:
        """The pairs for `async for`, as those of `TextStream`."""
        return AsyncPieces(self)

    def read_all(self) -> list[GenerationResult]:
        """Run to the end; the results in the order of the prompts."""
        for _ in self:
            pass
        return self.results

    @property
    def results(self) -> list[GenerationResult]:
        """Of each prompt; RuntimeError while pieces are still to come."""
        return [answer.result for answer in self._answers]
