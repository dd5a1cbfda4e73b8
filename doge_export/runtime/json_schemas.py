"""JSON schemas as an option: read from Python or JSON, and refused where an answer could miss them.

llguidance follows all that a schema says, or refuses it, but for four points that are refused here. It does not keep
the keys apart that `properties` does not name, and a key that comes twice counts once for `minProperties`. It takes 0
where `exclusiveMinimum` is 0 and `maximum` 0.5, and so with any whole bound and a range shorter than 1. And it reads
`multipleOf` in decimal digits, where validators divide binary numbers: most of them refuse 1.13 for 0.01. It rounds
numbers beyond 2**53 to a binary one: the constant 2**53 + 1 would be answered by 2**53.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeGuard

from ..errors import OptionError

SUBSCHEMAS = ("items", "additionalItems", "additionalProperties")
LISTS_OF_SUBSCHEMAS = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
MOST_EXACT = 2**53
EXACT_KEYS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "const", "enum")
NAMED_SUBSCHEMAS = ("properties", "patternProperties", "$defs", "definitions")


def json_schema_text(name: str, value: object) -> str:
    """A schema as JSON text, given as such, as a dictionary, or as True for any JSON; OptionError for anything else."""
    return _text_of_text(name, value) if isinstance(value, str) else _text_of(name, value)


@lru_cache(maxsize=64)
def _text_of_text(name: str, text: str) -> str:
    """The same of text; kept, for options are checked whenever one of them is changed."""
    return _text_of(name, text)


def _text_of(name: str, value: object) -> str:
    try:
        schema = json.loads(value) if isinstance(value, str) else value
        text = json.dumps({} if schema is True else schema, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise OptionError(f"{name} is no JSON ({error}); give a JSON schema") from error
    if schema is not True and not isinstance(schema, Mapping):
        raise OptionError(f"{name} is {schema!r}; it must be a JSON schema, a dictionary or its JSON text")
    for part in _schemas(json.loads(text)):
        _check(name, part)
    return text


def _check(name: str, schema: dict[str, Any]) -> None:
    """Raise for a schema that llguidance takes and could miss."""
    if "x-guidance" in schema:
        raise OptionError(f"{name} has the key x-guidance, which could make answers invalid; leave it out")
    least, required = schema.get("minProperties", 0), schema.get("required", [])
    if _is_number(least) and isinstance(required, list) and least > max(1, len(required)):
        raise OptionError(
            f"{name} has minProperties of {least}; it must be at most 1, or the number of required properties"
        )
    for key in EXACT_KEYS:
        if any(abs(number) > MOST_EXACT for number in _numbers(schema.get(key))):
            raise OptionError(
                f"{name} has a number beyond 2**53 in {key}, which would not be kept exactly; give one from -2**53 to "
                "2**53, or leave it out"
            )
    step = schema.get("multipleOf", 1)
    if _is_number(step) and Decimal(repr(step)) != Decimal(step):
        raise OptionError(
            f"{name} has multipleOf of {step}, which binary numbers cannot hold exactly; give a whole number or a "
            "fraction such as 0.5"
        )
    if _misses_a_bound(schema):
        raise OptionError(
            f"{name} has a range of numbers shorter than 1 with a whole exclusive bound; give minimum or maximum "
            "in its place"
        )


def _misses_a_bound(schema: dict[str, Any]) -> bool:
    below, above = _bound(schema, "exclusiveMinimum", "minimum"), _bound(schema, "exclusiveMaximum", "maximum")
    low = schema.get("minimum") if below is None else below
    high = schema.get("maximum") if above is None else above
    if not (_is_number(low) and _is_number(high) and low < high < low + 1):
        return False
    return (below is not None and below >= 0 and below == int(below)) or (
        above is not None and above <= 0 and above == int(above)
    )


def _bound(schema: dict[str, Any], exclusive: str, inclusive: str) -> float | None:
    """An exclusive bound; draft 4 writes it as true beside the number."""
    bound = schema.get(inclusive) if schema.get(exclusive) is True else schema.get(exclusive)
    return bound if _is_number(bound) else None


def _numbers(value: Any) -> Iterator[float]:
    """The numbers in plain data."""
    left = [value]
    while left:
        part = left.pop()
        if _is_number(part):
            yield part
        elif isinstance(part, list | dict):
            left += part.values() if isinstance(part, dict) else part


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema and all schemas in it."""
    left = [schema]
    while left:
        part = left.pop()
        if not isinstance(part, dict):
            continue
        yield part
        left += [part.get(key) for key in SUBSCHEMAS]
        for key in LISTS_OF_SUBSCHEMAS:
            left += part[key] if isinstance(part.get(key), list) else []
        for key in NAMED_SUBSCHEMAS:
            left += part[key].values() if isinstance(part.get(key), dict) else []
