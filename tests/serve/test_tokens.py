"""Tokens over HTTP: their names, their bytes, and their places in the text."""

from __future__ import annotations

import json

import httpx
import pytest

from doge_export.runtime.logprobs import TokenLogprobs
from doge_export.runtime.tokenizer import Tokenizer
from doge_export.serve.tokens import TextPlaces, chat_logprobs, likeliest, name_of, prompt_logprobs
from tests.helpers.fakes import byte_level_tokenizer, id_of, sentencepiece_tokenizer
from tests.helpers.serving import NAME

BYTES, PIECES = byte_level_tokenizer(), sentencepiece_tokenizer()
BOTH = pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
TEXT = "hello world, é日\U0001f600 hello"


def places_of(tokenizer: Tokenizer, ids: list[int], prompt: str | None = None) -> list[int]:
    """Where the tokens of a text begin, and where the last one ends."""
    places = TextPlaces(tokenizer, prompt, keeps_space=tokenizer.shows_space_at_start)
    return [places.take(token_id) for token_id in [*ids, ids[-1]]]


@BOTH
@pytest.mark.parametrize("is_prompt", [True, False])
def test_tokens_stand_where_the_text_shows_them(tokenizer: Tokenizer, is_prompt: bool) -> None:
    ids = tokenizer.encode(TEXT)
    places = places_of(tokenizer, ids, TEXT if is_prompt else None)
    assert tokenizer.decode(ids) == TEXT and places[0] == 0 and places[-1] == len(TEXT)
    for token_id, start, end in zip(ids[1:], places[1:], places[2:], strict=False):
        name = name_of(token_id, tokenizer)
        assert TEXT[start:end] == name or (name.startswith("bytes:") and end - start <= 1)


@BOTH
def test_the_bytes_of_tokens_are_those_of_the_text(tokenizer: Tokenizer) -> None:
    told = chat_logprobs([TokenLogprobs(one, -1.0, ()) for one in tokenizer.encode(TEXT)], tokenizer).content
    assert b"".join(bytes(token.bytes or ()) for token in told).decode().lstrip() == TEXT
    assert [token.token for token in told if token.token.startswith("bytes:")][:2] == ["bytes:\\xc3", "bytes:\\xa9"]


def test_likeliest_tokens_that_share_no_bytes_have_names_of_their_own() -> None:
    names = ("\u2581hello", "he", "<0xC3>", "<0xC4>", "\u2581world")
    best = tuple((id_of(PIECES, name), -1.0 - index) for index, name in enumerate(names))
    named = likeliest(TokenLogprobs(best[0][0], -1.0, best), PIECES)
    assert list(named) == [" hello", "he", "bytes:\\xc3", "bytes:\\xc4", " world"]


def test_special_tokens_have_a_length_only_where_the_text_shows_them() -> None:
    end = id_of(BYTES, "<|im_end|>")
    ids = [end, *BYTES.encode("ab"), end]
    assert places_of(BYTES, ids) == [0, 0, 1, 2, 2]
    assert places_of(BYTES, ids, "ab") == [0, 0, 1, 2, 2]
    assert places_of(BYTES, ids, "<|im_end|>ab<|im_end|>") == [0, 10, 11, 12, 22]


@pytest.mark.parametrize("text", [" hello", "  hello", "<s>hello", "a<s>b</s>"])
def test_pieces_that_begin_with_a_space_stand_where_the_text_has_one(text: str) -> None:
    places = places_of(PIECES, PIECES.encode(text), text)
    assert places[-1] == len(text) and sorted(places) == places


def test_the_first_token_of_a_prompt_has_no_log_probability() -> None:
    ids = PIECES.encode("hello world")
    told = prompt_logprobs(ids, [TokenLogprobs(one, -1.0, ()) for one in ids[1:]], PIECES, "hello world")
    assert told.token_logprobs == [None, *[-1.0] * (len(ids) - 1)] and told.text_offset[0] == 0
    assert "".join(told.tokens).strip() == "hello world"


def test_an_echo_for_no_token_tells_none(address: str) -> None:
    body = {"model": NAME, "prompt": "é!", "max_tokens": 0, "echo": True, "logprobs": 1, "n": 2}
    answer = httpx.post(f"{address}/v1/completions", json=body).json()
    assert answer["usage"]["completion_tokens"] == 0 and answer["usage"]["total_tokens"] == 3
    for choice in answer["choices"]:
        assert (choice["text"], choice["finish_reason"]) == ("é!", "length")
        assert choice["logprobs"]["tokens"] == ["bytes:\\xc3", "bytes:\\xa9", "!"]
        assert choice["logprobs"]["text_offset"] == [0, 0, 1]


def test_a_stream_tells_the_places_of_the_whole_answer(address: str) -> None:
    body = {"model": NAME, "prompt": "Hé", "max_tokens": 9, "echo": True, "logprobs": 1, "ignore_eos": True}
    whole = httpx.post(f"{address}/v1/completions", json=body).json()["choices"][0]
    lines = httpx.post(f"{address}/v1/completions", json=body | {"stream": True}).text.split("\n\n")[:-2]
    pieces = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]
    for name in ("tokens", "text_offset", "token_logprobs"):
        assert [told for piece in pieces for told in piece["logprobs"][name]] == whole["logprobs"][name]
    assert "".join(piece["text"] for piece in pieces) == whole["text"]


def test_all_answers_to_a_prompt_have_its_log_probabilities(address: str) -> None:
    body = {"model": NAME, "prompt": ["One", "Two!"], "max_tokens": 2, "echo": True, "logprobs": 2, "n": 3, "seed": 1}
    choices = httpx.post(f"{address}/v1/completions", json=body | {"temperature": 1}).json()["choices"]
    for index, choice in enumerate(choices):
        length = 3 + index // 3
        first = choices[index - index % 3]["logprobs"]
        assert choice["logprobs"]["top_logprobs"][:length] == first["top_logprobs"][:length]
        assert choice["logprobs"]["text_offset"][:length] == list(range(length))
        assert len(choice["logprobs"]["tokens"]) in (length + 1, length + 2)


def test_more_log_probabilities_of_prompts_than_a_response_holds_are_refused(address: str) -> None:
    body = {"model": NAME, "prompt": "a" * 10_000, "max_tokens": 0, "echo": True, "logprobs": 1, "n": 4}
    response = httpx.post(f"{address}/v1/completions", json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == "echo"
    assert "tells 40,000 prompt tokens over all answers, and the server takes 32,768" in response.text
