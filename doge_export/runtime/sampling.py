"""From logits to a token: the filters of transformers' `generate` as small pure functions on 1-D float32 arrays.

Order, as in transformers: repetition penalty, temperature, top-k, top-p, min-p. Each `apply_*` returns a new array of
the shape it was given, with -inf for what it removes. `candidates` runs the same filters but hands only the survivors
from one to the next, so that after the first one hardly any of the vocabulary is touched again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .settings import GenerationOptions

Logits = NDArray[np.float32]
Indices = NDArray[np.int64]


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


def apply_top_k(logits: Logits, top_k: int) -> Logits:
    """Keep the `top_k` largest of float32 [vocab], and every one that equals the smallest of them; 0 keeps all."""
    return _masked(logits, _select_top_k(logits, top_k))


def apply_top_p(logits: Logits, top_p: float) -> Logits:
    """Keep the fewest best of float32 [vocab] whose probabilities add up to `top_p`, at least one; 1 keeps all.

    Among equal logits the lower token id is kept first, as in `greedy`; transformers leaves that to its sort.
    """
    return _masked(logits, _select_top_p(logits, top_p))


def apply_min_p(logits: Logits, min_p: float) -> Logits:
    """Keep those of float32 [vocab] with at least `min_p` times the probability of the best; 0 keeps all."""
    return _masked(logits, _select_min_p(logits, min_p))


def softmax(logits: Logits) -> NDArray[np.float32]:
    """Probabilities, float32 [vocab], of float32 [vocab] with at least one finite value."""
    weights = np.exp(logits - logits.max())
    probabilities: NDArray[np.float32] = weights / weights.sum()
    return probabilities


def greedy(logits: Logits) -> int:
    """Index of the largest of float32 [vocab]; the lowest among equals."""
    return int(np.argmax(logits))


def sample(logits: Logits, rng: np.random.Generator) -> int:
    """Index drawn from softmax(logits), float32 [vocab], by one number of `rng`; never one whose logit is -inf."""
    cumulative = np.cumsum(np.exp(logits - logits.max()), dtype=np.float64)
    total = cumulative[-1]
    index = np.searchsorted(cumulative, rng.random() * total, side="right")
    # Rounding can carry the product up to the total itself; the last index of any weight is then the one meant.
    return int(min(index, np.searchsorted(cumulative, total, side="left")))


def candidates(logits: Logits, options: GenerationOptions) -> tuple[Indices, Logits]:
    """What temperature, top-k, top-p and min-p leave of float32 [vocab].

    Returns the surviving token ids in ascending order, int64 [n], and their scaled logits, float32 [n]; n >= 1.
    Needs options.temperature > 0.
    """
    kept = apply_temperature(logits, options.temperature)
    ids = np.arange(len(logits))
    filters: tuple[tuple[bool, Callable[[Logits], Indices]], ...] = (
        (options.top_k > 0, lambda rest: _select_top_k(rest, options.top_k)),
        (options.top_p < 1, lambda rest: _select_top_p(rest, options.top_p)),
        (options.min_p > 0, lambda rest: _select_min_p(rest, options.min_p)),
    )
    for in_use, select in filters:
        if in_use:
            chosen = select(kept)
            ids, kept = ids[chosen], kept[chosen]
    return ids, kept


def _masked(logits: Logits, kept: Indices) -> Logits:
    masked = np.full_like(logits, -np.inf)
    masked[kept] = logits[kept]
    return masked


# The three selections take float32 [n] and return the indices that stay, ascending.


def _select_top_k(logits: Logits, top_k: int) -> Indices:
    if top_k == 0 or top_k >= len(logits):
        return np.arange(len(logits))
    smallest_kept = np.partition(logits, -top_k)[-top_k]
    return np.flatnonzero(logits >= smallest_kept)


def _select_top_p(logits: Logits, top_p: float) -> Indices:
    if top_p >= 1:
        return np.arange(len(logits))
    probabilities = softmax(logits)
    # All tokens below this floor together weigh less than what is removed anyhow, so only the others need sorting.
    contenders = np.flatnonzero(probabilities >= (1 - top_p) / len(logits))
    best_first = contenders[np.argsort(-logits[contenders], kind="stable")]
    weights = probabilities[best_first].astype(np.float64)
    weight_of_better = np.cumsum(weights) - weights
    return np.sort(best_first[weight_of_better < top_p])


def _select_min_p(logits: Logits, min_p: float) -> Indices:
    # Probabilities relative to the best: their common denominator cancels.
    return np.flatnonzero(np.exp(logits - logits.max()) >= np.float32(min_p))
