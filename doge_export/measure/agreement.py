"""How far two sets of logits are apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]

TINY = float(np.finfo(np.float32).tiny)  # stands in for a scale of zero
DECIDED = float(np.log(2))  # nats of lead; the reference finds its first token at least twice as likely as its second


@dataclass(frozen=True)
class Agreement:
    """How far two sets of logits [tokens, vocab] are apart.

    Attributes:
        logit_difference: largest |difference|, as a share of the reference's largest |logit|.
        centered_rms_error: root mean square difference of the logits, each row's mean removed, as a share of the
            reference's own.
        kl_mean, kl_max: Kullback-Leibler divergence from the reference, nats per token.
        top1: share of tokens at which both find the same token most likely.
        decided_top1: the same where the reference's first token is at least twice as likely as its second.
    """

    logit_difference: float
    centered_rms_error: float
    kl_mean: float
    kl_max: float
    top1: float
    decided_top1: float

    @classmethod
    def between(cls, reference: Logits, logits: Logits) -> Agreement:
        """Compare logits with the reference, float32 [tokens, vocab] each; not-a-number counts as infinitely far."""
        if not np.isfinite(logits).all():
            return cls(np.inf, np.inf, np.inf, np.inf, 0.0, 0.0)
        centered, other = (x - x.mean(-1, keepdims=True, dtype=np.float64) for x in (reference, logits))
        log_p, log_q = log_softmax(centered), log_softmax(other)
        kl = kl_divergence(log_p, log_q)
        same = reference.argmax(-1) == logits.argmax(-1)
        best_two = np.partition(log_p, -2, axis=-1)[:, -2:]
        decided = best_two[:, 1] - best_two[:, 0] >= DECIDED
        scale = max(float(np.abs(reference).max()), TINY)
        return cls(
            logit_difference=float(np.abs(reference - logits).max()) / scale,
            centered_rms_error=rms(centered - other) / max(rms(centered), TINY),
            kl_mean=float(kl.mean()),
            kl_max=float(kl.max()),
            top1=float(same.mean()),
            decided_top1=float(same[decided].mean()) if decided.any() else 1.0,
        )


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis: float64 [..., vocab] -> the same shape."""
    shifted = logits - logits.max(-1, keepdims=True)
    normalized: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalized


def kl_divergence(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row, in nats: float64 [tokens, vocab] twice -> [tokens]."""
    divergence: NDArray[np.float64] = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1), 0.0)
    return divergence  # rounding can make it -1e-17, hence the maximum


def rms(x: NDArray[np.float64]) -> float:
    """Root mean square of a float64 array of any shape."""
    return float(np.sqrt(np.mean(x**2)))
