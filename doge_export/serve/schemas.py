"""The bodies of requests, as pydantic checks them and as the OpenAPI document states them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_TOKENS = 1_000_000
MOST_STOPS = 16
MOST_BEST = 20  # tokens of `top_logprobs`, as in OpenAI's interface
MOST_PROMPTS = 256

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
NonEmpty = Annotated[str, Field(min_length=1)]
ReasoningFormat = Literal["none", "deepseek"]  # leave a trace of reasoning in the content, or tell it apart
LogitBias = dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]]


class StreamOptions(BaseModel):
    """Options of a streamed answer; others are ignored."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = False


class PlainText(BaseModel):
    """Any text."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["text"]


class JsonObject(BaseModel):
    """Any JSON object; or, as in llama.cpp's server, JSON that a schema describes."""

    model_config = ConfigDict(strict=True, extra="allow", serialize_by_alias=True)

    type: Literal["json_object"]
    json_schema: dict[str, Any] | bool | None = Field(None, alias="schema")


class NamedSchema(BaseModel):
    """A JSON schema, which an answer obeys whether or not `strict` says so."""

    model_config = ConfigDict(strict=True, extra="allow", serialize_by_alias=True)

    name: str = Field(min_length=1, max_length=64)
    json_schema: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None


class JsonBySchema(BaseModel):
    """JSON that a schema describes."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[PlainText | JsonObject | JsonBySchema, Field(discriminator="type")]


class Sampling(BaseModel):
    """The fields that completions and chats share. A field that is null counts as left out."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str = Field(description="The name of a model of /v1/models.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128)
    seed: int | None = Field(None, description="Counts modulo 2**64.")
    stop: NonEmpty | Annotated[list[NonEmpty], Field(max_length=MOST_STOPS)] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    response_format: ResponseFormat | None = Field(None, description="The form of the answer.")
    logit_bias: LogitBias | None = Field(None, description="Numbers added to the logits of token ids.")
    top_k: int | None = Field(None, ge=0, le=2**31 - 1, description="Not OpenAI's; 0 is off.")
    min_p: float | None = Field(None, ge=0, le=1, description="Not OpenAI's; 0 is off.")
    repetition_penalty: float | None = Field(None, ge=0.001, le=1000, description="Not OpenAI's; 1 is off.")
    min_tokens: int | None = Field(None, ge=0, le=MOST_TOKENS, description="Not OpenAI's: the shortest answer.")
    ignore_eos: bool | None = Field(None, description="Not OpenAI's: go on behind the end of a sequence.")


class CompletionRequest(Sampling):
    """A text, or token ids, to be continued; or a list of them."""

    prompt: (
        NonEmpty
        | Annotated[list[NonEmpty], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    max_tokens: int | None = Field(None, ge=0, le=MOST_TOKENS, description="0 only with echo.")
    max_completion_tokens: int | None = Field(None, ge=0, le=MOST_TOKENS, description="The same as max_tokens.")
    logprobs: int | None = Field(None, ge=0, le=MOST_BEST)
    echo: bool | None = None


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    """The function of a call, and its arguments as a JSON object in text."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call of a function that the model asked for in an earlier answer."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """A turn of the conversation. Other fields are given to the chat template."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class FunctionTool(BaseModel):
    """A function that the model may ask to be called."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """A tool; only functions are known."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["function"]
    function: FunctionTool


class ChatRequest(Sampling):
    """A conversation to be answered."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_BEST, description="Needs logprobs.")
    tools: list[Tool] | None = Field(None, description="Where the chat template writes tools.")
    tool_choice: Literal["none", "auto"] | None = None
    reasoning_format: ReasoningFormat | None = Field(None, description="llama.cpp's: where a trace of reasoning goes.")
    include_reasoning: bool | None = Field(None, description="vLLM's; false leaves a trace of reasoning out.")
