"""How likely does a model hold given continuations of a text? Their shared beginning is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .generation import TokenDecoder
from .logprobs import TokenLogprobs, token_logprobs
from .prefix import shared_length
from .sampling import Logits
from .state import State


@dataclass(frozen=True)
class Score:
    """The likelihood of one continuation.

    logprob: the natural logarithm of its probability, the sum over its tokens.
    token_ids, logprobs: its tokens, and the log-probability of each with the best in its place, if they are asked for.
    is_greedy: whether a greedy answer would begin with it.
    """

    logprob: float
    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    is_greedy: bool


@dataclass(frozen=True)
class Continuation:
    """A sequence of which the tokens from `start` on are scored; at least one stands before them."""

    token_ids: list[int]
    start: int


def score(decoder: TokenDecoder, state: State, continuations: Sequence[Continuation], best: int) -> list[Score]:
    """Score sequences that go on where a state stands, and feed their shared beginning to that state.

    best: likeliest tokens to return in each place.
    """
    first = continuations[0].token_ids
    shared = min(min(each.start - 1, shared_length(first, each.token_ids)) for each in continuations)
    if shared:
        decoder.forward(state, np.asarray(first[:shared], dtype=np.int64))
    return [_scored(decoder, state, shared, each, best) for each in continuations]


def _scored(decoder: TokenDecoder, state: State, shared: int, continuation: Continuation, best: int) -> Score:
    position = state.position
    goes_back = position + len(continuation.token_ids) - shared <= decoder.keep_window_size
    own = state if goes_back else state.copy()
    token_ids = continuation.token_ids[continuation.start :]
    logprobs, is_greedy = [], True
    rows = _rows(decoder, own, continuation.token_ids[shared:-1], len(token_ids))
    for token_id, row in zip(token_ids, rows, strict=True):
        logprobs.append(token_logprobs(row, token_id, best))
        is_greedy &= int(np.argmax(row)) == token_id
    if goes_back:
        state.truncate(position)
    return Score(sum(token.logprob for token in logprobs), token_ids, logprobs, is_greedy)


def _rows(decoder: TokenDecoder, state: State, token_ids: Sequence[int], count: int) -> Iterator[Logits]:
    """Logits after each of the last `count` tokens, in chunks, so that long texts need no memory for all of them."""
    fed = 0
    while fed < len(token_ids):
        chunk = token_ids[fed : fed + state.room_for_chunk()]
        fed += len(chunk)
        wanted = min(len(chunk), fed - (len(token_ids) - count))
        rows = decoder.forward(state, np.asarray(chunk, dtype=np.int64), max(wanted, 1))
        if wanted > 0:
            yield from rows
