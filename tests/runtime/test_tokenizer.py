"""Long texts, which are cut into tokens while other threads go on."""

from __future__ import annotations

import threading
import time

import pytest

from doge_export.runtime.tokenizer import LONG_TEXT, Tokenizer
from tests.helpers.fakes import byte_level_tokenizer, sentencepiece_tokenizer


@pytest.mark.parametrize("tokenizer", [byte_level_tokenizer(), sentencepiece_tokenizer()], ids=["bytes", "pieces"])
def test_a_long_text_has_the_tokens_that_the_library_gives_one(tokenizer: Tokenizer) -> None:
    text = "Hello world<|im_end|>é\U0001f600 " * (LONG_TEXT // 20)
    assert len(text) > LONG_TEXT
    assert tokenizer.encode(text) == tokenizer._backend.encode(text).ids


def test_a_long_text_lets_other_threads_run() -> None:
    tokenizer, text = byte_level_tokenizer(), "some words, and more " * 40_000
    worker = threading.Thread(target=tokenizer.encode, args=(text,))
    start, longest, last = time.perf_counter(), 0.0, time.perf_counter()
    worker.start()
    while worker.is_alive():
        time.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    assert longest < (time.perf_counter() - start) / 2
