"""The options that OpenAI's interface has beside those of transformers, by cases computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from doge_export.errors import OptionError
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.logits_processors import LogitsProcessors, apply_count_penalties
from doge_export.runtime.logprobs import token_logprobs
from doge_export.runtime.model import Model
from tests.helpers.fakes import BigramDecoder, byte_level_tokenizer, defaults_for, random_table

LOGITS = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
COUNT_TO_FOUR = np.log(np.array([1.0, 2.0, 3.0, 4.0])).astype(np.float32)  # probabilities 0.1 to 0.4


class NothingSeen:
    def seen_tokens(self) -> Any:
        return np.empty(0, np.int64)


def processed(options: GenerationOptions, prompt: list[int], answer: list[int], logits: Any = LOGITS) -> list[float]:
    process = LogitsProcessors(options, (), prompt)
    for token_id in answer:
        process.append(token_id)
    found: list[float] = process(logits, NothingSeen()).tolist()
    return found


def random_model(vocab_size: int = 259) -> Model:
    tokenizer = byte_level_tokenizer()
    return Model(BigramDecoder(random_table(vocab_size)), tokenizer, defaults_for(tokenizer))


def test_penalties_follow_openais_formula() -> None:
    ids, counts = np.array([3, 0]), np.array([2, 1])
    # 4 - 0.5 - 2 * 0.25 and 1 - 0.5 - 0.25
    assert apply_count_penalties(LOGITS, ids, counts, 0.5, 0.25).tolist() == [0.25, 2, 3, 3]


def test_only_tokens_of_the_answer_are_counted_and_each_as_often_as_it_came() -> None:
    options = GenerationOptions(presence_penalty=1.0, frequency_penalty=0.5)
    assert processed(options, [0, 0, 1], [3, 2, 3]) == [1, 2, 1.5, 2]
    assert processed(options, [0, 0, 1], []) == LOGITS.tolist()


def test_negative_penalties_strengthen() -> None:
    assert processed(GenerationOptions(presence_penalty=-2), [], [1, 1]) == [1, 4, 3, 4]
    assert processed(GenerationOptions(frequency_penalty=-1), [], [1, 1]) == [1, 4, 3, 4]


def test_a_bias_is_added_and_tokens_beyond_the_vocabulary_have_no_effect() -> None:
    bias: Any = {0: 5, 3: -math.inf, 99: 1.0}
    options = GenerationOptions(logit_bias=bias)
    assert options.logit_bias == ((0, 5.0), (3, -math.inf), (99, 1.0))
    assert processed(options, [], []) == [6, 2, 3, -math.inf]


def test_a_bias_against_every_token_is_one_sentence() -> None:
    model = Model(BigramDecoder(random_table(3)))
    with pytest.raises(OptionError, match=r"no token is left to choose: .* leave one of these options away$"):
        model.generate([0], logit_bias={token_id: -math.inf for token_id in range(3)})


def test_the_decoders_own_logits_are_left_alone() -> None:
    bias: Any = {0: 1}
    for options in (GenerationOptions(logit_bias=bias), GenerationOptions(presence_penalty=1.0)):
        processed(options, [], [1])
        assert LOGITS.tolist() == [1, 2, 3, 4]


def test_log_probabilities_are_those_of_the_softmax() -> None:
    found = token_logprobs(COUNT_TO_FOUR, 0, 2)
    assert found.token_id == 0 and found.logprob == pytest.approx(math.log(0.1), abs=1e-6)
    assert [token_id for token_id, _ in found.best] == [3, 2]
    assert [logprob for _, logprob in found.best] == pytest.approx([math.log(0.4), math.log(0.3)], abs=1e-6)


@pytest.mark.parametrize(("count", "ids"), [(0, []), (1, [1]), (3, [1, 2, 4]), (99, [1, 2, 4, 0, 3])])
def test_the_best_come_in_order_and_the_lower_id_first_among_equals(count: int, ids: list[int]) -> None:
    best = token_logprobs(np.array([0, 7, 7, 0, 7], np.float32), 3, count).best
    assert [token_id for token_id, _ in best] == ids


def test_log_probabilities_of_large_logits_do_not_overflow() -> None:
    found = token_logprobs(np.array([1e38, 0, -1e38], np.float32), 1, 3)
    assert found.best[0] == (0, 0.0) and found.logprob == pytest.approx(-1e38)


def test_log_probabilities_of_an_answer_are_the_models_whatever_the_other_options() -> None:
    model = random_model()
    options: Any = {"temperature": 0.7, "seed": 3, "repetition_penalty": 1.3, "logit_bias": {7: 4.0}, "top_k": 5}
    result = model.generate("ab", max_new_tokens=9, logprobs=2, **options)
    ids = [*model.tokenizer.encode("ab"), *result.token_ids]
    rows = model.logits(ids)[1:-1].astype(np.float64)
    expected = (rows - np.log(np.exp(rows).sum(1, keepdims=True)))[np.arange(len(rows)), result.token_ids]
    assert result.logprobs is not None
    assert [token.token_id for token in result.logprobs] == result.token_ids
    np.testing.assert_allclose([token.logprob for token in result.logprobs], expected, atol=1e-5)
    assert {len(token.best) for token in result.logprobs} == {2}


def test_asking_for_log_probabilities_changes_no_token_and_without_there_are_none() -> None:
    model = random_model()
    without = model.generate("ab", temperature=1.0, seed=1, max_new_tokens=9)
    assert without.logprobs is None
    assert model.generate("ab", temperature=1.0, seed=1, max_new_tokens=9, logprobs=0).token_ids == without.token_ids


OPTIONS: Any = {"presence_penalty": 1.5, "frequency_penalty": 0.5, "logit_bias": {3: 2.0}, "logprobs": 1}


def test_answers_in_batches_streams_chats_threads_and_with_prompt_lookup_are_those_alone() -> None:
    model, prompts = random_model(), ["abcabcabc", "xyz"]
    alone = [model.generate(prompt, max_new_tokens=30, **OPTIONS) for prompt in prompts]
    answers = [(result.token_ids, result.logprobs) for result in alone]
    assert alone[0].token_ids != model.generate(prompts[0], max_new_tokens=30).token_ids
    together = model.generate(prompts, max_new_tokens=30, **OPTIONS)
    lookup = [model.generate(prompt, max_new_tokens=30, prompt_lookup_num_tokens=7, **OPTIONS) for prompt in prompts]
    merged = Model(model.decoder, model.tokenizer, model.defaults, max_streams=2)
    threads = merged.generate(prompts, max_new_tokens=30, **OPTIONS)
    for results in (together, lookup, threads):
        assert [(result.token_ids, result.logprobs) for result in results] == answers
    messages = [{"role": "user", "content": "Hi"}]
    pieces = model.chat(messages, stream=True, max_new_tokens=30, **OPTIONS)
    assert "".join(pieces) == model.chat(messages, max_new_tokens=30, **OPTIONS).text
    assert pieces.logprobs == model.chat(messages, max_new_tokens=30, **OPTIONS).logprobs


def test_a_stream_s_log_probabilities_grow_with_it_and_a_stream_that_collects_nothing_has_none() -> None:
    stream = random_model().stream("ab", max_new_tokens=8, logprobs=1)
    next(stream)
    assert stream.logprobs is not None and len(stream.logprobs) == len(stream.token_ids)
    other = random_model().stream("ab", max_new_tokens=8, logprobs=1)
    other.collects = False
    assert other.read_all().logprobs is None
