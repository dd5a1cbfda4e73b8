"""A request, read: the job that answers it, and all that its response needs to know."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ..runtime.logprobs import TokenLogprobs
from .engine import Engine, Job, Piece
from .responses import PromptDetails, Usage


@dataclass
class Underway:
    """A request under way.

    engine, job: who answers, and its prompts. per_prompt: answers of each.
    reported: tokens of each answer whose log-probabilities a stream has told already.
    """

    engine: Engine
    job: Job
    per_prompt: int
    prefix: str
    include_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    reported: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"

    @property
    def head(self) -> dict[str, Any]:
        """The fields with which every body of this response begins."""
        return {"id": self.id, "created": self.created, "model": self.engine.name}

    def pieces(self) -> aclosing[AsyncGenerator[Piece]]:
        """The pieces of all answers, for a `with` block, at whose end the rest leaves the batch."""
        return aclosing(self.engine.pieces(self.job))

    async def finish(self) -> None:
        """Wait for the last piece."""
        async with self.pieces() as pieces:
            async for _ in pieces:
                pass

    @property
    def new_tokens(self) -> int:
        """The tokens of all answers so far."""
        return sum(answer.count for answer in self.job.answers)

    def usage(self) -> Usage:
        """The tokens so far."""
        prompts = self.job.requests[:: self.per_prompt]
        prompt = sum(len(request.prompt_ids) for request in prompts)
        new = self.new_tokens
        found = sum(request.tokens_found for request in prompts)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=new,
            total_tokens=prompt + new,
            prompt_tokens_details=PromptDetails(cached_tokens=found),
        )

    def new_logprobs(self, index: int) -> Sequence[TokenLogprobs] | None:
        """Those of an answer that were not asked for before; None where the request wants none."""
        known = self.job.answers[index].logprobs
        if known is None:
            return None
        start, self.reported[index] = self.reported.get(index, 0), len(known)
        return known[start:]
