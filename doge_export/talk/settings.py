"""The options of a running conversation, read from typed text."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any, cast

from ..runtime.generation_options import GenerationOptions, GenerationOverrides

UNSET = frozenset(field.name for field in fields(GenerationOptions) if field.default is None)


def changed_options(options: GenerationOptions, name: str, value: str) -> GenerationOptions:
    """The options with one of another value, written as in JSON; OptionError for a name or value not allowed.

    A name may be written with hyphens, as on the command line. `none` takes back the options that
    have no value by default, such as a seed.
    """
    name = name.replace("-", "_")
    if value == "none" and name in UNSET:
        unset: dict[str, Any] = {name: None}
        return replace(options, **unset)
    given: Any = value
    if name not in ("regex", "grammar"):
        given = text_or_texts(value) if name == "stop" else as_json(value)
    return options.with_overrides(cast(GenerationOverrides, {name: given}))


def text_or_texts(value: str) -> Any:
    """A JSON string or list where it is one, so that a line end can be written as in "\\n"; else the text itself."""
    given = as_json(value)
    return given if isinstance(given, str | list) else value


def as_json(value: str) -> Any:
    """The value of a JSON text; any other text itself."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def listed(options: GenerationOptions) -> str:
    """Every option with its value, a line each."""
    return "\n".join(f"{name:<25} {json.dumps(value)}" for name, value in asdict(options).items())
