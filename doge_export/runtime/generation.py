"""The generation loop in its roles: run the model, filter its logits, choose a token, decide whether to stop."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import sampling
from .sampling import Logits
from .settings import GenerationOptions

FinishReason = Literal["stop", "length"]


class DecoderState(Protocol):
    """What a stream of tokens has left behind in the model."""

    @property
    def position(self) -> int:
        """Tokens fed so far."""

    def truncate(self, position: int) -> None:
        """Forget every token from `position` on."""


StateT = TypeVar("StateT", bound=DecoderState)


class TokenDecoder(Protocol[StateT]):
    """Runs the model: tokens in, logits out, the state moves on."""

    @property
    def vocab_size(self) -> int:
        """Number of logits per token."""

    @property
    def keep_window_size(self) -> int:
        """Longest stream, in tokens."""

    def new_state(self) -> StateT:
        """The state before the first token."""

    def forward(
        self, state: StateT, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] = "last"
    ) -> NDArray[np.float32]:
        """Feed int64 [S], S >= 1; float32 [1 or S, vocab], valid until the next call. May raise ContextLengthError."""


class TokenChooser(Protocol):
    """Chooses a token from float32 [vocab] filtered logits."""

    def __call__(self, logits: Logits) -> int:
        """The id of the chosen token."""


@dataclass(frozen=True)
class GeneratedToken:
    """One new token; `finish_reason` is set on the last one."""

    token_id: int
    finish_reason: FinishReason | None


def generate_tokens(
    decoder: TokenDecoder[StateT],
    state: StateT,
    prompt_ids: Sequence[int],
    options: GenerationOptions,
    stop_ids: frozenset[int],
    *,
    context_ids: Sequence[int] = (),
) -> Iterator[GeneratedToken]:
    """Feed `prompt_ids` to `state`, then yield one sampled token after the other.

    prompt_ids: at least one. stop_ids: tokens that end the answer. context_ids: the tokens already in `state`, which
    only the repetition penalty asks for. A token is fed when the next one is asked for, so the last one never is:
    what `state` holds is told by `state.position`. Raises ContextLengthError when the prompt has no room.
    """
    penalise = RepetitionPenalty(options.repetition_penalty, itertools.chain(context_ids, prompt_ids))
    choose = token_chooser(options)
    fed = np.asarray(prompt_ids, dtype=np.int64)
    for count in range(1, options.max_new_tokens + 1):
        logits = decoder.forward(state, fed)[-1]
        token_id = choose(penalise(logits))
        is_full = count == options.max_new_tokens or state.position >= decoder.keep_window_size
        reason: FinishReason | None = "stop" if token_id in stop_ids else "length" if is_full else None
        yield GeneratedToken(token_id, reason)
        if reason is not None:
            return
        penalise.add(token_id)
        fed = np.array([token_id], dtype=np.int64)


class RepetitionPenalty:
    """The logit filter that remembers: weakens every token seen so far, prompt included, as transformers does."""

    def __init__(self, penalty: float, seen: Iterable[int]) -> None:
        self._penalty = penalty
        self._seen = np.unique(np.fromiter(seen, dtype=np.int64)) if penalty != 1 else np.empty(0, dtype=np.int64)

    def __call__(self, logits: Logits) -> Logits:
        """float32 [vocab] to float32 [vocab]; the very same array when the penalty is 1."""
        if self._penalty == 1:
            return logits
        return sampling.apply_repetition_penalty(logits, self._seen, self._penalty)

    def add(self, token_id: int) -> None:
        """Remember one more token."""
        if self._penalty != 1:
            self._seen = np.union1d(self._seen, [token_id])


def token_chooser(options: GenerationOptions) -> TokenChooser:
    """Greedy at temperature 0, else a sampler with its own random numbers."""
    return sampling.greedy if options.temperature == 0 else Sampler(options)


class Sampler:
    """Chooses by chance among what the filters leave; the same seed draws the same tokens."""

    def __init__(self, options: GenerationOptions) -> None:
        self._options = options
        self._rng = np.random.default_rng(options.seed)

    def __call__(self, logits: Logits) -> int:
        """The id drawn from float32 [vocab] logits."""
        ids, kept = sampling.candidates(logits, self._options)
        return int(ids[sampling.sample(kept, self._rng)])
