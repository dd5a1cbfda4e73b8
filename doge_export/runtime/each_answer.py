"""Answers of any number of prompts, each handed on when it is done: as many as fit are computed together.

An answer that fails ends alone. Prompts are taken as places become free, so they may come from a file of any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import OptionError
from .batch_generation import MAX_ROWS, BatchGeneration, BatchRequest
from .generation import GeneratedToken, TokenDecoder
from .streaming import AnswerText, GenerationResult

AHEAD = 4  # prompts that wait, so that none of the places stays free for a step
MOST_AHEAD = 1024  # prompts from the first unfinished one on; whoever hands answers on in order keeps no more of them


class Question(NamedTuple):
    """A prompt that was read, and the taker of its answer's tokens."""

    request: BatchRequest
    answer: AnswerText


# the number of a prompt, from 0, and its answer or the reason for none
Outcome = tuple[int, GenerationResult | OptionError]


def each_outcome(decoder: TokenDecoder, questions: Iterable[Question | OptionError]) -> Iterator[Outcome]:
    """The outcome of each question, in the order in which they are done.

    No question is taken that is MOST_AHEAD or more behind one that is unfinished.
    """
    generation = BatchGeneration(decoder, MAX_ROWS)
    running: dict[BatchRequest, tuple[int, AnswerText]] = {}
    numbered, number = enumerate(questions), -1
    while True:
        while _has_room(running, number + 1) and (pair := next(numbered, None)) is not None:
            number, question = pair
            if isinstance(question, OptionError):
                yield number, question
            else:
                running[question.request] = number, question.answer
                generation.add(question.request)
        if not running:
            return
        for request, outcome, seconds in generation.step():
            if request not in running:
                continue  # a stop string has ended it in this very step
            ended, answer = running[request]
            if not isinstance(outcome, GeneratedToken):
                del running[request]
                yield ended, outcome
                continue
            answer.push(outcome, seconds)
            if answer.finished:
                del running[request]
                request.cancelled = True
                yield ended, answer.result


def _has_room(running: dict[BatchRequest, tuple[int, AnswerText]], number: int) -> bool:
    """Whether the question of this number may be taken beside those that run, the first one in front."""
    first, _ = next(iter(running.values()), (number, None))
    return len(running) < MAX_ROWS + AHEAD and number - first < MOST_AHEAD
