"""Tokens that are ruled out or weighed by those before them, against transformers' own processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from doge_export.errors import OptionError
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.logits_processors import LogitsProcessors
from doge_export.runtime.model import Model
from tests.helpers.fakes import BigramDecoder
from tests.helpers.models import exported, tiny_model

pytestmark = pytest.mark.slow

VOCAB = 12
ENDS = (0, 1)
ids = st.integers(0, VOCAB - 1)
sequences = st.lists(st.lists(ids, min_size=1, max_size=3), min_size=1, max_size=6)


class Seen:
    """A state that was fed these tokens."""

    def __init__(self, tokens: Any) -> None:
        self.tokens = tokens

    def seen_tokens(self) -> Any:
        return np.unique(np.array(self.tokens, np.int64))


def processed(options: Any, prompt: Any, answer: Any, logits: Any) -> Any:
    """The logits of the token after `answer`."""
    process = LogitsProcessors(options, ENDS, prompt)
    for token_id in answer:
        process.append(token_id)
    return process(logits, Seen([*prompt, *answer]))


def by_transformers(options: Any, prompt: Any, answer: Any, logits: Any) -> Any:
    """The same by transformers' processors, in the order of its `generate`."""
    o, begin = options, len(prompt)
    chain = theirs.LogitsProcessorList()
    if o.sequence_bias:
        chain.append(theirs.SequenceBiasLogitsProcessor([[list(ids), bias] for ids, bias in o.sequence_bias]))
    if o.repetition_penalty != 1:
        chain.append(theirs.RepetitionPenaltyLogitsProcessor(o.repetition_penalty))
    if o.no_repeat_ngram_size:
        chain.append(theirs.NoRepeatNGramLogitsProcessor(o.no_repeat_ngram_size))
    if o.bad_words_ids:
        chain.append(theirs.NoBadWordsLogitsProcessor([list(word) for word in o.bad_words_ids], list(ENDS)))
    chain.append(theirs.MinNewTokensLengthLogitsProcessor(begin, o.min_new_tokens, list(ENDS)))
    if o.forced_eos_token_id:
        chain.append(theirs.ForcedEOSTokenLogitsProcessor(begin + o.max_new_tokens, list(o.forced_eos_token_id)))
    chain.append(theirs.SuppressTokensLogitsProcessor(o.suppress_tokens))
    chain.append(theirs.SuppressTokensAtBeginLogitsProcessor(o.begin_suppress_tokens, begin))
    return chain(torch.tensor([[*prompt, *answer]]), torch.from_numpy(logits.copy())[None])[0].numpy()


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_logits_are_those_of_transformers(data: Any) -> None:
    draw = data.draw
    words = draw(sequences | st.just([]))
    given: Any = dict(
        max_new_tokens=draw(st.integers(1, 6)),
        repetition_penalty=draw(st.sampled_from([1.0, 1.5])),
        min_new_tokens=draw(st.integers(0, 6)),
        no_repeat_ngram_size=draw(st.integers(0, 4)),
        suppress_tokens=draw(st.lists(st.sampled_from([2, 3, 7]))),
        begin_suppress_tokens=draw(st.lists(st.integers(4, 5))),
        bad_words_ids=[word for word in words if word not in ([0], [1])] and words,
        sequence_bias=[(word, draw(st.floats(-3, 3, width=32))) for word in draw(sequences | st.just([]))],
        forced_eos_token_id=draw(st.just([]) | st.just([0]) | st.just([0, 7])),
    )
    options = GenerationOptions(**given)
    prompt = draw(st.lists(ids, min_size=1, max_size=8))
    answer = draw(st.lists(ids, max_size=options.max_new_tokens - 1))
    logits = np.random.default_rng(draw(st.integers(0, 99))).normal(size=VOCAB).astype(np.float32)
    expected = by_transformers(options, prompt, answer, logits)
    if np.isneginf(expected).all():
        with pytest.raises(OptionError, match="no token is left"):
            processed(options, prompt, answer, logits)
    else:
        np.testing.assert_allclose(processed(options, prompt, answer, logits), expected, rtol=1e-6)


def test_without_options_the_logits_are_handed_on_untouched() -> None:
    logits = np.zeros(VOCAB, np.float32)
    assert processed(GenerationOptions(), [3], [4], logits) is logits


def test_the_decoders_own_array_is_left_alone() -> None:
    logits = np.zeros(VOCAB, np.float32)
    options = GenerationOptions(suppress_tokens=(2,), sequence_bias=(((3,), 1.0),), min_new_tokens=1)
    assert processed(options, [3], [], logits) is not logits
    assert not logits.any()


def test_tokens_beyond_the_vocabulary_have_no_effect() -> None:
    options = GenerationOptions(suppress_tokens=(99,), bad_words_ids=((99,), (3, 99)), sequence_bias=(((99,), 1.0),))
    assert not processed(options, [3], [], np.zeros(VOCAB, np.float32)).any()


def test_sequences_that_end_in_one_token_add_up_and_of_equal_ones_the_last_counts() -> None:
    biases = (((3,), 1.0), ((4, 3), 2.0), ((9, 3), 64.0), ((3,), 4.0))
    options = GenerationOptions(sequence_bias=biases)
    assert processed(options, [4], [], np.zeros(VOCAB, np.float32))[3] == 6


def test_a_past_shorter_than_the_longest_sequence_counts_entirely() -> None:
    options = GenerationOptions(bad_words_ids=((4, 5, 6), (7, 7, 7, 7)))
    assert np.isneginf(processed(options, [4, 5], [], np.zeros(VOCAB, np.float32))[6])


def test_only_as_many_tokens_are_remembered_as_the_options_need() -> None:
    for options, most in (({}, 0), ({"bad_words_ids": [[1, 2, 3]]}, 5), ({"no_repeat_ngram_size": 2}, 2000)):
        process = LogitsProcessors(GenerationOptions(**options), ENDS, range(1000))
        for token_id in range(1000):
            process.append(token_id)
        assert len(process._tokens) <= most and (most < 2000 or len(process._tokens) == 2000)


# Whole answers


END = 15


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network that repeats itself, and its export."""
    network = tiny_model(vocab_size=60)
    model = Model(exported(network, tmp_path_factory.mktemp("export")))
    model.defaults = type(model.defaults)(eos_token_ids=frozenset({END}))
    return network, model


@pytest.mark.parametrize(
    "options",
    [
        {"no_repeat_ngram_size": 3},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": [33, 6]},
        {"begin_suppress_tokens": [33, 6]},
        {"bad_words_ids": [[33, 33], [6, 6, 38], [END]]},
        {"sequence_bias": [[[33, 33], -9.0], [[7], 2.0]], "repetition_penalty": 1.2},
        {"forced_eos_token_id": 5},
        {"min_new_tokens": 9},
    ],
    ids=lambda options: next(iter(options)),
)
def test_answers_are_those_of_transformers_alone_in_a_batch_and_with_prompt_lookup(options: Any, both: Any) -> None:
    network, model = both
    prompts = [[41, 42, 40, 41, 42, 40], [7, 8, 9, 7, 8, 9, 7, 8]]
    expected, keywords = [], {"max_new_tokens": 16, **options}
    for prompt in prompts:
        tokens = network.generate(
            torch.tensor([prompt]), do_sample=False, eos_token_id=END, pad_token_id=0, **keywords
        )[0]
        expected.append(tokens.tolist()[len(prompt) :])
    assert [model.generate(prompt, **keywords).token_ids for prompt in prompts] == expected
    assert [result.token_ids for result in model.generate(prompts, **keywords)] == expected
    lookup = [model.generate(prompt, prompt_lookup_num_tokens=7, **keywords).token_ids for prompt in prompts]
    assert lookup == expected
    assert expected != [model.generate(prompt, max_new_tokens=16).token_ids for prompt in prompts]


LOOP = np.eye(5, dtype=np.float32)[[1, 2, 0, 3, 4]] * 5  # 0 1 2 0 1 2 ...


def test_a_conversations_earlier_tokens_count_when_they_are_known() -> None:
    model = Model(BigramDecoder(LOOP))
    options = model.options(max_new_tokens=1, no_repeat_ngram_size=3)
    for past, token_id in ((), 2), ([0, 1, 2], 0):
        assert model.continue_state(model.new_state(), [0, 1], options, past).read_all().token_ids == [token_id]


def test_an_end_is_not_ruled_out_where_ends_are_ignored() -> None:
    model = Model(BigramDecoder(LOOP))
    model.defaults = type(model.defaults)(eos_token_ids=frozenset({2}))
    assert model.generate([0], max_new_tokens=3, min_new_tokens=3).token_ids == [1, 0, 1]
    assert model.generate([0], max_new_tokens=3, min_new_tokens=3, ignore_eos=True).token_ids == [1, 2, 0]


def test_a_vocabulary_that_is_ruled_out_entirely_is_one_sentence() -> None:
    with pytest.raises(OptionError, match=r"no token is left to choose: .* leave one of these options away$"):
        Model(BigramDecoder(LOOP)).generate([0], suppress_tokens=[0, 1, 2, 3, 4])
