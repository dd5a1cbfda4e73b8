"""Answers with a shape, and calls of functions."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from doge_export.runtime.model import Model
from doge_export.serve.calls import read_calls
from tests.helpers.fakes import CHATML, defaults_for
from tests.helpers.serving import NAME, bigram_model, served

CHAT: list[Any] = [{"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["rain", "sun"]}, "degrees": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "degrees"],
    "additionalProperties": False,
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_obeys_its_schema_and_is_the_library_s(seed: int, client: openai.OpenAI, alone: Model) -> None:
    answer = client.chat.completions.create(
        model=NAME, messages=CHAT, response_format=FORM, temperature=1.5, seed=seed, max_tokens=200
    )
    text = answer.choices[0].message.content
    assert text == alone.chat(CHAT, json_schema=SCHEMA, temperature=1.5, seed=seed, max_new_tokens=200).text
    jsonschema.validate(json.loads(text or ""), SCHEMA)


def test_a_stream_obeys_its_schema(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=NAME, messages=CHAT, response_format=FORM, temperature=1.5, seed=1, max_tokens=200, stream=True
    )
    jsonschema.validate(json.loads("".join(chunk.choices[0].delta.content or "" for chunk in stream)), SCHEMA)


def test_a_json_object_is_one(client: openai.OpenAI, alone: Model) -> None:
    form: Any = {"type": "json_object"}
    answer = client.chat.completions.create(model=NAME, messages=CHAT, response_format=form, max_tokens=20, seed=1)
    text = answer.choices[0].message.content or ""
    assert text.startswith("{")
    assert text == alone.chat(CHAT, json_schema={"type": "object"}, max_new_tokens=20).text


def test_a_json_object_may_have_a_schema_as_in_llama_cpp(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_object", "schema": SCHEMA}
    answer = client.chat.completions.create(model=NAME, messages=CHAT, response_format=form, max_tokens=200, seed=1)
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), SCHEMA)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "json_object", "schema": {"type": "nonsense"}}, "response_format"),
        ({"type": "json_object", "schema": False}, "response_format.schema"),
        ({"type": "json_object", "schema": {"type": "integer", "multipleOf": 2**31}}, "response_format"),
        ({"type": "json_object", "json_schema": {"name": "a", "schema": {}}}, "response_format.json_schema"),
        ({"type": "xml"}, "response_format"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}, "response_format"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": False}}, "response_format.json_schema.schema"),
    ],
    ids=str,
)
def test_a_form_that_cannot_be_followed_is_refused(form: Any, param: str, address: str) -> None:
    body = {"model": NAME, "messages": CHAT, "response_format": form}
    response = httpx.post(f"{address}/v1/chat/completions", json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == param


TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}}}
]
WITH_TOOLS = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{# answers have <tool_call> #}" + CHATML
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def tool_address() -> Any:
    from tests.helpers.fakes import ScriptedDecoder, byte_level_tokenizer

    tokenizer = byte_level_tokenizer(WITH_TOOLS)
    decoder = ScriptedDecoder(tokenizer.encode(CALL + "<|im_end|>"), 259)
    with served({NAME: Model(decoder, tokenizer, defaults_for(tokenizer), NAME, 1)}) as address:
        yield address


def test_a_call_is_read_from_the_answer(tool_address: str) -> None:
    client = openai.OpenAI(base_url=f"{tool_address}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.create(model=NAME, messages=CHAT, tools=TOOLS, tool_choice="auto")
    choice, calls = answer.choices[0], answer.choices[0].message.tool_calls or []
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    functions = [call.function for call in calls if call.type == "function"]
    assert [(function.name, json.loads(function.arguments)) for function in functions] == [("add", {"a": 1})]
    prompt = json.dumps(TOOLS[0]) + "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    special = ["<|im_start|>", "<|im_end|>"]
    length = len(prompt) - sum(prompt.count(text) * (len(text) - 1) for text in special)
    assert answer.usage is not None and answer.usage.prompt_tokens == length


def test_a_stream_tells_the_call_at_its_end(tool_address: str) -> None:
    client = openai.OpenAI(base_url=f"{tool_address}/v1", api_key="none", max_retries=0)
    chunks = list(client.chat.completions.create(model=NAME, messages=CHAT, tools=TOOLS, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [call.function.name for call in calls if call.function] == ["add"] and calls[0].index == 0
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert not "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_the_result_of_a_call_goes_back(tool_address: str) -> None:
    client = openai.OpenAI(base_url=f"{tool_address}/v1", api_key="none", max_retries=0)
    first = client.chat.completions.create(model=NAME, messages=CHAT, tools=TOOLS).choices[0].message
    call = (first.tool_calls or [])[0]
    messages: list[Any] = [*CHAT, first, {"role": "tool", "tool_call_id": call.id, "content": "2"}]
    assert client.chat.completions.create(model=NAME, messages=messages, tools=TOOLS).choices


def test_no_tools_are_written_where_none_may_be_called(tool_address: str) -> None:
    client = openai.OpenAI(base_url=f"{tool_address}/v1", api_key="none", max_retries=0)
    plain = client.chat.completions.create(model=NAME, messages=CHAT)
    none = client.chat.completions.create(model=NAME, messages=CHAT, tools=TOOLS, tool_choice="none")
    assert plain.usage is not None and none.usage is not None
    assert plain.usage.prompt_tokens == none.usage.prompt_tokens
    assert none.choices[0].message.content == CALL


@pytest.mark.parametrize(
    ("text", "names", "content"),
    [
        (f"Wait. {CALL}\n{CALL}", ["add", "add"], "Wait."),
        ('<tool_call>{"name": "f"}</tool_call>', ["f"], ""),
        ('<tool_call>{"name": "f", "arguments": {}}', ["f"], ""),
        ("<tool_call>{broken}</tool_call>", [], "<tool_call>{broken}</tool_call>"),
        ('<tool_call>{"name": 1}</tool_call>', [], '<tool_call>{"name": 1}</tool_call>'),
        ("no call", [], "no call"),
    ],
)
def test_calls_are_read_or_left_as_text(text: str, names: list[str], content: str) -> None:
    rest, calls = read_calls(text)
    assert ([call.function.name for call in calls], rest) == (names, content)


def test_a_template_with_calls_of_another_form_is_refused() -> None:
    with served({NAME: bigram_model(1, "{{ tools }}" + CHATML)}) as address:
        body = {"model": NAME, "messages": CHAT, "tools": TOOLS}
        response = httpx.post(f"{address}/v1/chat/completions", json=body)
    assert response.status_code == 400 and "in another form than <tool_call>" in response.json()["error"]["message"]
