"""Chat templates: messages to the text a model was tuned on, in the sandboxed Jinja dialect of transformers.

Source of the dialect: `transformers/utils/chat_template_utils.py`. A template is foreign code from a model folder, so
it runs in the immutable sandbox and sees nothing but plain strings, numbers, lists and dictionaries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from doge_model.errors import one_line

from ..errors import OptionError, PackageError

Message = Mapping[str, Any]

# What the expressions of a template can raise besides Jinja's own errors: all of them speak of template or messages.
_EXPRESSION_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class ChatTemplate:
    """One compiled template together with the special tokens it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        """source: Jinja text. special_tokens: e.g. {"bos_token": "<s>"}. PackageError when it is no valid Jinja."""
        self._special_tokens = dict(special_tokens or {})
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise PackageError(f"The chat template of the model is not valid Jinja: {one_line(error)}.") from error

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a conversation; with `add_generation_prompt` it ends where the assistant's answer begins.

        Raises OptionError for malformed messages, and with the template's own words when it refuses them.
        """
        check_messages(messages)
        plain = [{name: value for name, value in message.items() if value is not None} for message in messages]
        variables = {**self._special_tokens, "tools": None, "documents": None}
        try:
            return self._template.render(messages=plain, add_generation_prompt=add_generation_prompt, **variables)
        except (jinja2.TemplateError, *_EXPRESSION_ERRORS) as error:
            raise OptionError(f"The chat template does not accept these messages: {one_line(error)}.") from error


def check_messages(messages: object) -> None:
    """OptionError unless `messages` is a non-empty list of dictionaries with the strings `role` and `content`."""
    if not isinstance(messages, list | tuple) or not messages:
        raise OptionError(
            f'messages is {messages!r}, but must be a non-empty list such as [{{"role": "user", "content": "Hello"}}].'
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise OptionError(f"messages[{index}] is {message!r}, but must be a dictionary with role and content.")
        for name in ("role", "content"):
            if not isinstance(message.get(name), str):
                given = repr(message[name]) if name in message else "missing"
                raise OptionError(f"messages[{index}][{name!r}] is {given}, but must be a string.")


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _PlainDict()
    environment.globals["namespace"] = _PlainNamespace
    return environment


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's text for training; here it is only rendered."""

    tags = {"generation"}  # noqa: RUF012  Jinja declares it as an instance variable

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _PlainDict:
    """The `dict` of a template: a call, without the attributes of the type through which a sandbox is left."""

    def __call__(self, *args: Any, **entries: Any) -> dict[Any, Any]:
        return dict(*args, **entries)


class _PlainNamespace(Namespace):
    """Jinja's namespace without names that begin with an underscore."""

    def __init__(*args: Any, **entries: Any) -> None:
        # No named parameter, so that a template may write namespace(self=...).
        self, initial = args[0], dict(*args[1:], **entries)
        for name in initial:
            _refuse_underscore(name)
        Namespace.__init__(self, initial)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace must not hold {name!r}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML characters, which would change what the model reads.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
