"""Random JSON schemas, and decoders that answer at random in any vocabulary."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema
import numpy as np
from numpy.typing import NDArray

from doge_export.runtime.constraints import Constraints
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.model import Model
from tests.helpers.fakes import BigramDecoder

NAMES = ("a", "b", "name", "age", "é", 'q"', "long name", "x\\y")


def random_schema(random: Random) -> dict[str, Any]:
    """A schema whose answers are short, with parts of it behind `$ref` and in `allOf`."""
    return with_definitions(any_schema(random, 3))


def any_schema(random: Random, depth: int) -> dict[str, Any]:
    kinds = [number, string, constant, flag]
    if depth:
        kinds += [record, record, open_record, array, either, dictionary, shared, merged]
    return random.choice(kinds)(random, depth)


def shared(random: Random, depth: int) -> dict[str, Any]:
    """A schema as the target of `$ref`, as pydantic writes them and more; `with_definitions` puts it into its place."""
    reference = {"$ref": any_schema(random, depth - 1)}
    return random.choice([reference, reference | {"description": "a"}, {"allOf": [reference], "default": None}])


def merged(random: Random, depth: int) -> dict[str, Any]:
    """A schema whose keywords stand apart: in members of `allOf`, or beside a `$ref`."""
    whole = random.choice([number, string, record])(random, depth)
    key = random.choice([key for key in whole if key not in ("type", "additionalProperties")])
    rest = {other: value for other, value in whole.items() if other != key}
    if "properties" in whole:  # additionalProperties looks at the properties beside it
        key, rest = "required", whole | {"required": []}
    one = {key: whole[key]}
    return random.choice([{"allOf": [rest, one]}, {"allOf": [one, {"$ref": rest}]}, {"$ref": rest, **one}])


def with_definitions(root: dict[str, Any]) -> dict[str, Any]:
    """The schema with pointers to definitions, in two places, where `$ref` had a schema."""
    homes: dict[str, dict[str, Any]] = {"#/$defs/": {}, "#/components/a~1b%20~0c/": {}}
    left: list[Any] = [root]
    while left:
        part = left.pop()
        if isinstance(part, dict) and isinstance(part.get("$ref"), dict):
            home = min(homes, key=lambda home: len(homes[home]))
            left.append(part["$ref"])
            homes[home][f"d{len(homes[home])}"] = part["$ref"]
            part["$ref"] = f"{home}d{len(homes[home]) - 1}"
        left += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
    first, second = homes.values()
    return {**root, "$defs": first, "components": {"a/b ~c": second}}


def number(random: Random, depth: int) -> dict[str, Any]:
    low = random.randint(-50, 50)
    bounds = {"minimum": low, "maximum": low + random.randint(1, 400)}
    schema: dict[str, Any] = {"type": "integer", **bounds}
    if random.random() < 0.3:
        schema = {"type": "integer", "multipleOf": random.choice([2, 5]), **bounds, "maximum": low + 10}
    if random.random() < 0.3:
        schema = {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": low + 2}
    return schema


def string(random: Random, depth: int) -> dict[str, Any]:
    least = random.randint(0, 3)
    choices: list[dict[str, Any]] = [
        {"minLength": least, "maxLength": least + random.randint(0, 6)},
        {"pattern": random.choice(["^[a-z]{1,4}$", "^(yes|no)$", "^\\d{3}-\\d{2}$", "^a.{0,3}é?$"])},
        {"format": random.choice(["date", "time", "ipv4", "uuid"])},
    ]
    return {"type": "string", **random.choice(choices)}


def constant(random: Random, depth: int) -> dict[str, Any]:
    values = [1, -2.5, "é", 'say "hi"', None, True, ["a", {"b": 1}], {"k": [1, 2]}, "", "日本\n"]
    return {"const": random.choice(values)} if random.random() < 0.3 else {"enum": random.sample(values, 3)}


def flag(random: Random, depth: int) -> dict[str, Any]:
    return {"type": random.choice(["boolean", "null", ["boolean", "null"]])}


def open_record(random: Random, depth: int) -> dict[str, Any]:
    """An object that takes other keys too."""
    schema = record(random, depth)
    others = random.choice([True, {"type": "integer"}])
    names = list(schema["properties"])
    return schema | {"additionalProperties": others, "required": names, "maxProperties": len(names) + 1}


def record(random: Random, depth: int) -> dict[str, Any]:
    names = random.sample(NAMES, random.randint(1, 4))
    properties = {name: any_schema(random, depth - 1) for name in names}
    return {
        "type": "object",
        "properties": properties,
        "required": random.sample(names, random.randint(0, len(names))),
        "additionalProperties": False,
    }


def array(random: Random, depth: int) -> dict[str, Any]:
    least = random.randint(0, 2)
    schema = {"type": "array", "items": any_schema(random, depth - 1), "minItems": least, "maxItems": least + 1}
    if random.random() < 0.3:
        schema = {"type": "array", "prefixItems": [any_schema(random, 0) for _ in range(2)], "items": False}
    return schema


def either(random: Random, depth: int) -> dict[str, Any]:
    options = [any_schema(random, depth - 1) for _ in range(2)]
    return {"anyOf": [*options, {"type": "null"}] if random.random() < 0.3 else options}


def dictionary(random: Random, depth: int) -> dict[str, Any]:
    values = any_schema(random, depth - 1)
    if random.random() < 0.5:
        return {"type": "object", "additionalProperties": values, "minProperties": 1, "maxProperties": 2}
    return {"type": "object", "patternProperties": {"^[a-c]{1,2}$": values}, "additionalProperties": False}


def allows(model: Model, schema: Any, text: str) -> bool:
    """Whether a model could write a text as its whole answer by a schema, token by token."""
    options = GenerationOptions(json_schema=schema)
    tokenizer = model.tokenizer
    constraint = Constraints(tokenizer, len(tokenizer)).of(options, [])
    for token_id in tokenizer.encode_inside(text):
        if np.isinf(constraint.restrict(np.zeros(len(tokenizer), np.float32))[token_id]):
            return False
        constraint.append(token_id)
    constraint.restrict(np.zeros(len(tokenizer), np.float32))
    return constraint.complete or constraint._may_end


def is_valid(text: str, schema: Any) -> bool:
    """Whether a text is JSON that a schema allows; jsonschema is the judge."""
    validator = jsonschema.validators.validator_for(schema)(schema)
    try:
        return bool(validator.is_valid(json.loads(text)))
    except ValueError:
        return False


class RandomDecoder(BigramDecoder):
    """Logits after a token that are drawn by the token's id, as good as a table of any size.

    JSON's own signs are a little likelier than others, so that answers come to an end.
    """

    def __init__(self, vocab_size: int, likely_ids: list[int], seed: int = 0) -> None:
        super().__init__(np.zeros((vocab_size, 0), np.float32), keep_window_size=4096)
        self.likely_ids, self.seed = likely_ids, seed

    def logits(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = [
            np.random.default_rng([self.seed, int(token_id)]).normal(scale=2, size=self.vocab_size)
            for token_id in token_ids
        ]
        table = np.array(rows, dtype=np.float32)
        table[:, self.likely_ids] += 6
        return table
