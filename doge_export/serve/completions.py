"""Completions: texts or token ids in, their continuations out, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from ..runtime.generation_options import GenerationOptions
from ..runtime.tokenizer import Tokenizer
from .asked import Underway
from .chats import check_length
from .engine import Engine, Piece
from .errors import bad_request
from .fields import check_fields, for_each_answer, options_of, tokens_asked
from .limits import Limits
from .responses import Completion, FinishReason, TextChoice, TextLogprobs
from .schemas import CompletionRequest
from .tokens import TextPlaces, joined, prompt_logprobs, text_logprobs

DEFAULT_TOKENS = 16  # of a continuation, as in OpenAI's interface


@dataclass
class AskedCompletion(Underway):
    """Texts under way.

    echo: the prompt's text before each answer, none where it is not wanted.
    only_prompt: the answers are left out, as a request for no token wants them.
    keeps_space: whether an answer shows a space at its start.
    """

    echo: list[str] | None = None
    only_prompt: bool = False
    keeps_space: bool = True
    places: dict[int, TextPlaces] = field(default_factory=dict)  # of the tokens of each answer
    prompts: dict[int, TextLogprobs] = field(default_factory=dict)  # of each prompt, for all its answers

    def completion(self) -> Completion:
        """The whole response, all answers being there."""
        choices = []
        for index, answer in enumerate(self.job.answers):
            text = self._echo(index) + ("" if self.only_prompt else answer.text)
            logprobs = self._logprobs(index, is_first=True)
            choices.append(TextChoice(index=index, text=text, logprobs=logprobs, finish_reason=self._reason(index)))
        return Completion(**self.head, choices=choices, usage=self.usage())

    async def events(self) -> AsyncGenerator[str]:
        """The bodies of the events of a stream."""
        begun: set[int] = set()
        async with self.pieces() as pieces:
            async for piece in pieces:
                is_first = piece.number not in begun
                begun.add(piece.number)
                # the log-probabilities of a prompt are megabytes, for which nobody else should wait
                apart = is_first and self.echo is not None
                event = await asyncio.to_thread(self._piece, piece, True) if apart else self._piece(piece, is_first)
                if event is not None:
                    yield event
        if self.include_usage:
            yield self._event([], with_usage=True)

    def _piece(self, piece: Piece, is_first: bool) -> str | None:
        """The event of a piece, None where it brings nothing."""
        index, text = piece.number, "" if self.only_prompt else piece.text
        text = self._echo(index) + text if is_first else text
        logprobs, reason = self._logprobs(index, is_first), self._reason(index)
        if not text and reason is None and logprobs is None:
            return None
        return self._event([TextChoice(index=index, text=text, logprobs=logprobs, finish_reason=reason)])

    def _event(self, choices: list[TextChoice], with_usage: bool = False) -> str:
        chunk = Completion(**self.head, choices=choices, usage=self.usage() if with_usage else None).model_dump()
        if not self.include_usage:
            del chunk["usage"]
        return json.dumps(chunk, separators=(",", ":"))

    def _echo(self, index: int) -> str:
        return "" if self.echo is None else self.echo[index // self.per_prompt]

    def _reason(self, index: int) -> FinishReason | None:
        reason = self.job.answers[index].finish_reason
        return "length" if self.only_prompt and reason is not None else reason

    @property
    def new_tokens(self) -> int:
        """The tokens of all answers; the one that is computed behind a prompt alone is not told."""
        return 0 if self.only_prompt else super().new_tokens

    def _logprobs(self, index: int, is_first: bool) -> TextLogprobs | None:
        """Those of new tokens, the prompt's before the first of them where it is echoed."""
        new, tokenizer = self.new_logprobs(index), self.engine.model.tokenizer
        if new is None:
            return None
        if index not in self.places:
            start = len(self._echo(index))
            self.places[index] = TextPlaces(tokenizer, start=start, keeps_space=self.keeps_space)
        answer = text_logprobs(() if self.only_prompt else new, tokenizer, self.places[index])
        return joined(self._prompt_logprobs(index), answer) if is_first and self.echo is not None else answer

    def _prompt_logprobs(self, index: int) -> TextLogprobs:
        """Those of an answer's prompt, which only the first of its answers has computed."""
        number = index // self.per_prompt
        if number not in self.prompts:
            request, tokenizer = self.job.requests[number * self.per_prompt], self.engine.model.tokenizer
            text = self._echo(index)
            self.prompts[number] = prompt_logprobs(request.prompt_ids, request.prompt_logprobs, tokenizer, text)
        return self.prompts[number]


def asked_completion(body: CompletionRequest, engine: Engine, limits: Limits) -> AskedCompletion:
    """Read a request. Raises ApiError or OptionError for a field that is wrong."""
    check_fields(body)
    asked_tokens = tokens_asked(body)
    if asked_tokens == 0 and not body.echo:
        raise bad_request("max_tokens is 0; it must be at least 1, unless echo is true", "max_tokens")
    model, prompts = engine.model, prompts_of(body)
    token_ids = [model.tokenizer.encode(one) if isinstance(one, str) else one for one in prompts]
    for ids in token_ids:
        check_ids(ids, model.decoder.vocab_size)
        check_length(ids, limits, "prompt")
    most = DEFAULT_TOKENS if asked_tokens is None else max(1, asked_tokens)
    count, options = body.n or 1, options_of(body, model, most, body.logprobs)
    each: list[GenerationOptions] = for_each_answer(options, count * len(prompts))
    job = engine.prepared([ids for ids in token_ids for _ in range(count)], each, model.defaults.eos_token_ids)
    if body.echo and body.logprobs is not None:
        check_echo(sum(map(len, token_ids)) * count, limits)
        for request in job.requests[::count]:
            request.prompt_best = body.logprobs
    return AskedCompletion(
        engine,
        job,
        count,
        "cmpl",
        bool(body.stream_options and body.stream_options.include_usage),
        echo=[prompt_text(one, model.tokenizer) for one in prompts] if body.echo else None,
        only_prompt=asked_tokens == 0,
        keeps_space=options.has_form or model.tokenizer.shows_space_at_start,
    )


def check_echo(tokens: int, limits: Limits) -> None:
    """ApiError for more log-probabilities of prompts than one response may hold."""
    if tokens > limits.max_prompt_tokens:
        raise bad_request(
            f"echo with logprobs tells {tokens:,} prompt tokens over all answers, and the server takes "
            f"{limits.max_prompt_tokens:,}; give fewer prompts, a lower n or shorter texts",
            "echo",
        )


def prompts_of(body: CompletionRequest) -> Sequence[str | list[int]]:
    """The prompts of a request, which may be one text, one list of token ids, or a list of either."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    ids = [token_id for token_id in prompt if isinstance(token_id, int)]
    return [ids] if ids else [one for one in prompt if not isinstance(one, int)]


def check_ids(token_ids: Sequence[int], vocab_size: int) -> None:
    """ApiError for a token that the model does not have."""
    if max(token_ids, default=0) >= vocab_size:
        raise bad_request(f"prompt holds token {max(token_ids)}; the model has those up to {vocab_size - 1}", "prompt")


def prompt_text(prompt: str | list[int], tokenizer: Tokenizer) -> str:
    """The text of a prompt."""
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_special_tokens=False)
