"""Calls of several threads, merged into one batch: each is answered as if alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.errors import OptionError, PackageError
from doge_export.runtime.batch import Batch
from doge_export.runtime.model import Model
from tests.helpers.fakes import BigramDecoder, byte_level_tokenizer, random_table
from tests.helpers.models import exported, random_ids, tiny_model

PROMPTS = [random_ids(length, seed).tolist() for seed, length in enumerate([5, 1, 30, 12, 3, 20, 80, 9])]
OPTIONS: list[dict[str, Any]] = [{}, {"temperature": 0.8, "seed": 3}, {"repetition_penalty": 1.2}]


def in_threads(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(call) for call in calls]]


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(1000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to be")


def is_idle() -> bool:
    return not any(thread.name == "doge-batch" for thread in threading.enumerate())


@pytest.mark.slow
@pytest.mark.filterwarnings("error:.*one by one")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_merged_calls_give_the_answers_of_calls_alone(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, rows, forward = exported(tiny_model(keep_window_size=64), tmp_path, "int8"), set(), Batch.forward

    def noting(batch: Batch, token_ids: Any) -> NDArray[np.float32]:
        rows.add(len(token_ids))
        time.sleep(0.005)  # or the first answer ends before the last call comes
        return forward(batch, token_ids)

    monkeypatch.setattr(Batch, "forward", noting)
    alone, merging = Model(decoder), Model(decoder, max_streams=4)
    expected = [alone.generate(prompt, max_new_tokens=40, **options).token_ids for prompt in PROMPTS]
    calls = [partial(merging.generate, prompt, max_new_tokens=40, **options) for prompt in PROMPTS]
    assert [result.token_ids for result in in_threads(calls)] == expected
    assert max(rows) == 4


def test_a_list_a_chat_and_a_stream_share_the_batch() -> None:
    decoder, tokenizer = BigramDecoder(random_table(259), keep_window_size=500), byte_level_tokenizer()
    alone, merging = Model(decoder, tokenizer), Model(decoder, tokenizer, max_streams=3)
    chat = [{"role": "user", "content": "Hi"}]

    def calls(model: Model) -> list[Callable[[], Any]]:
        return [
            lambda: [result.text for result in model.generate(["a", "b", "c"], temperature=1, seed=1)],
            lambda: model.chat(chat, temperature=1, seed=2).text,
            lambda: "".join(model.stream("Once", temperature=1, seed=3)),
            lambda: [result.text for result in model.stream(["d", "e"], temperature=1, seed=4).read_all()],
        ]

    assert in_threads(calls(merging)) == [call() for call in calls(alone)]


def test_the_thread_ends_when_nothing_is_left_to_compute() -> None:
    model = Model(BigramDecoder(random_table(259)), byte_level_tokenizer(), max_streams=2)
    for _ in range(3):
        model.generate("a", max_new_tokens=3)
        wait_until(is_idle)


@pytest.mark.parametrize("leave", ["close", "forget"])
def test_a_stream_that_is_left_gives_its_place_up(leave: str) -> None:
    model = Model(BigramDecoder(random_table(259)), byte_level_tokenizer(), max_streams=1)
    stream = model.stream("a", max_new_tokens=10**9, ignore_eos=True)
    next(stream)
    if leave == "close":
        stream.close()
        assert list(stream) == []
    del stream
    assert model.generate("b", max_new_tokens=3).completion_tokens == 3
    wait_until(is_idle)


def test_a_stop_string_ends_a_merged_answer_too() -> None:
    decoder, tokenizer = BigramDecoder(random_table(259)), byte_level_tokenizer()
    whole = Model(decoder, tokenizer).generate("a", max_new_tokens=30, temperature=1, seed=3).text
    model = Model(decoder, tokenizer, max_streams=2)
    result = model.generate("a", max_new_tokens=10**9, temperature=1, seed=3, stop=whole[9])
    assert (result.text, result.finish_reason) == (whole.partition(whole[9])[0], "stop")
    wait_until(is_idle)


def test_an_error_of_one_request_ends_that_one_alone() -> None:
    decoder, tokenizer = BigramDecoder(random_table(259)), byte_level_tokenizer()
    model = Model(decoder, tokenizer, max_streams=2)
    stream = model.stream("a", max_new_tokens=10**9, ignore_eos=True)
    next(stream)
    with pytest.raises(OptionError, match="no token is left to choose"):
        model.generate("b", suppress_tokens=list(range(259)))
    assert next(stream)
    stream.close()


def test_requests_of_one_reader_are_told_once_a_step() -> None:
    model = Model(BigramDecoder(random_table(6), keep_window_size=500), max_streams=4)
    options = [model.options(max_new_tokens=5, ignore_eos=True)] * 3
    requests, told = model.answers.prepared([[1], [2], [3]], options, frozenset())[0], list[int]()
    model.answers.merger.put(requests, lambda together: told.append(len(together)))
    wait_until(is_idle)
    assert told == [6, 3, 3, 3]  # a prompt's first token and a step more come together


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("error", "told"), [(PackageError("no memory"), PackageError), (KeyError(1), RuntimeError)])
def test_a_decoder_that_fails_ends_every_call_and_the_next_one_is_answered(
    error: Exception, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(BigramDecoder(random_table(259)), byte_level_tokenizer(), max_streams=2)

    def failing(*arguments: Any) -> NDArray[np.float32]:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(BigramDecoder, "forward", failing)
        for call in (lambda: model.generate("a"), lambda: model.generate(["a", "b", "c"])):
            with pytest.raises(told):
                call()
    wait_until(is_idle)
    assert model.generate("a", max_new_tokens=3).completion_tokens == 3


def test_a_call_with_a_state_of_its_own_is_not_merged() -> None:
    model = Model(BigramDecoder(random_table(259)), byte_level_tokenizer(), max_streams=2)
    state = model.prefill("a")
    first = model.generate("b", state=state, max_new_tokens=5)
    assert is_idle() and state.position == 1 + 1 + 4 and state.unfed_token == first.token_ids[-1]


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "2"])
def test_an_impossible_number_of_streams_is_refused(number: Any) -> None:
    with pytest.raises(OptionError, match=r"max_streams is .*; it must be a whole number of at least 1, or None"):
        Model(BigramDecoder(random_table(259)), max_streams=number)
