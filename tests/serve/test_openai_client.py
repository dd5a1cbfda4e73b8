"""OpenAI's own client gets the answers of the library alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest

from doge_export.runtime.logprobs import log_total
from doge_export.runtime.model import Model
from tests.helpers.serving import NAME

CHAT: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
SAMPLED: dict[str, Any] = {"temperature": 1.0, "seed": 3}


def test_a_chat_is_the_library_s(client: openai.OpenAI, alone: Model) -> None:
    answer = client.chat.completions.create(model=NAME, messages=CHAT, max_completion_tokens=40, **SAMPLED)
    expected = alone.chat(CHAT, max_new_tokens=40, **SAMPLED)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.prompt_tokens == alone.count_tokens(CHAT)
    assert answer.usage.completion_tokens == expected.completion_tokens


def test_the_pieces_of_a_stream_add_up(client: openai.OpenAI, alone: Model) -> None:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, **SAMPLED}
    chunks = list(client.chat.completions.create(model=NAME, messages=CHAT, max_tokens=40, **options))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    expected = alone.chat(CHAT, max_new_tokens=40, **SAMPLED)
    assert "".join(pieces) == expected.text and len(pieces) > 10
    assert chunks[-2].choices[0].finish_reason == expected.finish_reason
    assert chunks[-1].usage.completion_tokens == expected.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_prompts_with_several_answers_have_the_seeds_of_the_library(
    client: openai.OpenAI, alone: Model
) -> None:
    answer = client.completions.create(model=NAME, prompt=["One", "Two"], n=2, max_tokens=20, **SAMPLED)
    expected = alone.generate(["One", "One", "Two", "Two"], max_new_tokens=20, **SAMPLED)
    assert [choice.text for choice in answer.choices] == [result.text for result in expected]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None and answer.usage.prompt_tokens == 6


def test_a_stream_of_several_answers_is_told_apart_by_index(client: openai.OpenAI, alone: Model) -> None:
    texts = ["", "", ""]
    for chunk in client.completions.create(model=NAME, prompt="One", n=3, max_tokens=20, stream=True, **SAMPLED):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    expected = alone.generate(["One"] * 3, max_new_tokens=20, **SAMPLED)
    assert texts == [result.text for result in expected]


def test_token_ids_are_a_prompt(client: openai.OpenAI, alone: Model) -> None:
    answer = client.completions.create(model=NAME, prompt=[1, 2, 3], max_tokens=5)
    assert answer.choices[0].text == alone.generate([1, 2, 3], max_new_tokens=5).text


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI, alone: Model) -> None:
    whole = alone.generate("One", max_new_tokens=40, **SAMPLED).text
    answer = client.completions.create(model=NAME, prompt="One", max_tokens=40, stop=[whole[5], "\0"], **SAMPLED)
    assert answer.choices[0].text == whole.partition(whole[5])[0]
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("asked", "library"),
    [
        ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
        ({"frequency_penalty": -1.0}, {"frequency_penalty": -1.0}),
        ({"logit_bias": {"65": 100, "66": -100}}, {"logit_bias": {65: 100.0, 66: -100.0}}),
        ({"top_p": 0.3}, {"top_p": 0.3}),
        ({"extra_body": {"top_k": 3, "repetition_penalty": 1.2}}, {"top_k": 3, "repetition_penalty": 1.2}),
        ({"extra_body": {"min_p": 0.1, "min_tokens": 5, "ignore_eos": True}}, {"min_p": 0.1, "ignore_eos": True}),
    ],
    ids=str,
)
def test_options_are_those_of_the_library(
    asked: dict[str, Any], library: dict[str, Any], client: openai.OpenAI, alone: Model
) -> None:
    answer = client.completions.create(model=NAME, prompt="One", max_tokens=30, **asked, **SAMPLED)
    assert answer.choices[0].text == alone.generate("One", max_new_tokens=30, **library, **SAMPLED).text


def test_without_settings_an_answer_is_greedy_and_as_long_as_openai_s_or_doge_chat_s(
    client: openai.OpenAI, alone: Model
) -> None:
    text = client.completions.create(model=NAME, prompt="One").choices[0].text
    assert text == alone.generate("One", max_new_tokens=16).text
    chat = client.chat.completions.create(model=NAME, messages=CHAT).choices[0].message.content
    assert chat == alone.chat(CHAT, max_new_tokens=512).text


def test_log_probabilities_of_a_chat_are_the_model_s(client: openai.OpenAI, alone: Model) -> None:
    answer = client.chat.completions.create(
        model=NAME, messages=CHAT, max_tokens=5, logprobs=True, top_logprobs=2, **SAMPLED
    )
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.content is not None
    expected = alone.chat(CHAT, max_new_tokens=5, logprobs=2, **SAMPLED).logprobs
    assert expected is not None
    for told, known in zip(answer.choices[0].logprobs.content, expected, strict=True):
        assert told.logprob == pytest.approx(known.logprob)
        assert [best.logprob for best in told.top_logprobs] == pytest.approx([value for _, value in known.best])


def test_a_stream_tells_the_log_probability_of_every_token_once(client: openai.OpenAI, alone: Model) -> None:
    options: dict[str, Any] = {"stream": True, "logprobs": True, **SAMPLED}
    chunks = list(client.chat.completions.create(model=NAME, messages=CHAT, max_tokens=30, **options))
    told = [
        token.logprob
        for chunk in chunks
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    expected = alone.chat(CHAT, max_new_tokens=30, logprobs=0, **SAMPLED).logprobs
    assert expected is not None and told == pytest.approx([token.logprob for token in expected])


@pytest.mark.parametrize("most", [0, 1])
def test_an_echo_has_the_log_probabilities_of_the_prompt(most: int, client: openai.OpenAI, alone: Model) -> None:
    ids = alone.tokenizer.encode("Hello there")
    answer = client.completions.create(model=NAME, prompt=ids, max_tokens=most, echo=True, logprobs=1, temperature=0)
    logprobs, rows = answer.choices[0].logprobs, alone.logits(ids)
    assert logprobs is not None and logprobs.token_logprobs is not None and logprobs.top_logprobs is not None
    assert answer.choices[0].text.startswith("Hello there") and logprobs.token_logprobs[0] is None
    expected = [row[token_id] - log_total(row) for row, token_id in zip(rows, ids[1:], strict=False)]
    assert len(logprobs.token_logprobs) == len(ids) + most
    np.testing.assert_allclose(logprobs.token_logprobs[1 : len(ids)], expected, rtol=1e-5)
    assert max(logprobs.top_logprobs[1].values()) == pytest.approx(rows[0].max() - log_total(rows[0]), rel=1e-5)


def test_answers_do_not_depend_on_what_runs_beside_them(client: openai.OpenAI, alone: Model) -> None:
    prompts = [f"{number} green bottles, {'and ' * (number % 7)}" for number in range(48)]

    def ask(number: int) -> str:
        options: dict[str, Any] = {"max_tokens": 5 + number, "temperature": number % 3 / 2, "seed": number}
        return client.completions.create(model=NAME, prompt=prompts[number], **options).choices[0].text

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(48)))
    for number, answer in enumerate(answers):
        options: dict[str, Any] = {"max_new_tokens": 5 + number, "temperature": number % 3 / 2, "seed": number}
        assert answer == alone.generate(prompts[number], **options).text


def test_a_conversation_so_far_is_not_fed_again(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Tell me a story that nobody else has told"}]
    first = client.chat.completions.create(model=NAME, messages=messages, max_tokens=10, **SAMPLED)
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "Go on"},
    ]
    second = client.chat.completions.create(model=NAME, messages=messages, max_tokens=1)
    assert first.usage is not None and second.usage is not None and second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= first.usage.prompt_tokens


def test_models_are_listed_and_named(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'; there are: bigram"):
        client.models.retrieve("other")
