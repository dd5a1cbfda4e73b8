"""From logits to a token: the filters of transformers' `generate` as small pure functions on 1-D float32 arrays.

Order, as in transformers: repetition penalty, temperature, top-k, top-p, min-p. The last three return the indices that
they leave, and `candidates` hands only those to the next one. So after the first, little of the vocabulary is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .generation_options import GenerationOptions

Logits = NDArray[np.float32]
Indices = NDArray[np.int64]

BLOCK = 256  # tokens whose weights are summed together before one is drawn
FLOORS = (1e-1, 1e-2, 1e-3, 1e-4, 0.0)  # of the best weight: top-p looks at those above one, seldom at all


def apply_repetition_penalty(logits: Logits, token_ids: Indices, penalty: float) -> Logits:
    """Divide the positive and multiply the negative logits of `token_ids` by `penalty` (arXiv 1909.05858).

    logits: float32 [vocab]. token_ids: int64 [n], repeats count once. Returns float32 [vocab].
    """
    penalised = logits.copy()
    seen = logits[token_ids]
    penalised[token_ids] = np.where(seen < 0, seen * np.float32(penalty), seen / np.float32(penalty))
    return penalised


def apply_temperature(logits: Logits, temperature: float) -> Logits:
    """float32 [vocab] divided by `temperature` > 0."""
    return logits / np.float32(temperature)


def top_k(logits: Logits, k: int) -> Indices:
    """The k largest of float32 [n], and all that equal the smallest of them; 0 leaves all. Ascending indices."""
    if k == 0 or k >= len(logits):
        return np.arange(len(logits))
    smallest_left = np.partition(logits, -k)[-k]
    return np.flatnonzero(logits >= smallest_left)


def top_p(logits: Logits, p: float) -> Indices:
    """The fewest best of float32 [n] whose probabilities add up to p, at least one; 1 leaves all. Ascending indices.

    Among equal logits the lower token id comes first, as in `greedy`; transformers leaves that to its sort.
    """
    if p >= 1:
        return np.arange(len(logits))
    weights = _weights(logits)
    wanted = p * float(weights.sum())
    for floor in FLOORS:
        contenders = np.flatnonzero(weights >= floor)
        if weights[contenders].sum() >= wanted:
            break  # enough others come before all that is below the floor
    best_first = contenders[np.argsort(-logits[contenders], kind="stable")]
    sorted_weights = weights[best_first].astype(np.float64)
    weight_of_better = np.cumsum(sorted_weights) - sorted_weights
    return np.sort(best_first[weight_of_better < wanted])


def min_p(logits: Logits, p: float) -> Indices:
    """Those of float32 [n] with at least p times the probability of the best; 0 leaves all. Ascending indices."""
    return np.flatnonzero(_weights(logits) >= np.float32(p))


def greedy(logits: Logits) -> int:
    """Index of the largest of float32 [vocab]; the lowest among equals."""
    return int(np.argmax(logits))


def sample(logits: Logits, rng: np.random.Generator) -> int:
    """Index drawn from softmax(logits), float32 [vocab], by one number of `rng`; never one whose logit is -inf."""
    return sample_at(logits, rng.random())


def sample_at(logits: Logits, number: float) -> int:
    """Index drawn from softmax(logits), float32 [vocab], by a number from 0 to 1; never one whose logit is -inf."""
    weights = _weights(logits)
    # Which block first, then which of its tokens: running sums over the whole vocabulary take longer than all the rest.
    blocks = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), BLOCK)), dtype=np.float64)
    drawn = number * blocks[-1]
    block = _first_above(blocks, drawn)
    before = blocks[block - 1] if block else 0.0
    inside = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
    return block * BLOCK + _first_above(inside, drawn - before)


def candidates(logits: Logits, options: GenerationOptions) -> tuple[Indices, Logits]:
    """The tokens of float32 [vocab] that temperature, top-k, top-p and min-p leave to draw from.

    Returns their ids in ascending order, int64 [n], and their scaled logits, float32 [n]; n >= 1. Needs
    options.temperature > 0.
    """
    left = apply_temperature(logits, options.temperature)
    ids = _all_ids(len(logits))
    filters: tuple[tuple[bool, Callable[[Logits], Indices]], ...] = (
        (options.top_k > 0, lambda rest: top_k(rest, options.top_k)),
        (options.top_p < 1, lambda rest: top_p(rest, options.top_p)),
        (options.min_p > 0, lambda rest: min_p(rest, options.min_p)),
    )
    for in_use, select in filters:
        if in_use:
            chosen = select(left)
            ids, left = ids[chosen], left[chosen]
    return ids, left


@lru_cache(maxsize=4)
def _all_ids(count: int) -> Indices:
    ids = np.arange(count)
    ids.flags.writeable = False  # everyone gets the same
    return ids


def _first_above(cumulative: NDArray[np.float64], drawn: float) -> int:
    """The first index whose running sum is above `drawn`, or else the last one of any weight.

    Rounding can carry `drawn` up to the total, which no running sum is above.
    """
    index = np.searchsorted(cumulative, drawn, side="right")
    return int(min(index, np.searchsorted(cumulative, cumulative[-1], side="left")))


def _weights(logits: Logits) -> NDArray[np.float32]:
    """Probabilities up to their common factor, the largest 1: a new float32 [n]."""
    weights: NDArray[np.float32] = logits - logits.max()
    return np.exp(weights, out=weights)
