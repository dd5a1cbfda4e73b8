"""The generation loop in its roles: run the model, filter its logits, choose a token, decide whether to stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import sampling
from .sampling import Logits
from .settings import GenerationOptions

FinishReason = Literal["stop", "length"]


class DecoderState(Protocol):
    """What a stream of tokens has left behind in the model.

    unfed_token: the token that comes next in the stream but is not fed yet; None after any change of the position.
    metadata: text by name that is saved with the state.
    """

    unfed_token: int | None
    metadata: dict[str, str]

    @property
    def position(self) -> int:
        """Tokens fed so far."""

    @property
    def overflowed(self) -> bool:
        """Whether earlier keys are gone, so that it cannot be truncated."""

    def seen_tokens(self) -> NDArray[np.int64]:
        """The different tokens fed so far: int64 [n]."""

    def copy(self) -> Self:
        """An independent state at the same position."""

    def truncate(self, position: int) -> None:
        """Forget every token from `position` on, and the unfed one; ContextLengthError when they are gone."""

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write it to a file; StateError when that exists already or cannot be written."""


StateT = TypeVar("StateT", bound=DecoderState)


class TokenDecoder(Protocol[StateT]):
    """Runs the model: tokens in, logits out, the state moves on."""

    @property
    def vocab_size(self) -> int:
        """Number of logits per token."""

    @property
    def keep_window_size(self) -> int:
        """Tokens a state holds before it drops any."""

    def new_state(self) -> StateT:
        """The state before the first token."""

    def load_state(self, path: str | Path) -> StateT:
        """A saved state; StateError when it cannot be read or belongs to another model."""

    def check_state(self, state: StateT) -> None:
        """OptionError for what is no state, StateError for that of another model."""

    def forward(
        self, state: StateT, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] | int = "last"
    ) -> NDArray[np.float32]:
        """Feed int64 [S], S >= 1; float32 [1, S or logits_to_keep, vocab], valid until the next call."""


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
) -> Iterator[GeneratedToken]:
    """Feed `prompt_ids` to `state`, then yield one sampled token after the other.

    prompt_ids: at least one. stop_ids: tokens that end the answer. A token is fed when the next one is asked for, so
    the last one is not: `state.unfed_token` remembers it. The repetition penalty weakens every token that `state` has
    seen, as transformers does with prompt and answer.
    """
    choose = token_chooser(options)
    fed = np.asarray(prompt_ids, dtype=np.int64)
    for count in range(1, options.max_new_tokens + 1):
        logits = decoder.forward(state, fed)[-1]
        if options.repetition_penalty != 1:
            logits = sampling.apply_repetition_penalty(logits, state.seen_tokens(), options.repetition_penalty)
        token_id = choose(logits)
        state.unfed_token = token_id
        is_last = count == options.max_new_tokens
        reason: FinishReason | None = "stop" if token_id in stop_ids else "length" if is_last else None
        yield GeneratedToken(token_id, reason)
        if reason is not None:
            return
        fed = np.array([token_id], dtype=np.int64)


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
