"""A trace of reasoning: in the content, beside it in whole and streamed answers, or left out."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from doge_export.runtime.model import Model
from tests.helpers.fakes import CHATML, ScriptedDecoder, byte_level_tokenizer, defaults_for
from tests.helpers.serving import NAME, served

CHAT: list[Any] = [{"role": "user", "content": "2+3?"}]
SAID = "<think>\n2 and 3\n\nis 5.\n</think>\n\nIt is 5."
TRACE, ANSWER = "2 and 3\n\nis 5.", "It is 5."


def thinker(said: str = SAID, template: str = CHATML) -> Model:
    """A model that says one text."""
    tokenizer = byte_level_tokenizer(template)
    decoder = ScriptedDecoder(tokenizer.encode(said + "<|im_end|>"), 259)
    return Model(decoder, tokenizer, defaults_for(tokenizer), NAME, 1)


def asked(address: str, **fields: Any) -> tuple[str, str | None]:
    """Content and trace of a whole answer; those of the same in a stream are equal."""
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    whole = client.chat.completions.create(model=NAME, messages=CHAT, extra_body=fields).choices[0].message
    extra = whole.model_extra or {}
    stream = client.chat.completions.create(model=NAME, messages=CHAT, stream=True, extra_body=fields)
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert "".join(delta.content or "" for delta in deltas) == whole.content
    pieces = [(delta.model_extra or {}).get("reasoning_content", "") for delta in deltas]
    assert "".join(pieces) == (extra["reasoning_content"] or "")
    assert len([piece for piece in pieces if piece]) != 1, "a trace comes while it is made"
    return whole.content or "", extra["reasoning_content"]


@pytest.mark.parametrize(
    ("fields", "content", "trace"),
    [
        ({}, SAID, None),
        ({"reasoning_format": "none", "include_reasoning": True}, SAID, None),
        ({"reasoning_format": "deepseek"}, ANSWER, TRACE),
        ({"reasoning_format": "deepseek", "include_reasoning": False}, ANSWER, None),
        ({"include_reasoning": False}, ANSWER, None),
    ],
    ids=str,
)
def test_a_request_says_where_the_trace_goes(fields: dict[str, Any], content: str, trace: str | None) -> None:
    with served({NAME: thinker()}) as address:
        assert asked(address, **fields) == (content, trace)


def test_a_server_s_format_is_that_of_requests_that_name_none() -> None:
    with served({NAME: thinker()}, reasoning_format="deepseek") as address:
        assert asked(address) == (ANSWER, TRACE)
        assert asked(address, reasoning_format="none") == (SAID, None)


def test_a_trace_that_the_template_has_begun_is_told() -> None:
    model = thinker("2+3</think>5", CHATML + "{% if add_generation_prompt %}<think>{% endif %}")
    with served({NAME: model}, reasoning_format="deepseek") as address:
        assert asked(address) == ("5", "2+3")


def test_an_answer_of_a_form_is_no_trace() -> None:
    model = thinker("7", CHATML + "{% if add_generation_prompt %}<think>{% endif %}")
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": 7}}}
    with served({NAME: model}, reasoning_format="deepseek") as address:
        body = {"model": NAME, "messages": CHAT, "response_format": form}
        message = httpx.post(f"{address}/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("7", None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_format": "deepseek"}, "reasoning_format"),
        ({"include_reasoning": False}, "include_reasoning"),
    ],
    ids=str,
)
def test_tags_that_no_text_shows_are_refused(
    fields: dict[str, Any], param: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = thinker()
    monkeypatch.setattr(model.tokenizer, "special_id", {"<think>": 5}.get)
    with served({NAME: model}) as address:
        response = httpx.post(f"{address}/v1/chat/completions", json={"model": NAME, "messages": CHAT, **fields})
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param
    assert "<think> is a special token" in error["message"]


def test_a_format_of_another_server_is_refused() -> None:
    with served({NAME: thinker()}) as address:
        body = {"model": NAME, "messages": CHAT, "reasoning_format": "auto"}
        error = httpx.post(f"{address}/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == "reasoning_format" and "'none' or 'deepseek'" in error["message"]
