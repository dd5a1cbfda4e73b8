"""Log-probabilities of tokens, as the model has them before any option changes its logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .sampling import Indices, Logits


@dataclass(frozen=True)
class TokenLogprobs:
    """A token of an answer, and those that the model held for the likeliest in its place.

    token_id, logprob: the token, and the natural logarithm of its probability.
    best: so many (token id, logarithm) pairs as were asked for, the likeliest first, the lower id among equals.
    """

    token_id: int
    logprob: float
    best: tuple[tuple[int, float], ...]


def token_logprobs(logits: Logits, token_id: int, count: int) -> TokenLogprobs:
    """The log-probabilities of a token and of the `count` best by float32 [vocab] logits."""
    total = log_total(logits)
    best = tuple((int(index), float(logits[index]) - total) for index in best_first(logits, count))
    return TokenLogprobs(int(token_id), float(logits[token_id]) - total, best)


def log_total(logits: Logits) -> float:
    """The logarithm of the sum of exp(logits), float32 [vocab]; a logit minus it is a log-probability."""
    largest = logits.max()
    return float(largest) + float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))


def best_first(logits: Logits, count: int) -> Indices:
    """Indices of the `count` largest of float32 [vocab], the largest first, the lower index among equals."""
    count = min(count, len(logits))
    if count == 0:
        return np.empty(0, dtype=np.int64)
    contenders = np.flatnonzero(logits >= np.partition(logits, -count)[-count])
    return contenders[np.argsort(-logits[contenders], kind="stable")][:count]
