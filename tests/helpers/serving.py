"""A server in a thread, and models for it that answer at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doge_export.runtime.generation_options import GenerationDefaults
from doge_export.runtime.model import Model
from doge_export.serve.app import create_app
from doge_export.serve.engine import Engine
from doge_export.serve.limits import Limits, Places
from doge_export.serve.metrics import Metrics
from doge_export.serve.schemas import ReasoningFormat
from doge_export.serve.server import bound_socket, server_of, url_of
from tests.helpers.fakes import CHATML, BigramDecoder, byte_level_tokenizer, defaults_for, random_table

NAME = "bigram"


class SlowDecoder(BigramDecoder):
    """Takes ten milliseconds for each call."""

    def forward(self, state: Any, token_ids: Any, logits_to_keep: Any = "last") -> NDArray[np.float32]:
        time.sleep(0.01)
        return super().forward(state, token_ids, logits_to_keep)


def bigram_model(
    max_streams: int | None = None, template: str | None = CHATML, slow: bool = False, cache_mb: float = 0
) -> Model:
    """A model whose greedy answers soon end or repeat themselves, and whose sampled ones are garbage."""
    decoder = (SlowDecoder if slow else BigramDecoder)(random_table(259), keep_window_size=2000)
    tokenizer = byte_level_tokenizer(template)
    defaults: GenerationDefaults = defaults_for(tokenizer)
    return Model(decoder, tokenizer, defaults, NAME, max_streams, cache_mb)


@contextmanager
def served(
    models: Mapping[str, Model],
    limits: Limits | None = None,
    key: str | None = None,
    reasoning_format: ReasoningFormat = "none",
) -> Iterator[str]:
    """Serve models that merge calls; the server's address."""
    limits, metrics = limits or Limits(), Metrics()
    engines = {name: Engine(name, model, Places(limits), metrics, reasoning_format) for name, model in models.items()}
    server = server_of(create_app(engines, limits, metrics, key), limits)
    bound = bound_socket("127.0.0.1", 0)
    address = url_of(bound)
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield address
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_until(is_so: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something; AssertionError where it never comes to be."""
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.01)
