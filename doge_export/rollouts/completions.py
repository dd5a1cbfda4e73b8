"""Sampled completions of many prompts, each token with the log-probability by which it was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..runtime.batch_generation import BatchGeneration, BatchRequest
from ..runtime.decoder import Decoder
from ..runtime.generation import GeneratedToken, TokenSelector
from ..runtime.generation_options import GenerationOptions
from ..runtime.logprobs import TokenLogprobs, log_total
from ..runtime.prefix_cache import PrefixCache
from ..runtime.sampling import Logits
from ..runtime.state import State

ROWS = 32  # completions at a time; the weights are read once for all of them
PROMPT_BYTES = 256 * 2**20  # of states of prompts, which all completions of a group begin with


@dataclass(frozen=True)
class Sampling:
    """How to draw: the fields of TRL's trainer; top_p 1, top_k 0, min_p 0 and repetition_penalty 1 change nothing."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Completion:
    """The tokens of a completion, its end included, and the logarithm of each one's probability.

    Probabilities are those of all logits divided by the temperature, before top_p, top_k, min_p and the penalty take
    any away. TRL computes the same from the model that is being trained.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class ScaledSelector(TokenSelector):
    """Chooses as any answer does, and gives each token its log-probability by the scaled logits."""

    def __init__(self, options: GenerationOptions, ends: frozenset[int], prompt_ids: Sequence[int]) -> None:
        super().__init__(options, ends, prompt_ids)
        self._temperature = options.temperature

    def next_token(self, logits: Logits, state: State) -> GeneratedToken:
        """The next token from float32 [vocab] logits."""
        token = super().next_token(logits, state)
        scaled = logits / self._temperature
        logprob = float(scaled[token.token_id]) - log_total(scaled)
        return GeneratedToken(token.token_id, token.finish_reason, TokenLogprobs(token.token_id, logprob, ()))


def complete(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    ends: frozenset[int],
    sampling: Sampling,
    seeds: Sequence[int],
) -> list[Completion]:
    """A completion of each prompt.

    Args:
        decoder: of a `Policy`.
        prompts: token ids, at least one each; equal ones are computed once.
        ends: tokens that end a completion.
        sampling: how to draw.
        seeds: of each prompt.

    Raises:
        OptionError: the options leave no token to choose, or one of them is not allowed.
    """
    completions = [Completion() for _ in prompts]
    generation = BatchGeneration(decoder, min(ROWS, len(prompts)), PrefixCache(decoder, PROMPT_BYTES))
    places = {}
    for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        options = GenerationOptions(**vars(sampling), seed=seed)
        request = BatchRequest(prompt, ScaledSelector(options, ends, prompt))
        places[id(request)] = (completions[index], request)
        generation.add(request)
    while generation.busy:
        for request, outcome, _ in generation.step():
            if not isinstance(outcome, GeneratedToken):
                raise outcome
            assert outcome.logprobs is not None
            completion, _ = places[id(request)]
            completion.token_ids.append(outcome.token_id)
            completion.logprobs.append(outcome.logprobs.logprob)
    return completions
