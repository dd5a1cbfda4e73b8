"""The options of a conversation where neither its user nor the folder says anything.

A small chat model repeats itself to the limit in greedy answers. ollama and llama.cpp sample, and so does a
conversation here. Measured by `python -m benchmarks.quality.loops`; docs/generation.md has the table.
"""

from __future__ import annotations

from typing import cast

from ..runtime.generation_options import GenerationDefaults, GenerationOverrides

SAMPLING: GenerationOverrides = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,  # up to here llama.cpp's
    "repetition_penalty": 1.05,
}
LONGEST: GenerationOverrides = {"max_new_tokens": 512}
SAMPLING_FIELDS = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
LENGTH_FIELDS = ("max_new_tokens",)


def with_defaults(overrides: GenerationOverrides, folder: GenerationDefaults) -> GenerationOverrides:
    """The overrides, with the defaults of a conversation where the folder states no setting of that kind.

    A temperature of 0 is greedy and exact, so it gets none of the sampling.
    """
    given = cast(GenerationOverrides, {name: value for name, value in overrides.items() if value is not None})
    if folder.stated.isdisjoint(LENGTH_FIELDS):
        given = {**LONGEST, **given}
    if folder.stated.isdisjoint(SAMPLING_FIELDS) and given.get("temperature") != 0:
        given = {**SAMPLING, **given}
    return given
