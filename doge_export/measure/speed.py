"""How fast an exported decoder is: one stream, greedy."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtime.decoder import Decoder

SPEED_PROMPT, SPEED_TOKENS, SPEED_ROUNDS = 64, 64, 3


@dataclass(frozen=True)
class Speed:
    """Of one stream, greedy: medians of SPEED_ROUNDS rounds of SPEED_PROMPT prompt tokens and SPEED_TOKENS new ones."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    prompt_tokens: int
    new_tokens: int
    threads: int


def measure_speed(decoder: Decoder) -> Speed:
    """Time a decoder."""
    ids = np.random.default_rng(0).integers(decoder.vocab_size, size=SPEED_PROMPT)
    rounds = [time_greedy(decoder, ids, SPEED_TOKENS) for _ in range(SPEED_ROUNDS + 1)][1:]  # the first one warms up
    _, prefill, decode = np.median(np.array(rounds), axis=0)
    return Speed(
        prefill_tokens_per_s=float(SPEED_PROMPT / prefill),
        decode_tokens_per_s=float(SPEED_TOKENS / decode),
        prompt_tokens=SPEED_PROMPT,
        new_tokens=SPEED_TOKENS,
        threads=decoder.threads,
    )


def time_greedy(decoder: Decoder, ids: NDArray[np.int64], new_tokens: int) -> tuple[float, float, float]:
    """Greedy from a fresh state: seconds to the first token, of the prompt alone, and of `new_tokens` more steps."""
    start = time.perf_counter()
    state = decoder.new_state()
    before = time.perf_counter()
    logits = decoder.forward(state, ids)
    prompt_done = time.perf_counter()
    token = np.array([logits[0].argmax()])
    first = time.perf_counter()
    for _ in range(new_tokens):
        token[0] = decoder.forward(state, token)[0].argmax()
    return first - start, prompt_done - before, time.perf_counter() - first
