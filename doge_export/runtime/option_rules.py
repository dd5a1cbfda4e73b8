"""The values that an option may have: each rule takes a name and a value, and returns the value in one plain form.

Every rule raises OptionError for a value that is not allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from ..errors import OptionError
from .description import DRAFT_TOKENS

# Below this the scaled logits of a float32 model may overflow; sampling is then greedy in all but name.
SMALLEST_TEMPERATURE = 1e-6
# Above this, sums with a bias lose the float32 logits that it is added to.
LARGEST_BIAS = 1e6


@dataclass(frozen=True)
class NumberRule:
    """Numbers of a kind within bounds.

    allowed: the bounds, as the error says them.
    """

    kind: type[Integral | Real]
    allows: Callable[[Any], bool]
    allowed: str

    def __call__(self, name: str, value: object) -> int | float:
        """The number as a plain int or float."""
        # bool is a subclass of int, yet nobody who writes top_k=True means 1.
        if isinstance(value, bool) or not isinstance(value, self.kind) or not self.allows(value):
            raise OptionError(f"{name} is {value!r}; it must be {self.allowed}")
        return int(value) if isinstance(value, Integral) and self.kind is Integral else float(value)


@dataclass(frozen=True)
class OrNone:
    """None, or a value that another rule allows."""

    rule: Callable[[str, object], Any]

    def __call__(self, name: str, value: object) -> Any:
        """None, or the other rule's form of the value."""
        return None if value is None else self.rule(name, value)


def _strings(name: str, value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise OptionError(f"{name} is {value!r}; it must be a string or a list of strings, none of them empty")
    return tuple(texts)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{name} is {value!r}; it must be True or False")
    return value


def _token_ids(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(_is_token_id(token_id) for token_id in value):
        raise OptionError(f"{name} is {value!r}; it must be a list of token ids")
    return tuple(int(token_id) for token_id in value)


def one_or_more_ids(name: str, value: object) -> tuple[int, ...]:
    """A token id, or a list of them, as a tuple."""
    return _token_ids(name, value if isinstance(value, list | tuple) else [value])


def _sequences(name: str, value: object) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(ids, list | tuple) and ids for ids in value):
        raise OptionError(f"{name} is {value!r}; it must be a list of lists of token ids, none of them empty")
    return tuple(_token_ids(name, ids) for ids in value)


def _biases(name: str, value: object) -> tuple[tuple[tuple[int, ...], float], ...]:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise OptionError(f"{name} is {value!r}; it must be a list of pairs, each of token ids and a number")
    sequences = _sequences(name, [ids for ids, _ in pairs])
    return tuple((ids, float(_BIAS_RULE(name, bias))) for ids, (_, bias) in zip(sequences, pairs, strict=True))


def _token_biases(name: str, value: object) -> tuple[tuple[int, float], ...]:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and _is_token_id(pair[0]) for pair in pairs
    ):
        raise OptionError(f"{name} is {value!r}; it must be a dictionary of token ids and numbers")
    return tuple((int(token_id), float(_BIAS_RULE(name, bias))) for token_id, bias in pairs)


def _is_token_id(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < 2**31


_BIAS_RULE = NumberRule(
    Real, lambda b: b == -math.inf or abs(b) <= LARGEST_BIAS, f"made of numbers up to {LARGEST_BIAS:g}, or -inf"
)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise OptionError(f"{name} is {value!r}; it must be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{name} holds {value[error.start]!r}, half a character; give valid Unicode") from error
    return value


def _json_schema(name: str, value: object) -> str:
    from .json_schemas import json_schema_text  # noqa: PLC0415 - with what it imports a hundredth of a program's start

    return json_schema_text(name, value)


_PENALTY_RULE = NumberRule(Real, lambda p: -2 <= p <= 2, "a number from -2 to 2 (0 switches it off)")
_FORM_RULE = OrNone(_text)
CHECKS: dict[str, Callable[[str, object], Any]] = {
    "max_new_tokens": NumberRule(Integral, lambda n: n >= 1, "a whole number of at least 1"),
    "temperature": NumberRule(
        Real,
        lambda t: t == 0 or SMALLEST_TEMPERATURE <= t < math.inf,
        f"0 (greedy) or a number of at least {SMALLEST_TEMPERATURE:g}",
    ),
    "top_p": NumberRule(Real, lambda p: 0 < p <= 1, "a number above 0 and at most 1 (1 switches it off)"),
    "top_k": NumberRule(Integral, lambda k: k >= 0, "a whole number of at least 0 (0 switches it off)"),
    "min_p": NumberRule(Real, lambda p: 0 <= p <= 1, "a number from 0 to 1 (0 switches it off)"),
    # beyond these the penalised logits of a float32 model could vanish or overflow
    "repetition_penalty": NumberRule(
        Real, lambda r: 1e-3 <= r <= 1e3, "a number from 0.001 to 1000 (1 switches it off)"
    ),
    "stop": _strings,
    "ignore_eos": _flag,
    "seed": OrNone(NumberRule(Integral, lambda n: n >= 0, "a whole number of at least 0, or None for fresh entropy")),
    "prompt_lookup_num_tokens": NumberRule(
        Integral, lambda n: 0 <= n < DRAFT_TOKENS, f"a whole number from 0 to {DRAFT_TOKENS - 1} (0 switches it off)"
    ),
    "min_new_tokens": NumberRule(Integral, lambda n: n >= 0, "a whole number of at least 0"),
    "no_repeat_ngram_size": NumberRule(Integral, lambda n: n >= 0, "a whole number of at least 0 (0 switches it off)"),
    "suppress_tokens": _token_ids,
    "begin_suppress_tokens": _token_ids,
    "bad_words_ids": _sequences,
    "sequence_bias": _biases,
    "forced_eos_token_id": one_or_more_ids,
    "logit_bias": _token_biases,
    "presence_penalty": _PENALTY_RULE,
    "frequency_penalty": _PENALTY_RULE,
    "logprobs": OrNone(NumberRule(Integral, lambda n: n >= 0, "a whole number of at least 0, or None for none at all")),
    "json_schema": OrNone(_json_schema),
    "regex": _FORM_RULE,
    "grammar": _FORM_RULE,
}
