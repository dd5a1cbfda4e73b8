"""Options that change logits before a token is chosen, in the order of transformers' `generate`.

First come biases and the repetition penalty, then OpenAI's penalties for the answer's tokens, as in vLLM. Then tokens
are ruled out: repeated n-grams, bad words, an end before min_new_tokens, suppressed tokens.
Source: `_get_logits_processor` in transformers/generation/utils.py.

The repetition penalty looks at the whole stream, and OpenAI's at the answer. All others look at the tokens of this
call: the past that the caller knows, the prompt, and the answer so far.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from .constraints import Constraint
from .generation_options import FORMS, GenerationOptions
from .sampling import Indices, Logits, apply_repetition_penalty

Tokens = NDArray[np.int32]


class SeenTokens(Protocol):
    """A state, which remembers the tokens of its whole stream."""

    def seen_tokens(self) -> Indices:
        """The different tokens fed so far: int64 [n]."""


class LogitsProcessors:
    """The options of one answer at work; `append` tells them of each token that was chosen."""

    def __init__(
        self,
        options: GenerationOptions,
        end_ids: Iterable[int],
        past_ids: Sequence[int],
        constraint: Constraint | None = None,
    ) -> None:
        """end_ids: tokens that end the answer. past_ids: the tokens before the answer, as far as they are known.

        constraint: the answer's form, where it has one.
        """
        self._options, self._constraint = options, constraint
        self._end_ids = np.array(sorted(end_ids), dtype=np.int64)
        self._bias = Sequences(options.sequence_bias)
        # As in transformers, an end is not ruled out as a bad word; ignore_eos is there for that.
        ends = {(int(end_id),) for end_id in self._end_ids}
        self._bad_words = Sequences([(word, -np.inf) for word in options.bad_words_ids if word not in ends])
        self._biased_ids = np.array([token_id for token_id, _ in options.logit_bias], dtype=np.int64)
        self._biases = np.array([bias for _, bias in options.logit_bias], dtype=np.float32)
        biases = (*(bias for _, bias in options.sequence_bias), *(bias for _, bias in options.logit_bias))
        self._biases_rule_out = -np.inf in biases
        self._penalises_answer = bool(options.presence_penalty or options.frequency_penalty)
        self._counts = TokenCounts()
        self._new_tokens = 0
        self._longest = max(self._bias.longest, self._bad_words.longest)
        self._remembers_all = options.no_repeat_ngram_size > 0
        self._tokens = array("i")
        for token_id in past_ids if self._remembers_all else past_ids[max(len(past_ids) - self._longest, 0) :]:
            self._remember(token_id)

    def __call__(self, logits: Logits, state: SeenTokens) -> Logits:
        """float32 [vocab] to float32 [vocab], the same array when nothing changes it.

        Raises OptionError when every token is ruled out.
        """
        options = self._options
        if options.sequence_bias:
            logits = add_bias(logits, *self._bias.completed_by(self._tokens))
        if options.logit_bias:
            logits = add_bias(logits, self._biased_ids, self._biases)
        if options.repetition_penalty != 1:
            logits = apply_repetition_penalty(logits, state.seen_tokens(), options.repetition_penalty)
        if self._penalises_answer:
            logits = self._counts.penalised(logits, options.presence_penalty, options.frequency_penalty)
        forced = options.forced_eos_token_id
        if self._constraint is not None:
            logits = self._constraint.restrict(logits)
            forced = tuple(token_id for token_id in forced if self._constraint.may_end_by(token_id))
        if forced and self._new_tokens == options.max_new_tokens - 1:
            return self._without(only(logits, np.array(forced)), self._suppressed())
        return self._without(logits, self._repeated() + self._suppressed())

    def append(self, token_id: int) -> None:
        """The answer goes on with this token."""
        self._new_tokens += 1
        if self._penalises_answer:
            self._counts.append(token_id)
        if self._constraint is not None:
            self._constraint.append(token_id)
        self._remember(token_id)

    def _remember(self, token_id: int) -> None:
        if self._remembers_all or self._longest:
            self._tokens.append(int(token_id))
        if not self._remembers_all and len(self._tokens) > 2 * self._longest:
            del self._tokens[: -self._longest]  # no sequence reaches further back

    def _repeated(self) -> list[Indices]:
        """Tokens that are ruled out by those before them."""
        ruled_out = []
        if self._remembers_all:
            tokens = np.frombuffer(self._tokens, dtype=np.int32)
            ruled_out.append(ngram_ends(tokens, self._options.no_repeat_ngram_size))
        if self._options.bad_words_ids:
            ruled_out.append(self._bad_words.completed_by(self._tokens)[0])
        if self._new_tokens < self._options.min_new_tokens:
            ruled_out.append(self._end_ids)
        return ruled_out

    def _suppressed(self) -> list[Indices]:
        """Tokens that are ruled out by themselves."""
        always, at_first = self._options.suppress_tokens, self._options.begin_suppress_tokens
        ids = always + at_first if self._new_tokens == 0 else always
        return [np.array(ids, dtype=np.int64)] if ids else []

    def _without(self, logits: Logits, ruled_out: list[Indices]) -> Logits:
        ids = np.concatenate(ruled_out) if ruled_out else np.empty(0, dtype=np.int64)
        left = rule_out(logits, ids) if len(ids) else logits
        if (len(ids) or self._biases_rule_out or self._constraint) and left.max() == -np.inf:
            raise OptionError(
                f"no token is left to choose: {' and '.join(self._names())} rule all of them out; "
                "leave one of these options away"
            )
        return left

    def _names(self) -> list[str]:
        """The options in use that rule tokens out."""
        names = ("no_repeat_ngram_size", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias")
        return [name for name in (*names, "logit_bias", "min_new_tokens", *FORMS) if vars(self._options)[name]]


class TokenCounts:
    """How often each token stands in an answer."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}  # in the next two, by token
        self._ids, self._counts = array("q"), array("q")

    def append(self, token_id: int) -> None:
        """The answer goes on with this token."""
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._ids):
            self._ids.append(token_id)
            self._counts.append(0)
        self._counts[place] += 1

    def penalised(self, logits: Logits, presence: float, frequency: float) -> Logits:
        """Float32 [vocab] after both penalties for the tokens so far."""
        if not self._ids:
            return logits
        ids, counts = np.frombuffer(self._ids, dtype=np.int64), np.frombuffer(self._counts, dtype=np.int64)
        return apply_count_penalties(logits, ids, counts, presence, frequency)


class Sequences:
    """Sequences of tokens with a number each, found by the tokens before their last one."""

    def __init__(self, sequences: Sequence[tuple[tuple[int, ...], float]]) -> None:
        """sequences: none empty; of equal ones the last counts."""
        self._ends: dict[tuple[int, ...], list[tuple[int, float]]] = {}
        for sequence, number in dict(sequences).items():
            self._ends.setdefault(sequence[:-1], []).append((sequence[-1], number))
        self._lengths = sorted({len(beginning) for beginning in self._ends})
        self.longest = max(self._lengths, default=0)
        """Tokens before the last one of the longest sequence."""

    def completed_by(self, tokens: Sequence[int]) -> tuple[Indices, NDArray[np.float32]]:
        """Tokens that would complete a sequence, int64 [n], and the numbers of these sequences, float32 [n]."""
        completing = [
            end
            for length in self._lengths
            if length <= len(tokens)
            for end in self._ends.get(tuple(tokens[len(tokens) - length :]), ())
        ]
        ids, numbers = [token_id for token_id, _ in completing], [number for _, number in completing]
        return np.array(ids, dtype=np.int64), np.array(numbers, dtype=np.float32)


def add_bias(logits: Logits, ids: Indices, biases: NDArray[np.float32]) -> Logits:
    """Float32 [vocab] with float32 [n] biases added at int64 [n] ids; ids beyond the vocabulary have no effect."""
    biased, known = logits.copy(), ids < len(logits)
    np.add.at(biased, ids[known], biases[known])
    return biased


def apply_count_penalties(
    logits: Logits, ids: Indices, counts: NDArray[np.int64], presence: float, frequency: float
) -> Logits:
    """Float32 [vocab] less `presence`, and `frequency` times its count, at different int64 [n] ids that came.

    counts: int64 [n], each at least 1. The definition is OpenAI's, under "frequency and presence penalties".
    """
    penalised = logits.copy()
    penalised[ids] -= np.float32(presence) + np.float32(frequency) * counts.astype(np.float32)
    return penalised


def rule_out(logits: Logits, ids: Indices) -> Logits:
    """Float32 [vocab] with -inf at int64 [n] ids; ids beyond the vocabulary have no effect."""
    left = logits.copy()
    left[ids[ids < len(logits)]] = -np.inf
    return left


def only(logits: Logits, ids: Indices) -> Logits:
    """0 at int64 [n] ids and -inf elsewhere: float32 [vocab]."""
    left = np.full_like(logits, -np.inf)
    left[ids[ids < len(logits)]] = 0
    return left


def ngram_ends(tokens: Tokens, size: int) -> Indices:
    """Tokens that would repeat an n-gram of `size` tokens: int64 [n], from int32 [length] tokens so far."""
    places = len(tokens) - size + 1
    if places < 1:
        return np.empty(0, dtype=np.int64)
    beginning = tokens[len(tokens) - size + 1 :]
    repeated = np.ones(places, dtype=bool)
    for offset, token_id in enumerate(beginning):
        repeated &= tokens[offset : offset + places] == token_id
    return tokens[size - 1 :][repeated].astype(np.int64)
