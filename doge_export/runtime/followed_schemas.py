"""The schema that llguidance is given in place of the one that was asked for: each answer by it is valid by both.

llguidance reads some keywords in another way than validators do. So it is given others, which mean the same there.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .names_beside import names_beside
from .number_bounds import include_bounds
from .pattern_classes import read_alike
from .schema_places import CONTROL, dict_of, schemas_together

SPELLED = re.compile(r'["\\]')  # characters that JSON writes with a backslash
# formats of OpenAPI, pydantic and others, which no validator checks
OF_OPENAPI = ("password", "binary", "byte", "int32", "int64", "float", "double", "base64", "base64url")
OF_PYDANTIC = ("path", "file-path", "directory-path", "ipvanyaddress", "ipvanyinterface", "ipvanynetwork")
OF_NETWORKS = ("ipv4network", "ipv6network", "ipv4interface", "ipv6interface", "cidrv4", "cidrv6")
# zod writes a pattern beside nearly all of them
OF_ZOD = ("starts_with", "ends_with", "includes", "lowercase", "uppercase", "nanoid", "cuid", "cuid2", "ulid", "e164")
NOTES = (*OF_OPENAPI, *OF_PYDANTIC, *OF_NETWORKS, *OF_ZOD)


def followed_schema(name: str, text: str) -> str:
    """A schema, as JSON text that `json_schema_text` has checked, for llguidance. name: of the option, for errors."""
    root = json.loads(text)
    parts = {id(part): part for choices, _ in schemas_together(name, root) for schemas in choices for part in schemas}
    for part in parts.values():
        _drop_notes(part)
        _name_properties(part, root)
        _read_patterns_alike(part)
        _write_names_plainly(name, part)
        include_bounds(part)
    return json.dumps(root)


def _drop_notes(schema: dict[str, Any]) -> None:
    """Leave out keywords that mean nothing where they stand, and that llguidance would refuse or misread."""
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    if schema.get("format") in NOTES:
        del schema["format"]
    if not isinstance(schema.get("items"), list):
        schema.pop("additionalItems", None)  # no draft reads it there; llguidance drops prefixItems for it


def _name_properties(schema: dict[str, Any], root: Any) -> None:
    """Write `propertyNames` that allows any name, or names from a list, in other keywords; others stay as they are."""
    names = schema.get("propertyNames")
    target = _definition(names, root)
    plain = {key for key in target if key not in ("title", "description")}
    listed, values = target.get("enum"), schema.get("additionalProperties", True)
    is_text = target.get("type", "string") == "string"
    if names is True or names == {} or (plain == {"type"} and is_text):
        del schema["propertyNames"]
    elif plain in ({"enum"}, {"enum", "type"}) and isinstance(listed, list) and is_text:
        named = [name for name in listed if isinstance(name, str)]
        if not schema.keys() & {"properties", "patternProperties"} and not any(map(CONTROL.search, named)):
            del schema["propertyNames"]
            schema |= {"properties": dict.fromkeys(named, values), "additionalProperties": False}


def _definition(schema: Any, root: Any) -> dict[str, Any]:
    """A schema, or the definition that it names and nothing beside it; else an empty one."""
    if isinstance(schema, dict) and schema.keys() == {"$ref"} and isinstance(schema["$ref"], str):
        home, _, name = schema["$ref"].removeprefix("#/").partition("/")
        return dict_of(dict_of(root, home), name)
    return schema if isinstance(schema, dict) else {}


def _write_names_plainly(name: str, schema: dict[str, Any]) -> None:
    r"""Let a pattern name the keys that `properties` does not, for llguidance takes `\u0061` for another than `a`."""
    properties, others = schema.get("properties"), schema.get("additionalProperties", True)
    if not isinstance(properties, dict) or not properties or others is False or schema.get("patternProperties"):
        return
    schema.pop("additionalProperties", None)
    schema.pop("patternProperties", None)
    # by ^, which stands for any key, llguidance takes a quote's other spelling for another key
    is_plain = others in (True, {}) and not any(SPELLED.search(key) for key in properties)
    pattern = "^" if is_plain else names_beside(name, properties)
    # beside one another, for it reads the keys of a schema in their order
    schema |= {"patternProperties": {pattern: others}, "additionalProperties": False}


def _read_patterns_alike(schema: dict[str, Any]) -> None:
    """Let patterns match only texts that they match by all readings."""
    pattern, patterns = schema.get("pattern"), schema.get("patternProperties")
    if isinstance(pattern, str):
        schema["pattern"] = read_alike(pattern)
    if isinstance(patterns, dict):
        schema["patternProperties"] = {read_alike(key): value for key, value in patterns.items()}
