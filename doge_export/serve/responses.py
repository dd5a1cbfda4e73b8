"""The bodies of answers, whole and streamed, as they are written and as the OpenAPI document states them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptDetails(BaseModel):
    """Prompt tokens that were known from an earlier prompt or answer."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of a request; a prompt counts once, however many answers it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class BestToken(BaseModel):
    """A token and its log-probability; bytes is null for part of a character of a tokenizer without bytes."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatToken(BestToken):
    """A token of an answer, and the likeliest ones in its place."""

    top_logprobs: list[BestToken]


class ChatLogprobs(BaseModel):
    """Of the tokens of an answer."""

    content: list[ChatToken]
    refusal: None = None


class Function(BaseModel):
    """The function of a call; arguments is a JSON object in text."""

    name: str
    arguments: str


class AnsweredCall(BaseModel):
    """A call that the model asks for."""

    index: int | None = None
    id: str
    type: Literal["function"] = "function"
    function: Function


class AnswerMessage(BaseModel):
    """The answer of a chat."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: str | None = None
    refusal: None = None
    tool_calls: list[AnsweredCall] | None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str | None = None


class Delta(BaseModel):
    """The next piece of an answer; fields that bring nothing are left out."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[AnsweredCall] | None = None


class ChatChunkChoice(BaseModel):
    """A piece of one of the answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    """An event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str | None = None


class TextLogprobs(BaseModel):
    """Of the tokens of a text, that of an echoed prompt before the answer's."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One of the texts; finish_reason is null in a stream until the text ends."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """The continued texts, or an event of a stream of them."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None
    system_fingerprint: str | None = None


class ModelCard(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["doge-export"] = "doge-export"
    max_model_len: int


class ModelList(BaseModel):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"
