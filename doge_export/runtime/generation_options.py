"""How to generate: one checked set of options, and the defaults that an exported folder brings along."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypedDict

from ..errors import OptionError, PackageError
from .description import DRAFT_TOKENS

DEFAULT_MAX_NEW_TOKENS = 100

# Below this the scaled logits of a float32 model may overflow; sampling is then greedy in all but name.
SMALLEST_TEMPERATURE = 1e-6


class GenerationOverrides(TypedDict, total=False):
    """The keywords of `generate`, `stream` and `chat`; one left out, or None, takes the folder's default."""

    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    stop: Sequence[str] | None
    ignore_eos: bool | None
    seed: int | None
    prompt_lookup_num_tokens: int | None


@dataclass(frozen=True)
class GenerationOptions:
    """What one generation is asked for. Any value that is not allowed raises OptionError at construction.

    max_new_tokens: most tokens to sample, at least 1.
    temperature: divides the logits; 0 is greedy, and the four fields below but the penalty are then not used.
    top_p, top_k, min_p: nucleus, k best, and share of the best token's probability; 1, 0 and 0 switch them off.
    repetition_penalty: weakens tokens that stand in the prompt or the answer; 1 switches it off, greedy obeys it too.
    stop: strings that end the answer and do not belong to it.
    ignore_eos: go on after an end-of-sequence token.
    seed: the same seed gives the same text; None takes fresh entropy.
    prompt_lookup_num_tokens: guess up to so many tokens from what was said before and check them at once, 0 to 7; the
        answer is the same, sooner where it copies; 0 switches it off. (transformers' name.)
    """

    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    prompt_lookup_num_tokens: int = 0

    def __post_init__(self) -> None:
        for name, rule in _NUMBER_RULES.items():
            object.__setattr__(self, name, rule.checked(name, vars(self)[name]))
        if self.seed is not None:
            object.__setattr__(self, "seed", _SEED_RULE.checked("seed", self.seed))
        object.__setattr__(self, "stop", _checked_stop(self.stop))
        if not isinstance(self.ignore_eos, bool):
            raise OptionError(f"ignore_eos is {self.ignore_eos!r}, but must be True or False.")

    def with_overrides(self, overrides: GenerationOverrides) -> GenerationOptions:
        """A copy with every given (not None) override in place; OptionError for a name or value not allowed."""
        known = [field.name for field in fields(self)]
        for name in overrides:
            if name not in known:
                raise OptionError(f"There is no option {name!r}; the options are {', '.join(known)}.")
        given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
        return replace(self, **given)


@dataclass(frozen=True)
class _NumberRule:
    kind: type[Integral | Real]
    allows: Callable[[Any], bool]
    allowed: str

    def checked(self, name: str, value: object) -> int | float:
        # bool is a subclass of int, yet nobody who writes top_k=True means 1.
        if isinstance(value, bool) or not isinstance(value, self.kind) or not self.allows(value):
            raise OptionError(f"{name} is {value!r}, but must be {self.allowed}.")
        return int(value) if isinstance(value, Integral) and self.kind is Integral else float(value)


_NUMBER_RULES = {
    "max_new_tokens": _NumberRule(Integral, lambda n: n >= 1, "a whole number of at least 1"),
    "temperature": _NumberRule(
        Real,
        lambda t: t == 0 or SMALLEST_TEMPERATURE <= t < math.inf,
        f"0 (greedy) or a number of at least {SMALLEST_TEMPERATURE:g}",
    ),
    "top_p": _NumberRule(Real, lambda p: 0 < p <= 1, "a number above 0 and at most 1 (1 switches it off)"),
    "top_k": _NumberRule(Integral, lambda k: k >= 0, "a whole number of at least 0 (0 switches it off)"),
    "min_p": _NumberRule(Real, lambda p: 0 <= p <= 1, "a number from 0 to 1 (0 switches it off)"),
    "prompt_lookup_num_tokens": _NumberRule(
        Integral, lambda n: 0 <= n < DRAFT_TOKENS, f"a whole number from 0 to {DRAFT_TOKENS - 1} (0 switches it off)"
    ),
    # beyond these the penalised logits of a float32 model could vanish or overflow
    "repetition_penalty": _NumberRule(
        Real, lambda r: 1e-3 <= r <= 1e3, "a number from 0.001 to 1000 (1 switches it off)"
    ),
}
_SEED_RULE = _NumberRule(Integral, lambda n: n >= 0, "a whole number of at least 0, or None for fresh entropy")


def _checked_stop(stop: object) -> tuple[str, ...]:
    if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
        raise OptionError(f"stop is {stop!r}, but must be a list of strings, none of them empty.")
    return tuple(stop)


@dataclass(frozen=True)
class GenerationDefaults:
    """What a folder says about generation: default options, and the tokens that end a sequence."""

    options: GenerationOptions = GenerationOptions()
    eos_token_ids: frozenset[int] = frozenset()

    @classmethod
    def from_folder(cls, folder: Path) -> GenerationDefaults:
        """Read `generation_config.json`; where that is absent, `config.json` names the end-of-sequence token.

        Raises PackageError when a file is not a JSON object or holds a value that is not allowed.
        """
        path = folder / "generation_config.json"
        if not path.is_file():
            path = folder / "config.json"
            config = read_json_object(path) if path.is_file() else {}
            return cls(GenerationOptions(), _eos_token_ids(config, path))
        config = read_json_object(path)
        try:
            options = options_from_generation_config(config)
        except OptionError as error:
            raise PackageError(f"{path} holds a value that is not allowed: {error}") from error
        return cls(options, _eos_token_ids(config, path))


def options_from_generation_config(config: Mapping[str, Any]) -> GenerationOptions:
    """The options that a `generation_config.json` stands for, every field read as transformers reads it.

    Without `do_sample` the answer is greedy whatever the other fields say. An absent or null field has transformers'
    own default, which for top_k is 50. Raises OptionError for a value that is not allowed.
    """
    given = {name: value for name, value in config.items() if value is not None}
    stop = given.get("stop_strings", ())
    return GenerationOptions(
        max_new_tokens=given.get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS),
        temperature=given.get("temperature", 1.0) if given.get("do_sample", False) else 0.0,
        top_p=given.get("top_p", 1.0),
        top_k=given.get("top_k", 50),
        min_p=given.get("min_p", 0.0),
        repetition_penalty=given.get("repetition_penalty", 1.0),
        stop=(stop,) if isinstance(stop, str) else stop,
    )


def _eos_token_ids(config: Mapping[str, Any], path: Path) -> frozenset[int]:
    value = config.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token_id, int) and not isinstance(token_id, bool) and token_id >= 0 for token_id in ids):
        raise PackageError(f"{path}: eos_token_id is {value!r}, but must be a token id, a list of them or null.")
    return frozenset(ids)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`; PackageError when it holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} cannot be read as JSON ({error}); export the model again.") from error
    if not isinstance(content, dict):
        raise PackageError(
            f"{path} holds a JSON {type(content).__name__} instead of an object; export the model again."
        )
    return content
