"""From the fields of a request to the options of generation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..runtime.generation_options import GenerationOptions, GenerationOverrides
from ..runtime.model import Model
from ..runtime.option_rules import SMALLEST_TEMPERATURE
from .errors import bad_request
from .schemas import ChatRequest, CompletionRequest, JsonBySchema, PlainText, ResponseFormat, Sampling
from .unknown_fields import refuse_unknown

NAMES_OF_A_FORM = ("description", "name", "strict")  # which change nothing, wherever in it they stand
SEEDS = 2**64  # a negative seed counts from the end of these


def check_fields(body: ChatRequest | CompletionRequest) -> None:
    """ApiError for fields that are unknown, or that do not go together."""
    refuse_unknown(body.model_extra or {}, type(body).model_fields)
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options goes with stream: true; leave it out", "stream_options")
    both = body.max_tokens, body.max_completion_tokens
    if None not in both and both[0] != both[1]:
        raise bad_request("max_tokens and max_completion_tokens differ; give one of them", "max_tokens")


def tokens_asked(body: ChatRequest | CompletionRequest) -> int | None:
    """The longest answer that a request asks for; None where it says nothing."""
    return body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens


def options_of(body: Sampling, model: Model, max_new_tokens: int, logprobs: int | None) -> GenerationOptions:
    """The options of the first answer of each prompt; OptionError for one that is not allowed.

    logprobs: likeliest tokens to report in the place of each; None reports nothing.
    """
    bias = {int(token_id): number for token_id, number in (body.logit_bias or {}).items()}
    for token_id in bias:
        if token_id >= model.decoder.vocab_size:
            raise bad_request(
                f"logit_bias names token {token_id}; the model has those up to {model.decoder.vocab_size - 1}",
                "logit_bias",
            )
    overrides: GenerationOverrides = {
        "max_new_tokens": max_new_tokens,
        "temperature": None if body.temperature is None else near_zero_is_greedy(body.temperature),
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "logit_bias": bias or None,
        "stop": body.stop or None,
        "ignore_eos": body.ignore_eos,
        "min_new_tokens": body.min_tokens,
        "seed": None if body.seed is None else body.seed % SEEDS,
        "logprobs": logprobs,
        "json_schema": form_of(body.response_format),
    }
    return replace(model.options(**overrides), prompt_lookup_num_tokens=0)  # changes no answer, and a batch has none


def form_of(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    """The JSON schema of an answer; None where it may be any text. ApiError for parts of the form that are unknown."""
    if wanted is None:
        return None
    for name, value in (wanted.model_extra or {}).items():
        if value is not None and name not in NAMES_OF_A_FORM:
            place = f"response_format.{name[:64]}"
            raise bad_request(f"{place} is not supported with the type {wanted.type}; leave it out", place)
    if isinstance(wanted, PlainText):
        return None
    schema: dict[str, Any] | bool | None
    if isinstance(wanted, JsonBySchema):
        place, schema = "response_format.json_schema.schema", wanted.json_schema.json_schema
    else:
        place, schema = "response_format.schema", wanted.json_schema
    if schema is False:
        raise bad_request("the schema false describes no answer; give another", place)
    if schema is None:
        return {"type": "object"}
    return {} if schema is True else schema


def near_zero_is_greedy(temperature: float) -> float:
    """The temperature; below the smallest one that can be divided by, sampling is greedy in all but name."""
    return temperature if temperature >= SMALLEST_TEMPERATURE else 0.0


def for_each_answer(options: GenerationOptions, count: int) -> list[GenerationOptions]:
    """The options of several answers; one seed gives answer i the seed + i, as the library does."""
    if options.seed is None:
        return [options] * count
    return [replace(options, seed=options.seed + index) for index in range(count)]
