"""The page's examples run as they stand there, and the OpenAPI document states the answers."""

from __future__ import annotations

import contextlib
import html
import io
import json
import re
import subprocess
from typing import Any

import httpx
import jsonschema
import pytest

from doge_export.runtime.model import Model
from doge_export.serve.errors import ApiError
from doge_export.serve.page import Page
from tests.helpers.serving import NAME

QUESTION: list[Any] = [{"role": "user", "content": "Why is the sky blue?"}]


def examples(address: str) -> list[str]:
    return [html.unescape(code) for code in re.findall(r"<pre>(.*?)</pre>", httpx.get(address).text, re.DOTALL)]


def test_the_example_in_python_prints_the_answer(address: str, alone: Model) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(examples(address)[1], "page", "exec"), {})
    assert printed.getvalue() == alone.chat(QUESTION, max_new_tokens=512).text


def test_the_example_for_curl_brings_the_answer(address: str, alone: Model) -> None:
    call = examples(address)[0].replace("curl ", "curl --silent ", 1)
    answer = json.loads(subprocess.run(["sh", "-c", call], capture_output=True, text=True, check=True).stdout)
    assert answer["choices"][0]["message"]["content"] == alone.chat(QUESTION, max_new_tokens=512).text


def test_names_from_outside_are_text_on_the_page() -> None:
    page = Page(["<script>"], {}).html("http://a/<b>")
    assert "<script>" not in page and "<b>" not in page


def test_a_report_that_is_not_there_is_told() -> None:
    with pytest.raises(ApiError, match="there is no report of a model"):
        Page([NAME], {}).report("../../etc/passwd")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": QUESTION, "n": 2, "logprobs": True, "top_logprobs": 2, "max_tokens": 3}),
        ("/v1/completions", {"prompt": ["a", "b"], "logprobs": 2, "echo": True, "max_tokens": 3}),
        ("/v1/completions", {"prompt": ""}),
        ("/v1/models", None),
        ("/v1/models/other", None),
        ("/health", None),
    ],
)
def test_the_document_states_every_answer(path: str, body: dict[str, Any] | None, address: str) -> None:
    document = httpx.get(f"{address}/openapi.json").json()
    response = httpx.get(address + path) if body is None else httpx.post(address + path, json={"model": NAME, **body})
    method = "get" if body is None else "post"
    stated = document["paths"][path.replace("other", "{name}")][method]["responses"][str(response.status_code)]
    schema = stated["content"]["application/json"]["schema"]
    jsonschema.validate(response.json(), {**schema, "components": document["components"]})
    if body is not None and response.status_code == 200:
        name = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.validate({"model": NAME, **body}, {**name, "components": document["components"]})
