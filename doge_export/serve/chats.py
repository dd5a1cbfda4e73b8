"""Chats: a conversation in, answers or calls of functions out, whole or as a stream of events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from ..errors import OptionError
from ..runtime.model import Model
from ..runtime.streaming import AnswerText
from .asked import Underway
from .calls import check_tools, read_calls, template_messages
from .engine import Engine, Piece
from .errors import bad_request
from .fields import check_fields, for_each_answer, options_of, tokens_asked
from .limits import Limits
from .responses import (
    AnsweredCall,
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
    FinishReason,
)
from .schemas import ChatRequest
from .tokens import chat_logprobs

DEFAULT_TOKENS = 512  # of an answer, as in doge-chat, where neither the request nor the folder says


class AskedChat(Underway):
    """A chat under way.

    Attributes:
        reads_calls: whether an answer may be calls of functions; then a stream tells it at its end.
        tells_reasoning: whether a trace that is hidden from the content is told beside it.
    """

    reads_calls = False
    tells_reasoning = True

    def completion(self) -> ChatCompletion:
        """The whole response, all answers being there."""
        choices = [self._choice(index, answer) for index, answer in enumerate(self.job.answers)]
        return ChatCompletion(**self.head, choices=choices, usage=self.usage())

    async def events(self) -> AsyncGenerator[str]:
        """The bodies of the events of a stream."""
        for index in range(len(self.job.answers)):
            yield self._event(index, Delta(role="assistant", content=""))
        async with self.pieces() as pieces:
            async for piece in pieces:
                for event in self._events_of(piece):
                    yield event
        if self.include_usage:
            chunk = ChatChunk(**self.head, choices=[], usage=self.usage())
            yield json.dumps(chunk.model_dump(), separators=(",", ":"))

    def _events_of(self, piece: Piece) -> Iterator[str]:
        index, answer = piece.number, self.job.answers[piece.number]
        logprobs, text = self._logprobs(index), "" if self.reads_calls else piece.text
        if self.tells_reasoning and (trace := answer.new_reasoning()):
            yield self._event(index, Delta(reasoning_content=trace))
        if self.reads_calls and answer.finished:
            content, calls, reason = self._parsed(answer)
            yield self._event(index, Delta(content=content, tool_calls=calls), logprobs)
            yield self._event(index, Delta(), None, reason)
            return
        if text or (logprobs and logprobs.content):
            yield self._event(index, Delta(content=text), logprobs)
        if answer.finished:
            yield self._event(index, Delta(), None, answer.finish_reason)

    def _choice(self, index: int, answer: AnswerText) -> ChatChoice:
        content, calls, reason = self._parsed(answer)
        trace = answer.reasoning if self.tells_reasoning else None
        message = AnswerMessage(content=content, reasoning_content=trace, tool_calls=calls)
        return ChatChoice(index=index, message=message, logprobs=self._logprobs(index), finish_reason=reason)

    def _parsed(self, answer: AnswerText) -> tuple[str | None, list[AnsweredCall] | None, FinishReason]:
        assert answer.finish_reason is not None
        content, calls = read_calls(answer.text) if self.reads_calls else (answer.text, [])
        if calls:
            return content or None, calls, "tool_calls"
        return content, None, answer.finish_reason

    def _logprobs(self, index: int) -> ChatLogprobs | None:
        new = self.new_logprobs(index)
        return None if new is None else chat_logprobs(new, self.engine.model.tokenizer)

    def _event(
        self, index: int, delta: Delta, logprobs: ChatLogprobs | None = None, reason: FinishReason | None = None
    ) -> str:
        # a delta leaves out the fields that bring nothing, as OpenAI's does; clients add up those that are there
        choice: dict[str, Any] = {
            "index": index,
            "delta": delta.model_dump(exclude_none=True),
            "logprobs": None if logprobs is None else logprobs.model_dump(),
            "finish_reason": reason,
        }
        chunk = ChatChunk(**self.head, choices=[ChatChunkChoice(index=index, delta=Delta())]).model_dump()
        chunk["choices"] = [choice]
        if not self.include_usage:
            del chunk["usage"]
        return json.dumps(chunk, separators=(",", ":"))


def asked_chat(body: ChatRequest, engine: Engine, limits: Limits) -> AskedChat:
    """Read a request. Raises ApiError or OptionError for a field that is wrong."""
    check_chat_fields(body)
    model = engine.model
    tools = check_tools(body, model.chat_prompt.template) if model.has_chat_template else None
    if not model.has_chat_template:
        raise bad_request(
            f"the model {engine.name} has no chat template; use /v1/completions", "model", "no_chat_template"
        )
    prompt, messages = model.chat_prompt, template_messages(body.messages)
    try:
        token_ids = prompt.encode(prompt.render(messages, tools=tools))
    except OptionError as error:  # of the template, or of a text that is none
        raise bad_request(str(error), "messages") from error
    check_length(token_ids, limits, "messages")
    options = options_of(body, model, most_tokens(body, model), (body.top_logprobs or 0) if body.logprobs else None)
    count = body.n or 1
    job = engine.prepared([token_ids] * count, for_each_answer(options, count), model.turn_ends)
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    asked = AskedChat(engine, job, count, "chatcmpl", include_usage)
    asked.reads_calls = bool(tools)
    hide_reasoning(body, engine, asked)
    return asked


def hide_reasoning(body: ChatRequest, engine: Engine, asked: AskedChat) -> None:
    """Keep traces out of the content where that is wanted; ApiError where nobody can tell them."""
    asked.tells_reasoning = body.include_reasoning is not False
    hides = (body.reasoning_format or engine.reasoning_format) == "deepseek" or not asked.tells_reasoning
    if not hides:
        return
    for request, answer in zip(asked.job.requests, asked.job.answers, strict=True):
        try:
            answer.hide_reasoning(engine.model.reasoning_of(request.prompt_ids))
        except OptionError as error:
            param = "reasoning_format" if asked.tells_reasoning else "include_reasoning"
            raise bad_request(f"{param} cannot part a trace from the content: {error}", param) from error


def check_chat_fields(body: ChatRequest) -> None:
    """ApiError for fields that are unknown, or that do not go together."""
    check_fields(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_request("top_logprobs goes with logprobs: true; give that too", "top_logprobs")


def most_tokens(body: ChatRequest, model: Model) -> int:
    """The longest answer: the request's, else the folder's, else that of doge-chat."""
    given = tokens_asked(body)
    if given is not None:
        return given
    stated = "max_new_tokens" in model.defaults.stated
    return model.defaults.options.max_new_tokens if stated else DEFAULT_TOKENS


def check_length(token_ids: list[int], limits: Limits, param: str) -> None:
    """ApiError for a prompt that is longer than the server takes."""
    if len(token_ids) > limits.max_prompt_tokens:
        raise bad_request(
            f"{param} makes {len(token_ids):,} tokens, and the server takes {limits.max_prompt_tokens:,}; give less",
            param,
            "context_length_exceeded",
        )
