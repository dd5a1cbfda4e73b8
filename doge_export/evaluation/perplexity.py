"""Perplexity of a text, by windows that slide over it.

    scorer = DecoderScorer(model.decoder)
    result = perplexity(scorer, model.tokenizer.encode(text), text_bytes=len(text.encode()))

The first window scores all of its tokens but the first, which has nothing before it. Every further window begins
`stride` tokens later and scores only its last `stride` tokens, so each of these has at least window - stride tokens
before it. Nothing here needs torch or the harness; `torch_model` scores a PyTorch model in the same way.
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
    """A model that tells how likely given tokens are."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence it can be given."""

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """Of int64 [S] tokens the last `count`, each given all those before it: nats, [count], 1 <= count < S."""


@dataclass(frozen=True)
class WindowScore:
    """The scored tokens of one window: where they begin, how many there are, and minus their log-likelihood in nats."""

    start: int
    tokens: int
    negative_log_likelihood: float


@dataclass(frozen=True)
class Perplexity:
    """How well a text is predicted.

    Attributes:
        tokens: scored: all of the text but the first one.
        window, stride: tokens, see the module.
        per_token: exp of the mean negative log-likelihood of a token.
        bits_per_byte: the negative log-likelihood in bits by the bytes of the whole text: it compares models with
            different tokenizers. per_byte is 2 to that power. Both None where the bytes are not known.
        stderr: standard error of the mean negative log-likelihood per token (nats), over windows, which are taken to be
            independent; None for fewer than two.
        windows: the scores of each window.
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
    """Scores by an exported decoder."""

    def __init__(self, decoder: TokenDecoder) -> None:
        self._decoder = decoder

    @property
    def longest(self) -> int:
        """The window: more tokens would be a stream in which keys are dropped."""
        return self._decoder.keep_window_size

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """See `Scorer`."""
        state, before = self._decoder.new_state(), len(token_ids) - count
        rows = self._decoder.forward(state, token_ids[:before])
        found = [token_log_probs(rows, token_ids[before : before + 1])]
        for start in range(before, len(token_ids) - 1, PIECE):
            stop = min(start + PIECE, len(token_ids) - 1)
            rows = self._decoder.forward(state, token_ids[start:stop], "all")
            found.append(token_log_probs(rows, token_ids[start + 1 : stop + 1]))
        return np.concatenate(found)


def token_log_probs(logits: NDArray[np.float32], token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-probability, in nats, of one token per row: float32 [S, vocab] and int64 [S] to float64 [S]."""
    shifted = logits - logits.max(-1, keepdims=True)
    chosen = shifted[np.arange(len(token_ids)), token_ids].astype(np.float64)
    np.exp(shifted, out=shifted)
    log_probs: NDArray[np.float64] = chosen - np.log(shifted.sum(-1, dtype=np.float64))
    return log_probs


def windows(tokens: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, scored) of each window over a text of so many tokens; every token but the first is scored once."""
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
        token_ids: of the text, at least 2.
        text_bytes: of the text in UTF-8, for the measures per byte.
        window: tokens the model sees at once; None takes DEFAULT_WINDOW or what the model can, the smaller of them.
        stride: tokens from window to window, 1 to window - 1; None takes half the window.
        progress: called with the tokens scored by each window.

    Raises:
        OptionError: a window or stride that is not allowed, or a text that is too short.
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
    """The window and stride to use; OptionError for those that are not allowed, or a text that is too short."""
    if len(token_ids) < 2:
        raise OptionError(f"the text has {len(token_ids)} tokens, but perplexity needs at least 2; give a longer one")
    window = min(DEFAULT_WINDOW, longest) if window is None else window
    if not 2 <= window <= longest:
        raise OptionError(f"window is {window}, but must be from 2 to {longest}, which is what the model sees at once")
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride < window:
        raise OptionError(f"stride is {stride}, but must be from 1 to {window - 1}, less than the window")
    return window, stride


def ratio_stderr(scores: Sequence[WindowScore]) -> float | None:
    """Standard error of the sum of negative log-likelihoods by the sum of tokens, windows being independent."""
    if len(scores) < 2:
        return None
    nll = np.array([score.negative_log_likelihood for score in scores])
    tokens = np.array([score.tokens for score in scores], np.float64)
    residuals = nll - nll.sum() / tokens.sum() * tokens
    return float(np.sqrt(len(scores) / (len(scores) - 1) * (residuals**2).sum()) / tokens.sum())
