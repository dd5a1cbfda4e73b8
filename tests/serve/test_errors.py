"""A request that is wrong gets one sentence, with the field, in the shape of OpenAI's errors."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from doge_export.runtime.generation_options import GenerationOverrides
from doge_export.serve.errors import BRANCH, ApiError
from doge_export.serve.schemas import ChatRequest, CompletionRequest, Sampling
from doge_export.serve.unknown_fields import refuse_unknown
from tests.helpers.serving import NAME, bigram_model, served

HELLO = [{"role": "user", "content": "Hello"}]
CHAT: dict[str, Any] = {"model": NAME, "messages": HELLO, "max_tokens": 3}
TEXT: dict[str, Any] = {"model": NAME, "prompt": "Hello", "max_tokens": 3}
DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]

MANY_CHOICES = {"type": "json_object", "schema": {"allOf": [{"anyOf": [{}, {}]}] * 40}}
WRONG: list[tuple[dict[str, Any], str, str]] = [
    (CHAT | {"model": "other"}, "model", "there is no model 'other'"),
    ({"messages": HELLO}, "model", "field required"),
    (CHAT | {"messages": []}, "messages", "at least 1 item"),
    (CHAT | {"messages": "Hello"}, "messages", "valid list"),
    (CHAT | {"messages": [{"role": "king", "content": "a"}]}, "messages[0].role", "'system', 'developer'"),
    (CHAT | {"messages": [{"role": "user"}]}, "messages[0].content", "content is missing"),
    (
        CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0].type",
        "text",
    ),
    (CHAT | {"temperature": "hot"}, "temperature", "valid number"),
    (CHAT | {"temperature": -1}, "temperature", "greater than or equal to 0"),
    (CHAT | {"temperature": True}, "temperature", "valid number"),
    (CHAT | {"top_p": 0}, "top_p", "greater than 0"),
    (CHAT | {"n": 0}, "n", "greater than or equal to 1"),
    (CHAT | {"n": 100}, "n", "asks for 100 answers, and the server takes 72 at most"),
    (CHAT | {"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    (CHAT | {"max_tokens": 1.5}, "max_tokens", "valid integer"),
    (CHAT | {"max_completion_tokens": 4}, "max_tokens", "differ; give one of them"),
    (CHAT | {"stop": ""}, "stop", "at least 1 character"),
    (CHAT | {"stop": ["a", ""]}, "stop[1]", "at least 1 character"),
    (CHAT | {"seed": 1.5}, "seed", "valid integer"),
    (CHAT | {"top_logprobs": 3}, "top_logprobs", "goes with logprobs: true"),
    (CHAT | {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    (CHAT | {"logit_bias": {"a": 1}}, "logit_bias.a", "pattern"),
    (CHAT | {"logit_bias": {"300": 1}}, "logit_bias", "names token 300; the model has those up to 258"),
    (CHAT | {"stream_options": {"include_usage": True}}, "stream_options", "goes with stream: true"),
    (CHAT | {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "template writes no tools"),
    (CHAT | {"tool_choice": "auto"}, "tool_choice", "needs tools"),
    (CHAT | {"best_of": 3}, "best_of", "not supported here and would change the answer"),
    (CHAT | {"temprature": 0.3}, "temprature", "'temperature' may be meant"),
    (TEXT | {"prompt": ""}, "prompt", "at least 1 character"),
    (TEXT | {"prompt": []}, "prompt", "at least 1 item"),
    (TEXT | {"prompt": [1, 259]}, "prompt", "holds token 259; the model has those up to 258"),
    (TEXT | {"prompt": ["a"] * 73}, "prompt", "asks for 73 answers"),
    (TEXT | {"max_tokens": 0}, "max_tokens", "must be at least 1, unless echo is true"),
    (TEXT | {"max_completion_tokens": 0}, "max_tokens", "max_completion_tokens differ"),
    (TEXT | {"suffix": "end"}, "suffix", "not supported"),
    (TEXT | {"max_new_tokens": 5}, "max_new_tokens", "give max_tokens in its place"),
    (TEXT | {"tools": [{}]}, "tools", "not supported here"),
    (TEXT | {"top_logprobs": 3}, "top_logprobs", "give logprobs in its place"),
    (CHAT | {"prompt": "a"}, "prompt", "not supported here"),
    (CHAT | {"parallel_tool_calls": False}, "parallel_tool_calls", "not supported here"),
    (CHAT | {"topP": 0.5}, "topP", "there is no field 'topP'; 'top_p' may be meant"),
    (CHAT | {"maxTokens": 5}, "maxTokens", "'max_tokens' may be meant"),
    (CHAT | {"doSample": True}, "doSample", "doSample is not supported here"),
    (CHAT | {"max_new_token": 5}, "max_new_token", "if max_new_tokens is meant, give max_tokens in its place"),
    (CHAT | {"temp": 1}, "temp", "give temperature in its place"),
    (CHAT | {"adapter": "x"}, "adapter", "name it in model, as FOLDER:NAME"),
    (CHAT | {"response_format": {"type": "text", "grammar": "a"}}, "response_format.grammar", "with the type text"),
    (CHAT | {"extra_body": {"top_k": 1}}, "extra_body", "would change the answer; give its fields beside the others"),
    (CHAT | {"sampling_params": {"top_k": 1}}, "sampling_params", "give its fields beside the others"),
    (CHAT | {"bias": {"5": 1}}, "bias", "give logit_bias in its place"),
    (CHAT | {"penalty": 1.1}, "penalty", "give repetition_penalty, presence_penalty or frequency_penalty"),
    (CHAT | {"stop_sequences": ["a"]}, "stop_sequences", "give stop in its place"),
    (CHAT | {"response_format": MANY_CHOICES}, "response_format", "combines too many schemas"),
]
OF_OTHERS = [
    "min_new_tokens",
    "max_length",
    "regex",
    "grammar",
    "top_n_sigma",
    "tfs_z",
    "repeat_last_n",
    "n_probs",
    "suppress_tokens",
    "eos_token_id",
    "stop_strings",
    "guidance_scale",
    "diversity_penalty",
    "eta_cutoff",
    "epsilon_cutoff",
    "prompt_embeds",
    "structural_tag",
    "format",
]


def post(address: str, body: dict[str, Any]) -> httpx.Response:
    path = "chat/completions" if "messages" in body else "completions"
    return httpx.post(f"{address}/v1/{path}", json=body)


@pytest.mark.parametrize(("body", "param", "words"), WRONG, ids=str)
def test_the_field_that_is_wrong_is_named(body: dict[str, Any], param: str, words: str, address: str) -> None:
    response = post(address, body)
    error = response.json()["error"]
    assert response.status_code == (404 if param == "model" and "model" in body else 400)
    assert words in error["message"] and "\n" not in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize("schema", [ChatRequest, CompletionRequest])
def test_no_option_of_the_library_and_no_field_of_the_other_path_is_ignored(schema: type[Sampling]) -> None:
    names = {*GenerationOverrides.__annotations__, *ChatRequest.model_fields, *CompletionRequest.model_fields}
    for name in {*names, *OF_OTHERS} - {*schema.model_fields, "prompt_lookup_num_tokens"}:
        with pytest.raises(ApiError, match=f"{name} is not supported here"):
            refuse_unknown({name: 5}, schema.model_fields)


def test_a_completion_knows_both_names_of_its_length(address: str) -> None:
    body = {name: value for name, value in TEXT.items() if name != "max_tokens"}
    for length in (1, 3):
        answer = post(address, body | {"max_completion_tokens": length}).json()
        assert answer["usage"]["completion_tokens"] == length and answer["choices"][0]["finish_reason"] == "length"


NEUTRAL: list[dict[str, Any]] = [
    {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True},
    {"best_of": 1, "suffix": None, "response_format": {"type": "text"}, "stop": None, "logit_bias": None, "seed": None},
    {
        "something_else": DEEP,
        "safety_identifier": "a",
        "prompt_cache_key": "b",
        "mirostat_tau": 5.0,
        "num_beams": 1,
        "extra_body": {},
        "sampling_params": None,
    },
]


@pytest.mark.parametrize("fields", NEUTRAL, ids=range(3))
def test_fields_that_change_nothing_are_ignored(fields: dict[str, Any], address: str) -> None:
    expected = post(address, TEXT).json()["choices"]
    assert post(address, TEXT | fields).json()["choices"] == expected


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"a"', b"null", b"\xff\xfe", b'{"model": "\\ud800"}', b"[" * 100_000, b"{" * 5000]
)
def test_a_body_that_is_no_object_is_refused(content: bytes, address: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{address}/v1/completions", content=content, headers=headers)
    assert response.status_code == 400 and response.json()["error"]["message"]


def test_numbers_that_are_none_are_refused(address: str) -> None:
    content = b'{"model": "bigram", "prompt": "a", "temperature": NaN}'
    response = httpx.post(f"{address}/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400


def test_a_body_without_the_header_of_json_is_refused(address: str) -> None:
    response = httpx.post(f"{address}/v1/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert response.status_code == 400 and "Content-Type: application/json" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405), ("GET", "/../../etc/passwd", 404)],
)
def test_paths_that_are_not_there_have_the_shape_of_errors(method: str, path: str, status: int, address: str) -> None:
    response = httpx.request(method, address + path)
    error = response.json()["error"]
    assert response.status_code == status and error["type"] == "invalid_request_error"
    assert error["message"].endswith("is not offered; /openapi.json has the paths")


def test_a_model_without_template_answers_completions_only() -> None:
    with served({NAME: bigram_model(2, template=None)}) as address:
        assert post(address, TEXT).status_code == 200
        error = post(address, CHAT).json()["error"]
    assert "has no chat template; use /v1/completions" in error["message"] and error["code"] == "no_chat_template"


def test_no_field_has_the_name_of_a_branch_of_a_union() -> None:
    names = [*ChatRequest.model_fields, *CompletionRequest.model_fields]
    assert not [name for name in names if BRANCH.fullmatch(name)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "the body cannot be read, as it nests lists"),
        ('{"model": "caf\u00e9"}'.encode("latin-1"), "the body is not in UTF-8"),
        (b'{"n": ' + b"1" * 5000 + b"}", "the body cannot be read as JSON (Exceeds the limit"),
    ],
    ids=["deep", "latin-1", "a long number"],
)
def test_a_body_that_cannot_be_read_is_one_sentence(content: bytes, message: str, address: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{address}/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(message)


def test_half_a_character_in_a_message_is_refused_with_its_field(address: str) -> None:
    content = json.dumps(CHAT | {"messages": [{"role": "user", "content": "\ud800"}]})
    response = httpx.post(
        f"{address}/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
    )
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == "messages"
    assert "half a character" in error["message"]


def test_messages_that_the_template_refuses_are_named() -> None:
    with served({NAME: bigram_model(1, "{{ raise_exception('no such turn') }}")}) as address:
        error = post(address, CHAT).json()["error"]
    assert error["param"] == "messages" and "no such turn" in error["message"]


def test_head_of_the_health_has_no_body(address: str) -> None:
    response = httpx.head(f"{address}/health")
    assert (response.status_code, response.content) == (200, b"")
    assert "head" not in httpx.get(f"{address}/openapi.json").json()["paths"]["/health"]
