"""The generation loop in its roles: run the model, filter its logits, choose a token, decide whether to stop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import StateError
from . import sampling
from .cache import MAX_CHUNK
from .constraints import Constraint
from .generation_options import GenerationOptions
from .logits_processors import LogitsProcessors
from .logprobs import TokenLogprobs, token_logprobs
from .sampling import Logits
from .state import State

OnPrompt = Callable[[int, int], None]  # is told how many tokens of a long prompt are fed, and of how many
FinishReason = Literal["stop", "length"]


class TokenBatch(Protocol):
    """Streams that take their steps together; see `batch.Batch`."""

    states: list[State]

    def open(self, state: State | None = None) -> State:
        """A new stream in the next row, or a copy of `state` there."""

    def close(self, row: int) -> None:
        """Give a row up; the last stream moves into it."""

    def forward(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Feed every stream its token: float32 [rows, vocab], valid until the next call."""


class TokenDecoder(Protocol):
    """Runs the model: tokens in, logits out, the state moves on."""

    @property
    def vocab_size(self) -> int:
        """Number of logits per token."""

    @property
    def keep_window_size(self) -> int:
        """Tokens a state holds before it evicts any."""

    @property
    def kernels(self) -> str:
        """Who computes, in a word or two."""

    @property
    def cuts_freely(self) -> bool:
        """Whether logits are the same bit by bit wherever a prompt is cut into chunks."""

    def new_state(self) -> State:
        """The state before the first token."""

    def new_batch(self, size: int) -> TokenBatch:
        """Room for `size` streams that take their steps together."""

    def load_state(self, path: str | Path) -> State:
        """A saved state; StateError when it cannot be read or belongs to another model."""

    def check_state(self, state: State) -> None:
        """OptionError for anything but a state, StateError for that of another model."""

    def forward(
        self, state: State, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] | int = "last"
    ) -> NDArray[np.float32]:
        """Feed int64 [S], S >= 1; float32 [1 or S or logits_to_keep, vocab], valid until the next call."""

    def room_for_draft(self, state: State) -> int:
        """Guesses that `check_draft` can take behind the next token."""

    def check_draft(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits after each of int64 [n] tokens, exactly those of single steps; the state stays where it is."""


class LogitsSource(Protocol):
    """Feeds the tokens that were chosen and returns the logits of the next one."""

    def next_logits(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed int64 [S], S >= 1; float32 [vocab], valid until the next call."""


class SingleSteps:
    """One run of the model per token."""

    def __init__(self, decoder: TokenDecoder) -> None:
        self._decoder = decoder

    def next_logits(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed int64 [S]; float32 [vocab]."""
        logits: NDArray[np.float32] = self._decoder.forward(state, token_ids)[-1]
        return logits


class ReportedPrompt:
    """Another source that is given prompts in chunks, and tells about the progress between them.

    The chunks are those in which a decoder feeds a prompt anyway, so nothing changes in the logits.
    """

    def __init__(self, source: LogitsSource, on_prompt: OnPrompt) -> None:
        self._source, self._on_prompt = source, on_prompt

    def next_logits(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Feed int64 [S]; float32 [vocab]."""
        fed = 0
        if len(token_ids) <= MAX_CHUNK:
            return self._source.next_logits(state, token_ids)
        while True:
            chunk = token_ids[fed : fed + state.room_for_chunk()]
            logits = self._source.next_logits(state, chunk)
            fed += len(chunk)
            if fed == len(token_ids):
                return logits
            self._on_prompt(fed, len(token_ids))


class TokenChooser(Protocol):
    """Chooses a token from float32 [vocab] filtered logits."""

    def __call__(self, logits: Logits) -> int:
        """The id of the chosen token."""


@dataclass(frozen=True)
class GeneratedToken:
    """One new token; `finish_reason` is set on the last one, `logprobs` where they are asked for."""

    token_id: int
    finish_reason: FinishReason | None
    logprobs: TokenLogprobs | None = None


def generate_tokens(
    source: LogitsSource,
    state: State,
    prompt_ids: Sequence[int],
    options: GenerationOptions,
    stop_ids: frozenset[int],
    past_ids: Sequence[int] = (),
    constraint: Constraint | None = None,
) -> Generator[GeneratedToken]:
    """Feed `prompt_ids` to `state`, then yield one sampled token after the other.

    Raises StateError where the state is used otherwise between two tokens.

    prompt_ids: at least one. stop_ids: tokens that end the answer. A token is fed when the next one is asked for, so
    the last one is not: `state.unfed_token` remembers it. The repetition penalty weakens every token that `state` has
    seen, as transformers does with prompt and answer. past_ids: the tokens before the prompt, for other processors.
    constraint: the answer's form, where it has one.
    """
    selector = TokenSelector(options, stop_ids, [*past_ids, *prompt_ids], constraint)
    fed = np.asarray(prompt_ids, dtype=np.int64)
    while True:
        logits = source.next_logits(state, fed)
        position = state.position
        token = selector.next_token(logits, state)
        yield token
        if token.finish_reason is not None:
            return
        if state.position != position:
            raise StateError(
                f"the state moved from position {position} to {state.position} while its answer was being read; "
                "give each answer a copy() of its own"
            )
        fed = np.array([token.token_id], dtype=np.int64)


class TokenSelector:
    """The tokens of one answer: filters logits, chooses, and decides whether to stop."""

    def __init__(
        self,
        options: GenerationOptions,
        stop_ids: frozenset[int],
        past_ids: Sequence[int],
        constraint: Constraint | None = None,
    ) -> None:
        self._options, self._stop_ids, self._constraint = options, stop_ids, constraint
        self._process = LogitsProcessors(options, stop_ids, past_ids, constraint)
        self._choose = token_chooser(options)
        self._count = 0

    def next_token(self, logits: Logits, state: State) -> GeneratedToken:
        """The next token from float32 [vocab] logits; the state remembers it as not fed yet."""
        token_id, best = self._choose(self._process(logits, state)), self._options.logprobs
        logprobs = None if best is None else token_logprobs(logits, token_id, best)
        self._process.append(token_id)
        state.unfed_token = token_id
        self._count += 1
        if token_id in self._stop_ids or (self._constraint is not None and self._constraint.complete):
            return GeneratedToken(token_id, "stop", logprobs)
        reason: FinishReason | None = "length" if self._count == self._options.max_new_tokens else None
        return GeneratedToken(token_id, reason, logprobs)


def token_chooser(options: GenerationOptions) -> TokenChooser:
    """Greedy at temperature 0, else a sampler with its own random numbers."""
    return sampling.greedy if options.temperature == 0 else Sampler(options)


class Sampler:
    """Chooses by chance among the tokens that the filters leave; the same seed draws the same ones."""

    def __init__(self, options: GenerationOptions) -> None:
        self._options = options
        self._rng = np.random.default_rng(options.seed)

    def __call__(self, logits: Logits) -> int:
        """The id drawn from float32 [vocab] logits."""
        ids, kept = sampling.candidates(logits, self._options)
        return int(ids[sampling.sample(kept, self._rng)])
