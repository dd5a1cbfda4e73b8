"""Which parts of a JSON schema hold together at one place of an answer.

llguidance merges a schema with the members of its `allOf`, the target of its `$ref` and each choice of its `anyOf` and
`oneOf`. It goes on so with the properties and items of all of them. Bounds of one number may come from several schemas.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any
from urllib.parse import unquote

from ..errors import OptionError

Schema = dict[str, Any]
Chain = tuple[Any, "Chain"] | None  # a list that grows in front, and shares its rest with others
INDEX = re.compile("0|[1-9][0-9]{0,8}")  # of a list, in a JSON pointer
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
DATA = ("const", "enum")  # keywords whose value is no schema
HOMES = ("properties", "patternProperties", "$defs", "definitions", "schemas")  # keys below them are names
MOST_STEPS = 200_000  # through a schema, in less than a second; 40 recursive parts of 11 fields take 124,000


def schemas_together(name: str, root: object) -> Iterator[tuple[list[list[Schema]], bool]]:
    """The schemas that may hold together, for each place of an answer: a list for each choice of `anyOf` and `oneOf`.

    name: of the option, for errors. root: plain data of JSON. Beside the lists stands whether all of one surely holds
    together: a pattern of `patternProperties` is taken to match any key. A place that comes again in a recursive schema
    is told once. Raises OptionError for a `$ref` that names no part of the schema, and for more than MOST_STEPS.
    """
    walk = _Walk(name, root)
    places: list[list[Any]] = [[root]]
    known: set[tuple[int, ...]] = set()
    known_places: set[tuple[int, ...]] = set()
    while places:
        place = places.pop()
        place_key = tuple(sorted(map(id, place)))
        if place_key in known_places:
            continue
        known_places.add(place_key)
        choices = [parts for met in walk.choices(place) if (parts := _twice_at_most(met))]
        keys = [(len(place) == 1, *sorted(map(id, parts))) for parts in choices]
        if known.issuperset(keys):
            continue
        yield choices, len(place) == 1
        for key, parts in zip(keys, choices, strict=True):
            if key not in known:
                known.add(key)
                for inside in _places_inside(parts):
                    schemas = [schema for schema in inside if isinstance(schema, dict)]
                    walk.spend(len(inside))
                    places += [schemas, *([schema] for schema in schemas if len(schemas) > 1)]


class _Walk:
    """A walk through one schema, which counts its steps."""

    def __init__(self, name: str, root: object) -> None:
        self._name, self._root, self._left = name, root, MOST_STEPS
        self._has_inner_ids = _has_inner_ids(root)

    def spend(self, steps: int) -> None:
        self._left -= 1 + steps
        if self._left < 0:
            raise OptionError(f"{self._name} combines too many schemas; give one with fewer parts or choices")

    def choices(self, place: list[Any]) -> Iterator[list[Schema]]:
        """The schemas that hold together with those of a place, for each choice."""
        waiting: Chain = None
        for schema in place:
            waiting = ((schema, frozenset()), waiting)
        left: list[tuple[Chain, Chain]] = [(waiting, None)]
        while left:
            waiting, parts = left.pop()
            self.spend(0)
            if waiting is None:
                yield list(_told(parts))
                continue
            (part, above), waiting = waiting
            if not isinstance(part, dict) or id(part) in above:
                left.append((waiting, parts))
                continue
            above |= {id(part)}
            options = [part[key] for key in ("anyOf", "oneOf") if isinstance(part.get(key), list)]
            together = [*_list(part, "allOf"), *self._target(part)]
            for chosen in product(*options):
                self.spend(len(together) + len(above))
                longer = waiting
                for schema in (*together, *chosen):
                    longer = ((schema, above), longer)
                left.append((longer, (part, parts)))

    def _target(self, schema: Schema) -> list[Any]:
        """The schema that `$ref` names, if it is there; as a JSON pointer in a fragment, RFC 6901."""
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return []
        if self._has_inner_ids:
            raise OptionError(
                f"{self._name} has a $ref, and an $id below its top that may change its target; leave it out"
            )
        shown = reference[:80]
        target, (start, *steps) = self._root, unquote(reference).split("/")
        if start != "#":
            raise OptionError(
                f"{self._name} has the $ref {shown!r}; it must be # or begin with #/, such as #/$defs/name"
            )
        for above, step in zip(["", *steps], steps, strict=False):
            if step in DATA and above not in HOMES:
                raise OptionError(f"{self._name} has the $ref {shown!r}, which points into data; name a schema")
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and INDEX.fullmatch(key) and int(key) < len(target):
                target = target[int(key)]
            else:
                raise OptionError(f"{self._name} has the $ref {shown!r}, which names nothing in it; correct it")
        return [target]


def _places_inside(parts: list[Schema]) -> Iterator[list[Any]]:
    """The schemas of each property and item; a pattern counts for all properties, for it may match any."""
    named = [dict_of(part, "properties") for part in parts]
    by_pattern = [schema for part in parts for schema in dict_of(part, "patternProperties").values()]
    for key in dict.fromkeys(key for properties in named for key in properties):
        others = [_other(part, properties, key) for part, properties in zip(parts, named, strict=True)]
        yield others + by_pattern
    rest = [part.get("additionalProperties") for part in parts]
    for pattern in dict.fromkeys(key for part in parts for key in dict_of(part, "patternProperties")):
        yield [_other(part, dict_of(part, "patternProperties"), pattern) for part in parts]
    yield rest
    first = [_list(part, "prefixItems") or _list(part, "items") for part in parts]
    behind = [[part.get("items"), part.get("additionalItems")] for part in parts]
    for index in range(max(map(len, first), default=0)):
        yield [
            schema
            for schemas, later in zip(first, behind, strict=True)
            for schema in schemas[index : index + 1] + later  # drafts differ in which of the two counts
        ]
    yield [schema for later in behind for schema in later]


def _other(part: Schema, named: Schema, key: str) -> Any:
    return named[key] if key in named else part.get("additionalProperties")


def _list(schema: Schema, key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def dict_of(schema: Schema, key: str) -> Schema:
    """The dictionary under a key of a schema; an empty one where there is none."""
    value = schema.get(key)
    return value if isinstance(value, dict) else {}


def _twice_at_most(parts: list[Schema]) -> list[Schema]:
    """A schema that is met by several roads may make two choices inside; each pair of them is seen."""
    counts: Counter[int] = Counter()
    kept = []
    for part in parts:
        counts[id(part)] += 1
        if counts[id(part)] <= 2:
            kept.append(part)
    return kept


def _has_inner_ids(root: Any) -> bool:
    """Whether a schema below the top names itself, which `$ref` then counts from."""
    if not isinstance(root, dict):
        return False
    keys = ("$id", "id") if "draft-04" in str(root.get("$schema")) else ("$id",)
    left = list(root.values())
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if any(isinstance(part.get(key), str) for key in keys):
                return True
            left += part.values()
        elif isinstance(part, list):
            left += part
    return False


def _told(chain: Chain) -> Iterable[Any]:
    while chain is not None:
        first, chain = chain
        yield first
