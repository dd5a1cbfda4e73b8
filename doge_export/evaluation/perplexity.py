"""Perplexity of a text, by windows that slide over it.

    scorer = DecoderScorer(model.decoder)
    result = perplexity(scorer, model.tokenizer.encode(text), text_bytes=len(text.encode()))

The first window scores all of its tokens but the first, which has nothing before it. Every further window begins
`stride` tokens later and scores only its last `stride` tokens. So each of these has at least window - stride tokens
before it. This module needs neither torch nor the harness; `torch_model` scores a PyTorch model in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from ..runtime.generation import TokenDecoder

DEFAULT_WINDOW = 2048
PIECE = 128  # tokens whose logits are in memory at once


class Scorer(Protocol):
    """A model that gives the log-probabilities of given tokens."""

    @property
    def longest(self) -> int:
        """Length of the longest sequence that it takes, in tokens."""

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """Log-probability, in nats, of each of the last `count` tokens, given all tokens before it.

        token_ids: int64 [S]. count: 1 <= count < S. Returns float64 [count].
        """


@dataclass(frozen=True)
class WindowScore:
    """The scored tokens of one window.

    Attributes:
        start: position of the first of them in the text.
        tokens: their number.
        negative_log_likelihood: minus the sum of their log-probabilities, in nats.
    """

    start: int
    tokens: int
    negative_log_likelihood: float


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        tokens: number of scored tokens: all of the text but the first one.
        window, stride: in tokens; the module says how they are used.
        per_token: exp of the mean negative log-likelihood of a token.
        bits_per_byte: negative log-likelihood in bits, divided by the bytes of the whole text. It compares models with
            different tokenizers. None where the bytes are not known.
        per_byte: 2 to the power of bits_per_byte, or None.
        stderr: standard error of the mean negative log-likelihood of a token, in nats. It is taken over the windows, as
            if they were independent; None for fewer than two.
        windows: the score of each window.
    """

    tokens: int
    window: int
    stride: int
    per_token: float
    bits_per_byte: float | None
    per_byte: float | None
    stderr: float | None
    windows: tuple[WindowScore, ...]


class DecoderScorer:
    """Scores tokens by an exported decoder; see `Scorer`."""

    def __init__(self, decoder: TokenDecoder) -> None:
        self._decoder = decoder

    @property
    def longest(self) -> int:
        """The window: a longer sequence would evict keys, and its numbers would be those of a stream."""
        return self._decoder.keep_window_size

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """Log-probabilities, in nats, of the last `count` of int64 [S] tokens: float64 [count]."""
        state, before = self._decoder.new_state(), len(token_ids) - count
        rows = self._decoder.forward(state, token_ids[:before])
        found = [token_log_probs(rows, token_ids[before : before + 1])]
        for start in range(before, len(token_ids) - 1, PIECE):
            stop = min(start + PIECE, len(token_ids) - 1)
            rows = self._decoder.forward(state, token_ids[start:stop], "all")
            found.append(token_log_probs(rows, token_ids[start + 1 : stop + 1]))
        return np.concatenate(found)


def token_log_probs(logits: NDArray[np.float32], token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-probability, in nats, of one token for each row of logits: float32 [S, vocab], int64 [S] -> float64 [S]."""
    shifted = logits - logits.max(-1, keepdims=True)
    chosen = shifted[np.arange(len(token_ids)), token_ids].astype(np.float64)
    np.exp(shifted, out=shifted)
    log_probs: NDArray[np.float64] = chosen - np.log(shifted.sum(-1, dtype=np.float64))
    return log_probs


def windows(tokens: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, scored) of each window over a text of `tokens` tokens. Each token but the first is scored once."""
    stop, scored_up_to = min(window, tokens), 1
    while scored_up_to < tokens:
        yield max(0, stop - window), stop, stop - scored_up_to
        scored_up_to = stop
        stop = min(stop + stride, tokens)


def perplexity(
    scorer: Scorer,
    token_ids: Sequence[int] | NDArray[np.int64],
    *,
    text_bytes: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Perplexity:
    """Measure a text of token ids.

    Args:
        scorer: the model.
        token_ids: int64 [S] tokens of the text, S >= 2.
        text_bytes: length of the text in UTF-8, for the measures per byte.
        window: tokens that the model sees at once; None takes DEFAULT_WINDOW, or the scorer's `longest` if smaller.
        stride: tokens from window to window, 1 to window - 1; None takes half the window.
        progress: called after each window with the number of tokens that it scored.

    Raises:
        OptionError: of `check_text`.
    """
    ids = np.asarray(token_ids, dtype=np.int64)
    window, stride = check_text(ids, window, stride, scorer.longest)
    scores = []
    for start, stop, count in windows(len(ids), window, stride):
        nll = -float(scorer.log_probs(ids[start:stop], count).sum())
        scores.append(WindowScore(stop - count, count, nll))
        progress(count)
    tokens, nll = len(ids) - 1, sum(score.negative_log_likelihood for score in scores)
    bits = None if text_bytes is None else nll / math.log(2) / text_bytes
    return Perplexity(
        tokens=tokens,
        window=window,
        stride=stride,
        per_token=math.exp(nll / tokens),
        bits_per_byte=bits,
        per_byte=None if bits is None else 2**bits,
        stderr=ratio_stderr(scores),
        windows=tuple(scores),
    )


def check_text(token_ids: NDArray[np.int64], window: int | None, stride: int | None, longest: int) -> tuple[int, int]:
    """The window and stride to use; the arguments are those of `perplexity`.

    Raises:
        OptionError: the text is too short, or the window or the stride is outside its limits.
    """
    if len(token_ids) < 2:
        raise OptionError(f"the length of the text is {len(token_ids)} tokens; it must be at least 2")
    window = min(DEFAULT_WINDOW, longest) if window is None else window
    if not 2 <= window <= longest:
        raise OptionError(f"window is {window}; it must be from 2 to {longest}, the tokens that the model sees at once")
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride < window:
        raise OptionError(f"stride is {stride}; it must be from 1 to {window - 1}, less than the window")
    return window, stride


def ratio_stderr(scores: Sequence[WindowScore]) -> float | None:
    """Standard error of (sum of negative log-likelihoods / sum of tokens); None for fewer than two windows.

    The windows are taken to be independent; it is the linearised error of a ratio estimator.
    """
    if len(scores) < 2:
        return None
    nll = np.array([score.negative_log_likelihood for score in scores])
    tokens = np.array([score.tokens for score in scores], np.float64)
    residuals = nll - nll.sum() / tokens.sum() * tokens
    return float(np.sqrt(len(scores) / (len(scores) - 1) * (residuals**2).sum()) / tokens.sum())
