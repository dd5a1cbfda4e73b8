"""The greedy continuation of a prompt, by any model that is fed token ids: an exported decoder or PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..runtime.decoder import Decoder

# Feeds one stream int64 [S] tokens, S >= 1. Returns float32 [n, vocab] logits, the last row those of the last token.
Feed = Callable[[NDArray[np.int64]], NDArray[np.float32]]


def new_stream(decoder: Decoder) -> Feed:
    """An empty stream of an exported decoder."""
    return partial(decoder.forward, decoder.new_state())


def greedy_steps(feed: Feed, prompt_ids: NDArray[np.int64]) -> Iterator[int]:
    """The most likely token after a prompt, int64 [S], S >= 1, then the one after that, and so on without end.

    The model runs when a token is asked for, once for each.
    """
    token = np.array([feed(prompt_ids)[-1].argmax()])
    while True:
        yield int(token[0])
        token[0] = feed(token)[-1].argmax()


def greedy_tokens(decoder: Decoder, prompt_ids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first `count` tokens with which a decoder continues int64 [S] tokens from an empty state: int64 [count]."""
    return np.fromiter(islice(greedy_steps(new_stream(decoder), prompt_ids), count), np.int64, count)
