"""Cases for the pure functions of the JavaScript runtime, with the results of Python's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from doge_export.runtime.check_costs import CheckCosts
from doge_export.runtime.clean_up import CleanUp
from doge_export.runtime.eviction import FullWindow, Keys, bonuses
from doge_export.runtime.generation_options import GenerationDefaults, options_from_generation_config
from doge_export.runtime.logits_processors import LogitsProcessors
from doge_export.runtime.logprobs import token_logprobs
from doge_export.runtime.prompt_lookup import PromptLookup
from doge_export.runtime.sampling import Logits, candidates, sample
from doge_export.runtime.stopping import StopStrings
from tests.helpers.fakes import BigramDecoder, random_table

SEEDS = (0, 1, 42, 2**32 - 1, 2**32, 2**53 - 1, 123456789012345678901234567890, 2**200 + 5)
SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.7, "top_p": 0.9},
    {"temperature": 0.5, "top_k": 3},
    {"temperature": 1.2, "min_p": 0.1},
    {"temperature": 1e-6},
)
PROCESSING: tuple[dict[str, Any], ...] = (
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 1},
    {"bad_words_ids": [[3], [5, 6], [1, 2, 4]], "min_new_tokens": 2},
    {"sequence_bias": [[[4], 2.5], [[7, 8], -3.0], [[1, 2, 9], 0.125], [[4], 1.5]]},
    {"suppress_tokens": [0, 11, 99], "begin_suppress_tokens": [2]},
    {"repetition_penalty": 1.3},
    {"forced_eos_token_id": [1, 2], "max_new_tokens": 3},
    {"logit_bias": {3: 2.5, 7: -0.1, 99: 1.0}, "sequence_bias": [[[3], 0.3]], "repetition_penalty": 1.2},
    {"presence_penalty": 0.7},
    {"frequency_penalty": -0.3, "presence_penalty": 0.1, "min_new_tokens": 2},
    {"frequency_penalty": 1.9, "logit_bias": {1: 4.0}, "bad_words_ids": [[2]]},
)
# what JavaScript has no option for (docs/javascript.md), and the seed, which is null there too
NOT_COMPARED = {"seed", "json_schema", "regex", "grammar"}
CONFIGS: tuple[dict[str, Any], ...] = (
    {},
    {"do_sample": True},
    {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": None, "min_p": 0.1, "eos_token_id": [1, 2]},
    {"temperature": 0.6, "repetition_penalty": 1.1, "max_new_tokens": 50.0, "stop_strings": ["###"]},
    {"suppress_tokens": [1], "bad_words_ids": [[1, 2]], "sequence_bias": [[[3], -1.0]], "forced_eos_token_id": 2},
    {"presence_penalty": 1.0, "logit_bias": {"1": 2.0}, "logprobs": 3},  # no fields of such a file
    {"prompt_lookup_num_tokens": 10, "no_repeat_ngram_size": 3, "min_new_tokens": 4, "begin_suppress_tokens": [5]},
)
# sinks, the most tokens of a bonus, safe recent keys
RULES = ((0, 0, 0), (2, 0, 0), (0, 9, 0), (1, 9, 0), (1, 4, 2), (0, 0, 3), (0, 9, 1), (2, 30, 3), (0, 3, 5))
TEXTS = ("Hello , world ! it 's n't so  . . .", "a ' b 've 're   .", " 's", "x n", "don 't ' ' end")


def draws() -> list[dict[str, Any]]:
    """Numbers that generators draw, by seed; the seed as text, for JSON's numbers are too short."""
    return [{"seed": str(seed), "numbers": np.random.default_rng(seed).random(5).tolist()} for seed in SEEDS]


def some_logits(count: int, scale: float, seed: int) -> Logits:
    """Float32 [count], a tenth of them equal to others."""
    logits = np.random.default_rng(seed).normal(scale=scale, size=count).astype(np.float32)
    logits[: count // 10] = logits[count // 10 : 2 * (count // 10)]
    return logits


def samples() -> Iterator[dict[str, Any]]:
    """Tokens that are drawn from logits, forty for each case."""
    for index, options in enumerate(SAMPLING):
        for count in (5, 300, 4000):
            logits = some_logits(count, 3.0, seed=10 * index + count)
            rng = np.random.default_rng(index)
            settings = GenerationDefaults().options.with_overrides(options)  # type: ignore[arg-type]  # from JSON
            ids, kept = candidates(logits, settings)
            tokens = [int(ids[sample(kept, rng)]) for _ in range(40)]
            yield {"logits": logits.tolist(), "options": options, "seed": index, "left": len(ids), "tokens": tokens}


class Seen:
    """A state that has seen some tokens."""

    def seen_tokens(self) -> Any:
        """The same ones always: int64 [n]."""
        return np.array([1, 3, 8])


def processed() -> Iterator[dict[str, Any]]:
    """Logits behind each of some tokens, changed by options; -inf is null."""
    tokens = [1, 2, 5, 6, 7, 1, 2]
    for index, options in enumerate(PROCESSING):
        logits = some_logits(12, 3.0, seed=index)
        settings = GenerationDefaults().options.with_overrides(options)  # type: ignore[arg-type]  # from JSON
        processors, rows = LogitsProcessors(settings, [2, 7], tokens[:2]), []
        for token in tokens[2:]:
            rows.append([x if math.isfinite(x) else None for x in processors(logits, Seen()).tolist()])
            processors.append(token)
        yield {"logits": logits.tolist(), "options": options, "tokens": tokens, "rows": rows}


def likelihoods() -> Iterator[dict[str, Any]]:
    """Log-probabilities of a token and of the best ones, with equals among them."""
    for count, best in ((5, 0), (12, 3), (300, 5), (4000, 20), (4, 9)):
        logits = some_logits(count, 3.0, seed=count)
        found = token_logprobs(logits, count // 2, best)
        yield {"logits": logits.tolist(), "token": count // 2, "logprob": found.logprob, "best": found.best, "n": best}


def stopped() -> Iterator[dict[str, Any]]:
    """Pieces that stop strings let through."""
    for stop, pieces in ((["###", "end"], ["a#", "#", "b ##", "# c"]), (["aab"], list("aaaabx")), ([], ["x", "y"])):
        strings = StopStrings(stop)
        out = [strings.push(piece) for piece in pieces]
        yield {"stop": stop, "pieces": pieces, "out": out, "rest": strings.finish(), "found": strings.found}


def cleaned() -> Iterator[dict[str, Any]]:
    """Texts cleaned letter by letter."""
    for text in TEXTS:
        cleaning = CleanUp()
        yield {"text": text, "out": [cleaning.push(letter) for letter in text], "rest": cleaning.finish()}


def settings() -> Iterator[dict[str, Any]]:
    """The options that files of settings stand for."""
    for config in CONFIGS:
        options = vars(options_from_generation_config(config))
        yield {"config": config, "options": {name: options[name] for name in options if name not in NOT_COMPARED}}


def evicted() -> Iterator[dict[str, Any]]:
    """Keys of a window of 6 slots in 2 heads after chunks of 1, 3 and 9 tokens, with ties, by every kind of rule."""
    for seed, (sinks, bonus, recent) in enumerate(RULES):
        rng = np.random.default_rng(seed)
        levels = np.array(
            [*range(bonus + 1)] if bonus else [2.0**exponent for exponent in (-60, -58, -56, -41)], np.float32
        )
        keys = Keys(rng.choice(levels, (1, 2, 6)), np.arange(6)[None, None].repeat(2, 1))
        window = FullWindow(keys, sinks, bonus > 0, recent)
        first, steps, position = window.copy().keys, [], 6
        for tokens in (1, 1, 3, 9, 1, 2, 1, 1):
            new = rng.choice(levels, (1, 2, tokens))
            chosen = window.candidates(tokens, position)
            rows = np.zeros((1, 2, 2, 6 + 9, 1), np.float32)
            positions = np.broadcast_to(np.arange(position, position + tokens), new.shape)
            window.admit(rows, chosen, Keys(new, positions))
            position += tokens
            found = {"slots": chosen.slots, "compared": chosen.keys.precedence, **window.keys._asdict(), "new": new}
            steps.append({name: array.ravel().tolist() for name, array in found.items()})
        begin = {name: array.ravel().tolist() for name, array in first._asdict().items()}
        yield {"rule": {"sinks": sinks, "bonus": bonus, "recent": recent}, "begin": begin, "steps": steps}


def counted() -> Iterator[dict[str, Any]]:
    """Bonuses in tokens that numbers of a graph stand for: halves, bounds, and numbers beyond both."""
    precedence = np.array([-3, -0.2, 0.5, 1.5, 2.5, 2.4999, 7.75, 59.5, 60.5, 700, 2e9], np.float32) * np.float32(
        2**-40
    )
    for keep_bonus in (1, 60):
        found = {"precedence": precedence, "bonuses": np.abs(bonuses(precedence, keep_bonus))}  # no -0
        yield {"keep_bonus": keep_bonus, **{name: array.tolist() for name, array in found.items()}}


def guessed() -> Iterator[dict[str, Any]]:
    """The guesses of prompt lookup at each token of streams that copy with changes, by some costs of checks."""
    state = BigramDecoder(random_table(30)).new_state()  # which lookup does not read
    for seed, guess in enumerate((0.0, 0.1, 0.3)):
        rng, costs = np.random.default_rng(seed), CheckCosts()
        for guesses, seconds in enumerate([1.0, *(1.1 + guess * guesses for guesses in range(7))]):
            costs.note(guesses, seconds)
            costs.note(guesses, seconds)
        prompt = rng.integers(30, size=100).tolist()
        answer = [token if rng.random() < 0.9 else int(rng.integers(30)) for token in [*prompt[40:], *prompt]]
        lookup = PromptLookup(7, (), costs)
        lookup.extend(prompt, room=7)
        found = []
        for token in answer:
            lookup.extend([token], room=7)
            found.append(lookup.guess(state, token, room=7))
        yield {"costs": costs.by_guesses, "prompt": prompt, "answer": answer, "guesses": found}


def all_cases() -> dict[str, Any]:
    """Every case by its kind."""
    kinds = {
        "samples": samples,
        "processed": processed,
        "stopped": stopped,
        "cleaned": cleaned,
        "likelihoods": likelihoods,
    }
    kinds |= {"settings": settings, "evicted": evicted, "counted": counted, "guessed": guessed}
    return {"draws": draws()} | {kind: list(cases()) for kind, cases in kinds.items()}
