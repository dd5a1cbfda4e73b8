"""The memory of a stream: little for each token, or nothing."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doge_export.runtime.drafts import CheckedGuesses
from doge_export.runtime.generation import FinishReason, GeneratedToken
from doge_export.runtime.generation_options import GenerationDefaults
from doge_export.runtime.model import Model
from doge_export.runtime.prompt_lookup import PromptLookup
from doge_export.runtime.streaming import TextStream
from tests.helpers.fakes import byte_level_tokenizer, model_saying
from tests.helpers.models import exported, random_ids, tiny_model

pytestmark = pytest.mark.slow

TOKENIZER = byte_level_tokenizer()
LETTERS = TOKENIZER.encode("Some words of an endless answer.\r\n")


def stream_of(length: Any) -> Any:
    ids = itertools.islice(itertools.cycle(LETTERS), length)
    ends: Iterator[FinishReason | None] = itertools.chain(itertools.repeat(None, length - 1), ["length"])
    return TextStream(map(GeneratedToken, ids, ends), TOKENIZER, (), 1)


def read(stream: Iterator[str], pieces: int) -> None:
    for _ in itertools.islice(stream, pieces):
        pass


def growth_while_reading(stream: Any, first: Any, more: Any) -> Any:
    """Bytes that reading `more` pieces takes, after `first` ones."""
    read(stream, first)
    tracemalloc.start()
    try:
        read(stream, 20)  # until all that is replaced with each step is traced
        before, _ = tracemalloc.get_traced_memory()
        read(stream, more)
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_a_stream_that_collects_takes_about_ten_bytes_for_a_token() -> None:
    assert growth_while_reading(stream_of(30_000), 1000, 20_000) < 15 * 20_000


def test_a_stream_that_does_not_collect_takes_constant_memory() -> None:
    stream = stream_of(30_000)
    stream.collects = False
    assert growth_while_reading(stream, 1000, 20_000) < 2000


@pytest.mark.parametrize("options", [{}, {"prompt_lookup_num_tokens": 7}, {"bad_words_ids": [[1, 2, 3]]}])
def test_a_model_streams_beyond_its_window_in_constant_memory(options: Any, tmp_path: Path) -> None:
    decoder = exported(tiny_model(vocab_size=259, keep_window_size=64), tmp_path, "int8")
    model = Model(decoder, TOKENIZER, GenerationDefaults())
    stream = model.stream(random_ids(100).tolist(), max_new_tokens=900, **options)
    stream.collects = False
    assert growth_while_reading(stream, 30, 30) < 4000


def test_what_is_collected_is_all_of_it() -> None:
    stream = stream_of(5000)
    pieces = list(stream)
    assert stream.text == stream.result.text == "".join(pieces) == ("Some words of an endless answer.\r\n" * 200)[:5000]
    assert stream.token_ids == stream.result.token_ids == (LETTERS * 200)[:5000]


def test_a_stream_that_does_not_collect_still_counts() -> None:
    stream = model_saying("Hello!").stream("x")
    stream.collects = False
    assert "".join(stream) == "Hello!"
    result = stream.result
    assert (result.text, result.token_ids, result.completion_tokens, result.finish_reason) == ("", [], 7, "stop")


def test_the_newest_token_is_known_without_collecting() -> None:
    stream = stream_of(3)
    stream.collects = False
    with pytest.raises(RuntimeError, match="no token before its first piece"):
        _ = stream.last_token_id
    next(stream)
    assert stream.last_token_id == LETTERS[0]


def test_prompt_lookup_remembers_no_more_tokens_than_the_window_holds(tmp_path: Path) -> None:
    decoder = exported(tiny_model(), tmp_path, "int8")
    state, lookup = decoder.new_state(), PromptLookup(7)
    drafts = CheckedGuesses(decoder, [lookup])
    most = 0
    for token_id in random_ids(200).tolist():
        drafts.next_logits(state, np.array([token_id]))
        most = max(most, len(lookup._index.tokens))
    assert 50 < most <= decoder.keep_window_size and not lookup._index.tokens


def test_a_past_beyond_the_window_is_not_indexed(tmp_path: Path) -> None:
    decoder = exported(tiny_model(), tmp_path, "int8")
    state, past = decoder.new_state(), random_ids(100)
    decoder.forward(state, past)
    lookup = PromptLookup(7, past.tolist())
    CheckedGuesses(decoder, [lookup]).next_logits(state, np.array([1]))
    assert not lookup._index.tokens and not lookup._past_ids
