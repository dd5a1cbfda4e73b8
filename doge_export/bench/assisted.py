"""Decoding with and without an assistant, in turns, over the same questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.loading import load
from ..runtime.model import Model
from ..runtime.prompts import are_messages
from ..runtime.streaming import GenerationResult

PROMPTS = (
    "What is the capital of France, and what is it known for?",
    "Why is the sky blue?",
    "Write a short story about a lighthouse keeper.",
    "List five things to pack for a week in the mountains.",
)


@dataclass(frozen=True)
class AssistedResult:
    """Rates are medians over questions and rounds, tokens/s of the new tokens after the first.

    Attributes:
        decode_tokens_per_s: without the assistant.
        assisted_tokens_per_s: with it.
        ratio: of the two, within each pair of answers.
        ratio_spread: its first and third quartile.
        drafted_tokens, accepted_tokens: guesses that were checked, and right ones, over all questions of a round.
        completion_tokens: tokens of the answers of a round.
        kernels, threads, new_tokens, rounds: of the measurement.
    """

    decode_tokens_per_s: float
    assisted_tokens_per_s: float
    ratio: float
    ratio_spread: tuple[float, float]
    drafted_tokens: int
    accepted_tokens: int
    completion_tokens: int
    kernels: str
    threads: int | None
    new_tokens: int
    rounds: int


def time_assisted(
    folder: Path,
    assistant: Path,
    threads: int | None,
    new_tokens: int,
    rounds: int,
    on_round: Callable[[], object],
    prompts: Sequence[Any] | None = None,
) -> AssistedResult:
    """Answer every question greedily with and without the assistant, `rounds` times.

    prompts: texts or token ids to continue, and conversations to answer; None for PROMPTS, in a chat where the model
        has a template.

    Raises:
        PackageError, OptionError: of `load`; the two must have the same tokenizer.
    """
    alone, assisted = load(folder, threads), load(folder, threads, assistant=assistant)
    asked = own_prompts(alone) if prompts is None else prompts
    pairs: list[tuple[GenerationResult, GenerationResult]] = []
    for _ in range(rounds):
        pairs += answer_pairs(alone, assisted, asked, new_tokens)
        on_round()
    plain, quick = (np.array([[r.decode_tokens_per_s for r in pair] for pair in pairs]).T[row] for row in (0, 1))
    low, high = np.percentile(quick / plain, (25, 75))
    last = [with_assistant for _, with_assistant in pairs[-len(asked) :]]
    return AssistedResult(
        decode_tokens_per_s=float(np.median(plain)),
        assisted_tokens_per_s=float(np.median(quick)),
        ratio=float(np.median(quick / plain)),
        ratio_spread=(float(low), float(high)),
        drafted_tokens=sum(result.drafted_tokens for result in last),
        accepted_tokens=sum(result.accepted_tokens for result in last),
        completion_tokens=sum(result.completion_tokens for result in last),
        kernels=alone.decoder.kernels,
        threads=threads,
        new_tokens=new_tokens,
        rounds=rounds,
    )


def own_prompts(model: Model) -> list[Any]:
    """PROMPTS as conversations, or as texts where the model has no template."""
    if not model.has_chat_template:
        return list(PROMPTS)
    return [[{"role": "user", "content": prompt}] for prompt in PROMPTS]


def answer_pairs(
    alone: Model, assisted: Model, prompts: Sequence[Any], new_tokens: int
) -> Iterator[tuple[GenerationResult, GenerationResult]]:
    """The answers to each question, by turns without and with the assistant; their tokens are the same."""
    for number, prompt in enumerate(prompts):
        models = (alone, assisted) if number % 2 else (assisted, alone)
        answers = {model is assisted: answer(model, prompt, new_tokens) for model in models}
        plain, quick = answers[False], answers[True]
        if plain.token_ids != quick.token_ids:
            raise AssertionError(f"the assistant changed the answer to {prompt!r}")
        yield plain, quick


def answer(model: Model, prompt: Any, new_tokens: int) -> GenerationResult:
    """A greedy answer of exactly so many tokens."""
    if are_messages(prompt):
        return model.chat(prompt, temperature=0.0, max_new_tokens=new_tokens, ignore_eos=True)
    result: GenerationResult = model.generate(prompt, temperature=0.0, max_new_tokens=new_tokens, ignore_eos=True)
    return result
