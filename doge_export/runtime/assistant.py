"""Assisted generation: a smaller model of the same tokenizer guesses the next tokens, and the large one checks them.

The name is transformers' (`assistant_model`); the idea is that of arXiv 2211.17192. Here a guess is taken where the
large model chooses the very same token by itself. So every answer is the one without assistant, to the last token,
greedy or sampled by a seed. A sampled answer is guessed with the random numbers that the large model is about to draw.

The number of guesses follows the share of right ones, and the cost of a check and of the assistant's own steps.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from . import sampling
from .check_costs import best_count
from .description import DRAFT_TOKENS
from .generation import TokenDecoder
from .generation_options import GenerationOptions
from .prefix import SharedPrefix
from .sampling import Logits
from .state import State
from .token_history import TokenHistory

FIRST_SHARE = 0.8  # of right guesses, assumed before there were any
CONFIDENCE = 0.4  # the least probability of a guess, as transformers' assistant_confidence_threshold
LEARNING = 1 / 64  # weight of one checked guess in the share of right ones
UNSURE = 1 / 256  # the same of a step of the assistant whose token is too improbable to be checked
TIMED_ROUNDS = 3  # when an assistant is loaded
# of the way back to FIRST_SHARE, by each step without guesses: now and then one is tried, if that share would pay
FORGETTING = 1 / 512


class Costs(NamedTuple):
    """The costs of guessing, in single steps of the large model.

    check: of a check of so many tokens, by their number; check[1] is a single step, 1.
    guess: of a step of the assistant.
    """

    check: Sequence[float]
    guess: float


class Draws(Protocol):
    """Random numbers, one for each token of an answer."""

    def __getitem__(self, index: int, /) -> float:
        """That of a token, from 0 to 1."""


class SeededDraws:
    """The numbers that `generation.Sampler` draws with the same seed."""

    def __init__(self, seed: int) -> None:
        self._rng, self._drawn = np.random.default_rng(seed), list[float]()

    def __getitem__(self, index: int, /) -> float:
        """The number of token `index` of the answer."""
        while len(self._drawn) <= index:
            self._drawn.append(self._rng.random())
        return self._drawn[index]


class Assistant:
    """A model that guesses for another, with a stream beside each of the other's states.

    Attributes:
        share: estimate of the share of guesses that are right, learned over all answers.
    """

    def __init__(self, decoder: TokenDecoder, costs: Costs, confidence: float = CONFIDENCE) -> None:
        """confidence: the least probability of a token that is worth a check."""
        self.decoder, self.costs, self.confidence = decoder, costs, confidence
        self.share = FIRST_SHARE
        self._streams: weakref.WeakKeyDictionary[State, SharedPrefix] = weakref.WeakKeyDictionary()

    @classmethod
    def beside(cls, model: TokenDecoder, decoder: TokenDecoder) -> Assistant:
        """A decoder that guesses for a model; a few steps and checks tell the costs, which adapters of it share."""
        return cls(decoder, timed_costs(model, decoder))

    def stream_beside(self, state: State) -> SharedPrefix:
        """The stream that follows a state of the large model."""
        stream = self._streams.get(state)
        if stream is None:
            stream = self._streams[state] = SharedPrefix(self.decoder)
        return stream


class AssistantGuesses:
    """The guesses for one answer; see `drafts.Guesser`."""

    def __init__(self, assistant: Assistant, options: GenerationOptions, vocab_size: int, first_token: int) -> None:
        """vocab_size: of the large model. options: those of the answer, with a seed where it is sampled.

        first_token: position of the answer's first token.
        """
        self._assistant, self._options, self._vocab_size = assistant, options, vocab_size
        self._first_token = first_token
        self._draws = None if options.seed is None else SeededDraws(options.seed)

    def extend(self, token_ids: Sequence[int], room: int) -> None:
        """The state itself knows its tokens."""

    def guess(self, state: State, token_id: int, room: int) -> list[int]:
        """The tokens that the assistant would choose, as far as it is sure of them."""
        assistant, room = self._assistant, self._room(state, room)
        if not room or state.history is None or not self._knows([*state.history.tokens, token_id]):
            return []
        wanted = best_number(assistant.share, assistant.costs, room)
        if not wanted:
            assistant.share += (FIRST_SHARE - assistant.share) * FORGETTING
            return []
        guesses = self._draft(state.history, state, token_id, wanted)
        if not guesses:
            assistant.share -= assistant.share * UNSURE
        return guesses

    def judge(self, right: int, drafted: int) -> None:
        """Learn from the right guesses, and from the first wrong one; those behind it say nothing."""
        for correct in [1.0] * right + [0.0] * (right < drafted):
            self._assistant.share += (correct - self._assistant.share) * LEARNING

    def _room(self, state: State, room: int) -> int:
        """Guesses that fit the assistant's window too, which could not be taken back beyond it."""
        held = 0 if state.history is None else len(state.history.tokens)
        return max(0, min(room, self._assistant.decoder.keep_window_size - held - 1))

    def _knows(self, tokens: Sequence[int]) -> bool:
        """Whether the assistant has a row for every token; a large model may have more than the tokenizer."""
        known = self._assistant.decoder.vocab_size
        return known >= self._vocab_size or max(tokens) < known

    def _draft(self, history: TokenHistory, state: State, token_id: int, wanted: int) -> list[int]:
        stream, guesses = self._assistant.stream_beside(state), list[int]()
        logits = stream.logits([*history.tokens, token_id], 1)[0]
        while True:
            index = state.position + 1 + len(guesses) - self._first_token
            guess, probability = self._choose(logits[: self._vocab_size], index)
            if probability < self._assistant.confidence:
                return guesses
            guesses.append(guess)
            if len(guesses) == wanted:
                return guesses
            logits = stream.feed([guess])[0]

    def _choose(self, logits: Logits, index: int) -> tuple[int, float]:
        """The token that the answer would have at `index`, were these its logits, and its probability."""
        if self._draws is None:
            return sure_guess(logits)
        ids, kept = sampling.candidates(logits, self._options)
        chosen = sampling.sample_at(kept, self._draws[index])
        return int(ids[chosen]), probability_of(kept, chosen)


def timed_costs(model: TokenDecoder, decoder: TokenDecoder) -> Costs:
    """The costs of guessing on this machine: steps and checks take turns, and the least time of each counts.

    Other work only adds to a time. A guess is a greedy one.
    """
    own, other = model.new_state(), decoder.new_state()
    ids = np.random.default_rng(0).integers(min(model.vocab_size, decoder.vocab_size), size=DRAFT_TOKENS)
    if model.room_for_draft(own):
        model.check_draft(own, ids)  # the first one settles whether there may be more
    timed = [
        partial(step_seconds, model, own, ids[:1], sampling.greedy),
        partial(step_seconds, decoder, other, ids[:1], sure_guess),
    ]
    timed += [partial(check_seconds, model, own, ids[:count]) for count in range(2, model.room_for_draft(own) + 2)]
    step, guess, *checks = np.min([[call() for call in timed] for _ in range(TIMED_ROUNDS)], axis=0).tolist()
    return Costs((0.0, 1.0, *(check / step for check in checks)), guess / step)


def step_seconds(
    decoder: TokenDecoder, state: State, token_ids: NDArray[np.int64], choose: Callable[[Logits], object]
) -> float:
    """The time of a step over a state without tokens, which is left so, and of the choice from its logits."""
    start = time.perf_counter()
    choose(decoder.forward(state, token_ids)[-1])
    seconds = time.perf_counter() - start
    state.truncate(0)
    return seconds


def check_seconds(decoder: TokenDecoder, state: State, token_ids: NDArray[np.int64]) -> float:
    """The time of a check of some tokens over a state without tokens, and of the choices from its logits."""
    start = time.perf_counter()
    for logits in decoder.check_draft(state, token_ids):
        sampling.greedy(logits)
    return time.perf_counter() - start


def sure_guess(logits: Logits) -> tuple[int, float]:
    """The likeliest token, and its probability."""
    guess = sampling.greedy(logits)
    return guess, probability_of(logits, guess)


def probability_of(logits: NDArray[np.float32], index: int) -> float:
    """That of one of softmax(logits), float32 [n]."""
    return float(1 / np.exp(logits - logits[index]).sum())


def best_number(share: float, costs: Costs, most: int) -> int:
    """The number of guesses, from 0 to `most`, with the most tokens for their cost.

    share: of right guesses, where those before them are.
    """
    return best_count([share] * most, [costs.check[guesses + 1] + guesses * costs.guess for guesses in range(most + 1)])
