"""Options of the prompts of a batch: those of the call, and where they differ those of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import OptionError
from .generation_options import GenerationOptions, GenerationOverrides


def options_of_prompts(
    options: GenerationOptions, count: int, options_per_prompt: Sequence[GenerationOverrides] | None
) -> list[GenerationOptions]:
    """The options of each of `count` prompts: `options`, with those of `options_per_prompt` in place.

    One seed for the batch gives prompt i the seed + i, as in vLLM, so that equal prompts get different answers. A seed
    of the prompt's own is taken as it is. Raises OptionError for options that a batch does not take.
    """
    own = [{} for _ in range(count)] if options_per_prompt is None else options_per_prompt
    if isinstance(own, Mapping | str) or not isinstance(own, Sequence) or len(own) != count:
        raise OptionError(
            f"options_per_prompt is {options_per_prompt!r}; it must be a list of dictionaries, one for each of the "
            f"{count} prompts"
        )
    return [_options_of_prompt(options, index, overrides) for index, overrides in enumerate(own)]


def _options_of_prompt(options: GenerationOptions, index: int, overrides: GenerationOverrides) -> GenerationOptions:
    if not isinstance(overrides, Mapping):
        raise OptionError(f"options_per_prompt[{index}] is {overrides!r}; it must be a dictionary of options")
    if options.seed is not None:
        options = replace(options, seed=options.seed + index)
    options = options.with_overrides(overrides)
    check_taken_together(options)
    return options


def check_taken_together(options: GenerationOptions) -> None:
    """Raise for options that only one prompt by itself takes."""
    if options.prompt_lookup_num_tokens:
        raise OptionError("several prompts take no prompt_lookup_num_tokens; give one prompt, or set it to 0")
