"""Known beginnings of prompts: not fed again, bounded in memory, and without effect on any answer."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doge_export.errors import OptionError
from doge_export.runtime.cache import MAX_CHUNK
from doge_export.runtime.model import Model
from doge_export.runtime.prefix_cache import PrefixCache
from doge_export.runtime.state import State
from tests.helpers.fakes import BigramDecoder, byte_level_tokenizer, random_table
from tests.helpers.models import FORMS, exported, feed, random_ids, tiny_model


def kept(decoder: BigramDecoder, cache: PrefixCache, tokens: list[int]) -> None:
    state = decoder.new_state()
    decoder.forward(state, np.array(tokens))
    cache.keep(tokens, state, fed_as_prompt=True)


def wait_until_idle() -> None:
    for thread in threading.enumerate():
        if thread.name == "doge-batch":
            thread.join(timeout=60)


def test_a_prompt_begins_with_the_longest_known_beginning_but_not_its_last_token() -> None:
    decoder = BigramDecoder(random_table(97))
    cache = PrefixCache(decoder, 10**9)
    kept(decoder, cache, [1, 2, 3, 4])
    kept(decoder, cache, [1, 2, 9])
    assert decoder.kept_tokens(cache.begin([1, 2, 3, 8])) == [1, 2, 3]
    assert decoder.kept_tokens(cache.begin([1, 2, 9, 9])) == [1, 2, 9]
    assert decoder.kept_tokens(cache.begin([1, 2, 3, 4])) == [1, 2, 3]
    assert cache.begin([7, 1, 2]).position == 0
    assert cache.tokens_found == 9


def test_a_longer_state_takes_the_place_of_its_beginning() -> None:
    decoder = BigramDecoder(random_table(97))
    cache = PrefixCache(decoder, 10**9)
    for tokens in ([1, 2], [5], [1, 2, 3], [1, 2]):
        kept(decoder, cache, tokens)
    assert len(cache) == 2


def test_a_text_is_kept_once_however_many_questions_are_asked_about_it() -> None:
    decoder = BigramDecoder(random_table(97), keep_window_size=500)
    cache, text = PrefixCache(decoder, 10**9), random_ids(300).tolist()
    for question in range(5):
        kept(decoder, cache, [*text, question, 9, 9])
    assert len(cache) == 1
    kept(decoder, cache, text[:150])
    kept(decoder, cache, [*text[:150], *random_ids(150, seed=1).tolist()])
    assert len(cache) == 2


def test_an_overflowed_state_serves_only_what_begins_with_all_of_it() -> None:
    decoder = BigramDecoder(random_table(97), keep_window_size=4)
    cache = PrefixCache(decoder, 10**9)
    kept(decoder, cache, [1, 2, 3, 4, 5, 6])
    assert cache.begin([1, 2, 3, 4, 5, 7]).position == 0
    assert decoder.kept_tokens(cache.begin([1, 2, 3, 4, 5, 6, 7])) == [3, 4, 5, 6]


def test_memory_is_bounded_and_what_was_used_last_stays() -> None:
    decoder = BigramDecoder(random_table(97))
    kept(decoder, measured := PrefixCache(decoder, 10**9), [1])
    cache = PrefixCache(decoder, 2 * measured.nbytes)
    kept(decoder, cache, [1])
    kept(decoder, cache, [2])
    assert cache.begin([1, 5]).position == 1
    kept(decoder, cache, [3])
    assert [cache.begin([first, 5]).position for first in (1, 2, 3)] == [1, 0, 1]
    assert cache.nbytes == 2 * measured.nbytes


def test_a_state_too_large_for_the_cache_is_not_kept() -> None:
    decoder = BigramDecoder(random_table(97))
    cache = PrefixCache(decoder, 10)
    kept(decoder, cache, [1, 2])
    assert (len(cache), cache.nbytes) == (0, 0)


def test_a_state_too_large_for_the_cache_leaves_what_is_kept() -> None:
    decoder = BigramDecoder(random_table(97), keep_window_size=4 * mmap.PAGESIZE)
    small, large = random_ids(64).tolist(), random_ids(3 * mmap.PAGESIZE).tolist()
    kept(decoder, measured := PrefixCache(decoder, 10**9), small)
    cache = PrefixCache(decoder, measured.nbytes + 1)
    kept(decoder, cache, small)
    kept(decoder, cache, [*small, *large])
    assert (len(cache), cache.nbytes) == (1, measured.nbytes)
    assert cache.begin([*small, 1]).position == 64


def test_room_is_made_before_a_state_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = BigramDecoder(random_table(97))
    kept(decoder, measured := PrefixCache(decoder, 10**9), [1])
    cache, copy, seen = PrefixCache(decoder, 2 * measured.nbytes), State.copy, list[int]()

    def noting(state: State, **keywords: Any) -> State:
        seen.append(cache.nbytes)
        return copy(state, **keywords)

    monkeypatch.setattr(State, "copy", noting)
    for token in range(4):
        kept(decoder, cache, [token])
    assert seen == [0, measured.nbytes, measured.nbytes, measured.nbytes]


@pytest.mark.parametrize("position", [1, 40, 64, 3000])
def test_bytes_of_a_copy_are_known_before_it_is_made(position: int) -> None:
    decoder = BigramDecoder(random_table(97), keep_window_size=4096)
    state = decoder.new_state()
    decoder.forward(state, random_ids(3000))
    assert state.nbytes_at(position) == state.copy(position=position).nbytes_now


@pytest.mark.parametrize("ending", ["close", "stop"])
def test_the_last_stream_is_kept_though_it_is_closed_or_ended_by_a_stop_string(ending: str) -> None:
    decoder = BigramDecoder(np.eye(259, k=1, dtype=np.float32), keep_window_size=10**5)  # writes the alphabet
    model = Model(decoder, byte_level_tokenizer(), max_streams=2, cache_mb=100)
    stop = "m" if ending == "stop" else ()
    with model.stream("ab", stop=stop, max_new_tokens=9 * 10**4, ignore_eos=True) as stream:
        assert "".join(piece for piece, _ in zip(stream, range(10), strict=False)).startswith("cdefghijkl")
    wait_until_idle()
    prefixes = model.answers.merger.prefixes
    known = model.tokenizer.encode("abcdefghijk")
    assert prefixes is not None and prefixes.begin([*known, 0]).position == len(known)


def test_where_cuts_matter_a_state_goes_back_to_full_chunks_of_its_prompt() -> None:
    decoder = BigramDecoder(random_table(97), keep_window_size=4 * MAX_CHUNK)
    decoder.cuts_freely = False
    cache, tokens = PrefixCache(decoder, 10**9), random_ids(2 * MAX_CHUNK + 10).tolist()
    kept(decoder, cache, tokens)
    assert cache.begin(tokens).position == 2 * MAX_CHUNK
    assert cache.begin([*tokens[: MAX_CHUNK + 5], 1, 2]).position == MAX_CHUNK
    state = decoder.new_state()
    decoder.forward(state, np.array(tokens[1:]))
    cache.keep(tokens[1:], state, fed_as_prompt=False)
    assert len(cache) == 1


@pytest.mark.parametrize("form", FORMS)
def test_dogestep_gives_the_same_logits_wherever_a_prompt_is_cut(form: str, tmp_path: Path) -> None:
    decoder, ids = exported(tiny_model(**FORMS[form]), tmp_path, "int8", operators=True), random_ids(150)
    assert decoder.cuts_freely
    whole = feed(decoder, ids, [150])
    for lengths in ([1, 149], [60, 4, 1, 85], [63, 2, 85], [30, 30, 30, 30, 30], [150 - 64, 64]):
        np.testing.assert_array_equal(feed(decoder, ids, lengths), whole)


CONVERSATION = [random_ids(length, seed).tolist() for seed, length in enumerate([40, 9, 30, 5, 50])]


@pytest.mark.parametrize("operators", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 3}, {"repetition_penalty": 1.3}], ids=str)
@pytest.mark.parametrize("window", [64, 1024])
def test_no_answer_of_a_conversation_changes(
    window: int, options: dict[str, Any], operators: bool, tmp_path: Path
) -> None:
    decoder = exported(tiny_model(keep_window_size=window), tmp_path, "int8", operators=operators)
    alone, caching = Model(decoder), Model(decoder, max_streams=2, cache_mb=100)
    said: list[int] = random_ids(300, seed=9).tolist() if window > 64 else []
    for turn in CONVERSATION:
        said += turn
        expected = alone.generate(said, max_new_tokens=12, **options).token_ids
        assert caching.generate(said, max_new_tokens=12, **options).token_ids == expected
        said += expected
    prefixes = caching.answers.merger.prefixes
    assert prefixes is not None
    if operators or window > MAX_CHUNK:
        assert prefixes.tokens_found > 100


def test_a_conversation_feeds_only_what_is_new() -> None:
    decoder = BigramDecoder(random_table(97), keep_window_size=500)
    model = Model(decoder, max_streams=2, cache_mb=100)
    first = [*range(50)]
    answer = model.generate(first, max_new_tokens=5).token_ids
    decoder.fed.clear()
    model.generate([*first, *answer, 7, 8], max_new_tokens=1)
    assert decoder.fed == [answer[-1], 7, 8]


@pytest.mark.parametrize("size", [-1, True, "2", float("nan"), float("inf")])
def test_an_impossible_size_is_refused(size: Any) -> None:
    with pytest.raises(OptionError, match=r"cache_mb is .*; it must be a number of megabytes, 0 for no cache"):
        Model(BigramDecoder(random_table(97)), max_streams=1, cache_mb=size)


def test_a_cache_goes_with_merged_calls() -> None:
    with pytest.raises(OptionError, match="cache_mb goes with max_streams"):
        Model(BigramDecoder(random_table(97)), cache_mb=1)
