"""How fast one greedy stream is. Every measurement of this toolkit uses this one definition of tokens/s.

- Prefill: the tokens of the prompt, divided by the time until the first new token is chosen.
- Decode: the new tokens after the first, divided by the time they took.

So `new_tokens` counts decoding steps: the first new token belongs to the prompt. `GenerationResult` has the same two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..runtime.decoder import Decoder
from .greedy import Feed, greedy_steps, new_stream
from .machine import cpu_name

SPEED_PROMPT, SPEED_TOKENS, SPEED_ROUNDS = 64, 64, 3
WARM_UP_TOKENS = 16


@dataclass(frozen=True)
class Speed:
    """The rates of one greedy stream, as medians of SPEED_ROUNDS rounds.

    Attributes:
        prefill_tokens_per_s, decode_tokens_per_s: rates as the module defines them.
        prompt_tokens: tokens before the first new one.
        new_tokens: decoding steps, one for each new token after the first.
        threads: of one operator.
        processor: its name; None in reports of earlier versions.
        kernels: who computed, onnxruntime's operators or our own; None in reports of earlier versions.
    """

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    prompt_tokens: int
    new_tokens: int
    threads: int
    processor: str | None = None
    kernels: str | None = None


@dataclass(frozen=True)
class GreedyTimes:
    """One round of one stream.

    Attributes:
        prompt_tokens: tokens fed before the first new one.
        new_tokens: decoding steps, one for each new token after the first.
        first_token_s: seconds from an open model to the first new token; the empty state is made in this time.
        prefill_s: seconds that the prompt took, up to the choice of the first new token.
        decode_s: seconds that the decoding steps took.
    """

    prompt_tokens: int
    new_tokens: int
    first_token_s: float
    prefill_s: float
    decode_s: float

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill_s

    @property
    def decode_tokens_per_s(self) -> float:
        """New tokens after the first per second."""
        return self.new_tokens / self.decode_s


def measure_speed(decoder: Decoder) -> Speed:
    """Time a decoder on a random prompt."""
    ids = random_prompt(decoder.vocab_size, SPEED_PROMPT)
    rounds = list(time_rounds(partial(new_stream, decoder), ids, SPEED_TOKENS, SPEED_ROUNDS))
    return Speed(
        prefill_tokens_per_s=float(np.median([times.prefill_tokens_per_s for times in rounds])),
        decode_tokens_per_s=float(np.median([times.decode_tokens_per_s for times in rounds])),
        prompt_tokens=SPEED_PROMPT,
        new_tokens=SPEED_TOKENS,
        threads=decoder.threads,
        processor=cpu_name(),
        kernels=decoder.kernels,
    )


def random_prompt(vocab_size: int, tokens: int) -> NDArray[np.int64]:
    """The same random token ids every time: int64 [tokens]."""
    return np.random.default_rng(0).integers(vocab_size, size=tokens)


def time_rounds(
    open_stream: Callable[[], Feed], prompt_ids: NDArray[np.int64], new_tokens: int, rounds: int
) -> Iterator[GreedyTimes]:
    """Warm up, then time one round whenever the next is asked for. The arguments are those of `time_greedy`."""
    time_greedy(open_stream, prompt_ids, min(WARM_UP_TOKENS, new_tokens))
    for _ in range(rounds):
        yield time_greedy(open_stream, prompt_ids, new_tokens)


def time_greedy(open_stream: Callable[[], Feed], prompt_ids: NDArray[np.int64], new_tokens: int) -> GreedyTimes:
    """Time one round: a new stream, the prompt, int64 [S], and `new_tokens` decoding steps."""
    start = time.perf_counter()
    steps = greedy_steps(open_stream(), prompt_ids)
    opened = time.perf_counter()
    next(steps)
    first = time.perf_counter()
    for _ in islice(steps, new_tokens):
        pass
    end = time.perf_counter()
    return GreedyTimes(len(prompt_ids), new_tokens, first - start, first - opened, end - first)
