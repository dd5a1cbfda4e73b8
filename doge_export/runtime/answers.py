"""How the answers of a model begin: on a state, on a new stream, or on several together."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..errors import OptionError
from .assistant import Assistant, AssistantGuesses
from .batch_generation import BatchRequest, Event, generate_events
from .batch_stream import BatchStream
from .check_costs import CheckCosts
from .constraints import Constraint, Constraints
from .drafts import CheckedGuesses, Guesser
from .each_answer import Outcome, Question, each_outcome
from .generation import (
    LogitsSource,
    OnPrompt,
    ReportedPrompt,
    SingleSteps,
    TokenDecoder,
    TokenSelector,
    generate_tokens,
)
from .generation_options import GenerationOptions
from .merging import StreamMerger
from .prompt_lookup import PromptLookup
from .prompts import PromptReader
from .state import State
from .streaming import AnswerText, TextStream
from .token_history import TokenHistory
from .tokenizer import Tokenizer

SEED_BITS = 63
Ends = frozenset[int]  # tokens that end an answer, unless ends are ignored


class Asked(NamedTuple):
    """A prompt as token ids, and how to answer it."""

    token_ids: list[int]
    options: GenerationOptions
    ends: Ends


class Answers:
    """Streams the answers of one model; those of new streams may be merged with answers in other threads."""

    def __init__(
        self,
        decoder: TokenDecoder,
        tokenizer: Tokenizer | None,
        reader: PromptReader,
        max_streams: int | None,
        cache_mb: float = 0,
        assistant: Assistant | None = None,
    ) -> None:
        """max_streams: merge new streams, so many at a time; None does not. cache_mb: see `StreamMerger`.

        assistant: guesses for answers that are made alone.
        """
        if max_streams is not None and assistant is not None:
            raise OptionError("an assistant guesses for one answer at a time; leave max_streams or the assistant out")
        self._assistant = assistant
        self._check_costs = CheckCosts()
        self._decoder, self._tokenizer, self._reader = decoder, tokenizer, reader
        self._constraints: Constraints | None = None  # made when first asked for
        self._constraints_lock = threading.Lock()
        if max_streams is None and cache_mb:
            raise OptionError("cache_mb goes with max_streams; give that too, or leave cache_mb out")
        self._merger = None if max_streams is None else StreamMerger(decoder, max_streams, cache_mb)

    @property
    def merger(self) -> StreamMerger:
        """Whoever merges new streams; OptionError where nobody does."""
        if self._merger is None:
            raise OptionError("the model merges no calls; load it with max_streams")
        return self._merger

    def continue_state(
        self,
        state: State,
        token_ids: Sequence[int],
        options: GenerationOptions,
        ends: Ends,
        past_ids: Sequence[int] = (),
        on_prompt: OnPrompt | None = None,
    ) -> TextStream:
        """Feed exactly `token_ids` to `state` and answer; see `Model.continue_state`."""
        self._check(token_ids, options)
        options = self._seeded(options)
        guessers = self._guessers(state, options, past_ids, state.position + len(token_ids))
        drafts = CheckedGuesses(self._decoder, guessers, self._check_costs) if guessers else None
        source: LogitsSource = drafts or SingleSteps(self._decoder)
        if on_prompt is not None:
            source = ReportedPrompt(source, on_prompt)
        stop_ids = self._stop_ids(options, ends)
        constraint = self._constraint(options, stop_ids)
        tokens = generate_tokens(source, state, token_ids, options, stop_ids, past_ids, constraint)
        return TextStream(tokens, self._tokenizer, options.stop, len(token_ids), drafts, self._before(options))

    def begin(self, token_ids: Sequence[int], options: GenerationOptions, ends: Ends) -> TextStream:
        """Answer on a new stream."""
        if self._merger is None or options.prompt_lookup_num_tokens:
            return self.continue_state(self._decoder.new_state(), token_ids, options, ends)
        tokens = self._merger.tokens(self._request(token_ids, options, ends))
        return TextStream(tokens, self._tokenizer, options.stop, len(token_ids), before=self._before(options))

    def begin_together(
        self, prompts: Sequence[Sequence[int]], options: Sequence[GenerationOptions], ends: Ends
    ) -> BatchStream:
        """Answer several prompts, with options for each, on new streams."""
        requests, answers = self.prepared(prompts, options, ends)
        return BatchStream(self.events(requests), requests, answers)

    def events(self, requests: Sequence[BatchRequest]) -> Iterator[Event]:
        """The events of requests that are answered together."""
        return self._merger.events(requests) if self._merger else generate_events(self._decoder, requests)

    def prepared(
        self, prompts: Sequence[Sequence[int]], options: Sequence[GenerationOptions], ends: Ends
    ) -> tuple[list[BatchRequest], list[AnswerText]]:
        """Requests for a batch, each with the `AnswerText` that takes its tokens."""
        pairs = list(zip(prompts, options, strict=True))
        requests = [self._request(token_ids, own, ends) for token_ids, own in pairs]
        answers = [
            AnswerText(self._tokenizer, own.stop, len(token_ids), before=self._before(own)) for token_ids, own in pairs
        ]
        return requests, answers

    def each(self, asked: Iterable[Asked | OptionError]) -> Iterator[Outcome]:
        """Answer any number of prompts on new streams; see `each_outcome`."""
        return each_outcome(self._decoder, map(self._question, asked))

    def check_options(self, options: GenerationOptions) -> None:
        """Raise for options with which no prompt can be answered."""
        self._check([0], options)
        self._constraint(options, frozenset())

    def _question(self, asked: Asked | OptionError) -> Question | OptionError:
        if isinstance(asked, OptionError):
            return asked
        token_ids, options, ends = asked
        try:
            request = self._request(token_ids, options, ends)
        except OptionError as error:
            return error
        return Question(
            request, AnswerText(self._tokenizer, options.stop, len(token_ids), before=self._before(options))
        )

    def _request(self, token_ids: Sequence[int], options: GenerationOptions, ends: Ends) -> BatchRequest:
        self._check(token_ids, options)
        stop_ids = self._stop_ids(options, ends)
        constraint = self._constraint(options, stop_ids)
        return BatchRequest(token_ids, TokenSelector(options, stop_ids, token_ids, constraint))

    def _seeded(self, options: GenerationOptions) -> GenerationOptions:
        """Options with a seed that an assistant may know, where answers are sampled."""
        if self._assistant is None or options.temperature == 0 or options.seed is not None:
            return options
        return replace(options, seed=secrets.randbits(SEED_BITS))

    def _guessers(
        self, state: State, options: GenerationOptions, past_ids: Sequence[int], first_token: int
    ) -> list[Guesser]:
        """Who guesses the tokens of an answer: first the stream itself, where that is wanted, then the assistant.

        first_token: position of the answer's first.
        """
        guessers: list[Guesser] = []
        if options.prompt_lookup_num_tokens:
            guessers.append(PromptLookup(options.prompt_lookup_num_tokens, past_ids, self._check_costs))
        if self._assistant is not None:
            if state.history is None and not state.overflowed:
                state.history = TokenHistory(state.position - len(past_ids), past_ids)
            guessers.append(AssistantGuesses(self._assistant, options, self._decoder.vocab_size, first_token))
        return guessers

    def _constraint(self, options: GenerationOptions, stop_ids: Ends) -> Constraint | None:
        """The form of an answer, where options ask for one."""
        if not options.has_form:
            return None
        with self._constraints_lock:
            if self._constraints is None:
                self._constraints = Constraints(self._reader.tokenizer, self._decoder.vocab_size)
        return self._constraints.of(options, stop_ids)

    def _before(self, options: GenerationOptions) -> list[int]:
        """Tokens that an answer's text goes on, so that it shows every space of the answer's form."""
        return self._reader.tokenizer.encode_inside("a") if options.has_form else []

    def _check(self, token_ids: Sequence[int], options: GenerationOptions) -> None:
        """Raise for tokens or options with which no answer can begin."""
        if options.stop:
            _ = self._reader.tokenizer  # PackageError without one
        self._reader.check_tokens(token_ids)
        if any(token_id >= self._decoder.vocab_size for token_id in options.forced_eos_token_id):
            raise OptionError(
                f"forced_eos_token_id is {list(options.forced_eos_token_id)}; its ids must be from 0 to "
                f"{self._decoder.vocab_size - 1}"
            )

    def _stop_ids(self, options: GenerationOptions, ends: Ends) -> Ends:
        """Tokens that end an answer, and special tokens named as stop strings: those never show in the text."""
        if options.ignore_eos:
            ends = frozenset()
        if self._tokenizer is None:
            return ends
        named = (self._tokenizer.special_id(text) for text in options.stop)
        return ends.union(token_id for token_id in named if token_id is not None)


def begin_by_each(
    by: Sequence[Answers], prompts: Sequence[Sequence[int]], options: Sequence[GenerationOptions], ends: Ends
) -> BatchStream:
    """Answer several prompts, each by its own adapter: those of one take their steps together, the groups in turn."""
    requests, texts, groups = [], [], dict[int, list[BatchRequest]]()
    for answers, prompt, own in zip(by, prompts, options, strict=True):
        (request,), (text,) = answers.prepared([prompt], [own], ends)
        requests.append(request)
        texts.append(text)
        groups.setdefault(id(answers), []).append(request)
    makers = {id(answers): answers for answers in by}
    return BatchStream(in_turn([makers[key].events(group) for key, group in groups.items()]), requests, texts)


def in_turn(sources: list[Iterator[Event]]) -> Iterator[Event]:
    """The events of several sources, one of each at a time."""
    ended = object()
    while sources:
        for source in list(sources):
            event = next(source, ended)
            if isinstance(event, Event):
                yield event
            else:
                sources.remove(source)
