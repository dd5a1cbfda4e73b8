"""JSON schemas as an option: read from Python or JSON, and refused where an answer could miss them.

llguidance follows all that a schema says, or refuses it, but for a few points that are refused here. It does not keep
the keys apart that `properties` does not name, and a key that comes twice counts once for `minProperties`. It reads
`multipleOf` in decimal digits, where validators divide binary numbers: most of them refuse 1.13 for 0.01. It rounds
numbers beyond 2**53 to a binary one: the constant 2**53 + 1 would be answered by 2**53. It reads fractions of more than
15 digits inexactly. It multiplies two values of `multipleOf` in 32 bits. And it reads `[a-z&&[aeiou]]` in a pattern as
Rust does. Schemas that it merges, as those of `allOf`, are checked together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from ..errors import OptionError
from .number_bounds import is_kept, is_number
from .number_steps import Steps
from .pattern_classes import may_name_one_key_twice
from .schema_places import CONTROL, dict_of, schemas_together

MOST_EXACT = 2**53
EXACT_KEYS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "const", "enum")
CLASS = re.compile(r"\[\^?([^\]]*)")  # of characters in a pattern, with all up to its end
WHOLE_CLASS = re.compile(r"\[[^\]]*\]")
# flags such as x, a++, which Rust reads as (a+)+, and a{2, 3}, which is a text to others
OWN_SIGNS = re.compile(r"\(\?[ims]*[^ims:)<=!P]|[*+?}]\+|\{(?=[^}]*\s)[\d,\s]*\}")
OWN_ESCAPES = re.compile(r"\\(?:[AzZpP]|0|x00|u0000|u\{0+\})|\x00")  # that not all read, or of the character 0
MOST_PATTERNS = 100  # of patternProperties
RUST_SIGNS = re.compile(r"\[|&&|--|~~")


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
    _check_all(name, json.loads(text))
    return text


def _check_all(name: str, root: Any) -> None:
    """Check each part of a schema, and those that hold together."""
    draft = str(root.get("$schema"))
    if "draft-03" in draft:
        raise OptionError(f"{name} is of draft 3, which the library reads as a later one; give one of draft 4 or later")
    seen: set[int] = set()
    steps = Steps(name)
    for choices, surely in schemas_together(name, root):
        for schemas in choices:
            for part in schemas:
                if id(part) not in seen:
                    seen.add(id(part))
                    _check(name, part)
                    if "draft-04" not in draft:
                        _check_exclusive(name, part)
            _check_together(name, schemas)
            steps.add_bounded(schemas)
            if surely:
                _check_least_properties(name, schemas)
        steps.add(part.get("multipleOf") for schemas in choices for part in schemas)


def _check(name: str, schema: dict[str, Any]) -> None:
    """Raise for a schema that llguidance takes and could miss."""
    if "x-guidance" in schema:
        raise OptionError(f"{name} has the key x-guidance, which could make answers invalid; leave it out")
    _check_numbers(name, schema)
    if any(map(CONTROL.search, dict_of(schema, "properties"))):
        raise OptionError(
            f"{name} has a control character in the name of a property, which has several spellings; leave it out"
        )
    _check_pattern_properties(name, schema)
    if "prefixItems" in schema and isinstance(schema.get("items"), list):
        raise OptionError(f"{name} has prefixItems beside a list of items, which two drafts read; give one of the two")
    for pattern in [schema.get("pattern"), *dict_of(schema, "patternProperties")]:
        if isinstance(pattern, str):
            _check_pattern(name, pattern)


def _check_numbers(name: str, schema: dict[str, Any]) -> None:
    """Raise for numbers that llguidance rounds, or divides otherwise than validators."""
    for key in EXACT_KEYS:
        if any(abs(number) > MOST_EXACT for number in _numbers(schema.get(key))):
            raise OptionError(
                f"{name} has a number beyond 2**53 in {key}, which would not be kept exactly; give one from -2**53 to "
                "2**53, or leave it out"
            )
    constants = _numbers([schema.get("const"), schema.get("enum")])
    if any(not is_kept(number) for number in constants):
        raise OptionError(
            f"{name} has a constant of more than 15 digits or 22 decimals, which would not be kept exactly; give fewer"
        )
    step = schema.get("multipleOf", 1)
    if is_number(step) and Decimal(repr(step)) != Decimal(step):
        raise OptionError(
            f"{name} has multipleOf of {step}, which binary numbers cannot hold exactly; give a whole number or a "
            "fraction such as 0.5"
        )


def _check_pattern_properties(name: str, schema: dict[str, Any]) -> None:
    """Raise for keys by patterns that could be other keys too, and for too many of them."""
    patterns = schema.get("patternProperties")
    if patterns and schema.get("additionalProperties") is not False:
        raise OptionError(
            f"{name} has patternProperties and takes other keys too, which the library could confuse; give "
            "additionalProperties of false beside them"
        )
    if len(dict_of(schema, "patternProperties")) > MOST_PATTERNS:
        raise OptionError(f"{name} has {len(patterns or ())} patternProperties; give at most {MOST_PATTERNS}")


def _check_pattern(name: str, pattern: str) -> None:
    """Raise for a pattern that llguidance or a validator reads in a way of its own."""
    if _has_own_signs(pattern):
        raise OptionError(
            f"{name} has the pattern {pattern[:80]!r}, whose flags, escapes or signs of repetition the "
            "library or a validator would read in another way; leave them out"
        )
    if _is_of_rust(pattern):
        raise OptionError(
            f"{name} has the pattern {pattern[:80]!r}, whose brackets the library would read in another way; "
            "write \\[, \\], \\&, \\- and \\~ in them"
        )


def _check_exclusive(name: str, schema: dict[str, Any]) -> None:
    """Raise for true and false as a bound, which drafts after the fourth compare as 1 and 0."""
    for key in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(key), bool):
            raise OptionError(f"{name} has a true or false {key}, which draft 4 alone has; give the bound itself")


def _check_least_properties(name: str, schemas: list[dict[str, Any]]) -> None:
    """Raise for schemas that hold together and ask for more properties than they name."""
    least = max((part["minProperties"] for part in schemas if is_number(part.get("minProperties"))), default=0)
    lists = [part["required"] for part in schemas if isinstance(part.get("required"), list)]
    if least > max(1, len({key for required in lists for key in required if isinstance(key, str)})):
        raise OptionError(
            f"{name} has minProperties of {least}; it must be at most 1, or the number of required properties"
        )


def _check_together(name: str, schemas: list[dict[str, Any]]) -> None:
    """Raise for schemas that llguidance takes and could miss where two of them hold together."""
    if len({part["multipleOf"] for part in schemas if is_number(part.get("multipleOf"))}) > 1:
        raise OptionError(f"{name} has several values of multipleOf for one number; give one")
    patterns = {pattern for part in schemas for pattern in dict_of(part, "patternProperties")}
    if patterns and may_name_one_key_twice(patterns, {key for part in schemas for key in dict_of(part, "properties")}):
        raise OptionError(
            f"{name} has patternProperties with \\w, \\d or \\s that may match another key outside of ASCII; "
            "write [a-z] or [0-9] in their place"
        )


def _has_own_signs(pattern: str) -> bool:
    """Whether a pattern has signs outside of brackets, or escapes, that Rust reads in another way than Python."""
    if OWN_ESCAPES.search(pattern.replace("\\\\", "")):
        return True
    return OWN_SIGNS.search(WHOLE_CLASS.sub("a", _without_escapes(pattern))) is not None


def _without_escapes(pattern: str) -> str:
    return re.sub(r"\\.", "a", pattern, flags=re.DOTALL)  # an escape is a character, and no sign


def _is_of_rust(pattern: str) -> bool:
    """Whether a class of characters means another in Rust than in JavaScript: a bracket or doubled sign inside it."""
    return any(not signs or RUST_SIGNS.search(signs) for signs in CLASS.findall(_without_escapes(pattern)))


def _numbers(value: Any) -> Iterator[float]:
    """The numbers in plain data."""
    left = [value]
    while left:
        part = left.pop()
        if is_number(part):
            yield part
        elif isinstance(part, list | dict):
            left += part.values() if isinstance(part, dict) else part
