"""Chat templates: messages to the text a model was tuned on, in the sandboxed Jinja dialect of transformers.

Source of the dialect: `transformers/utils/chat_template_utils.py`. A template is foreign code from a model folder. So
it runs in the immutable sandbox with the limits of `template_limits`, and sees nothing but plain strings, numbers,
lists and dictionaries. Filters that only web pages need are not offered, which is the one difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.utils import Namespace

from doge_common.errors import one_line

from ..errors import OptionError, PackageError
from .template_limits import MOST_ENTRIES, WIDEST_FIELD, Budget, TemplateLimitError
from .template_sandbox import BUDGET, LimitedEnvironment, budget_of

Message = Mapping[str, Any]

# Errors of a template's expressions besides Jinja's own: all of them speak of the template or the messages.
_EXPRESSION_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
# Errors of a source that Jinja takes and Python's compiler refuses, such as loops nested 20 deep.
_COMPILER_ERRORS = (MemoryError, OverflowError, RecursionError, SyntaxError, ValueError)

# Text parts of one message are joined by this, as llama.cpp (common/chat.cpp) and vLLM (chat_utils.py) join them.
BETWEEN_PARTS = "\n"


class ChatTemplate:
    """One compiled template together with the special tokens it may name.

    Attributes:
        source: its text.
        takes_tools: whether it writes tools.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        """source: Jinja text. special_tokens: e.g. {"bos_token": "<s>"}. PackageError when it is no valid Jinja."""
        self.source, self._special_tokens = source, dict(special_tokens or {})
        environment = LimitedEnvironment({"tojson": _to_json}, [_GenerationTag, loopcontrols])
        environment.globals |= _GLOBALS
        try:
            self._template = environment.compiled(source)
            self.takes_tools = "tools" in find_undeclared_variables(environment.parse(source))
        except (jinja2.TemplateError, *_COMPILER_ERRORS) as error:
            raise PackageError(
                f"the chat template is not valid Jinja ({one_line(error)}); write another into the folder as "
                "chat_template.jinja"
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The text of a conversation; with `add_generation_prompt` it ends where the assistant's answer begins.

        tools: functions that the model may ask to be called, as OpenAI's interface describes them.

        Raises OptionError for malformed messages, and with the template's own words when it refuses them. The same when
        it writes nothing, or needs more time or memory than `template_limits` allows.
        """
        plain = check_messages(messages)
        plain_tools = [_plain(tool, f"tools[{index}]") for index, tool in enumerate(tools or ())]
        budget = Budget([*plain, *plain_tools])
        variables: dict[str, Any] = {**self._special_tokens, "tools": plain_tools or None, "documents": None}
        variables |= {"messages": plain, "add_generation_prompt": add_generation_prompt, BUDGET: budget}
        pieces, length = [], 0
        try:
            for piece in self._template.generate(variables):
                pieces.append(piece)
                length += len(piece)
                if length > budget.longest:
                    raise TemplateLimitError(f"it writes more than {budget.longest:,} characters")
        except TemplateLimitError as error:
            raise OptionError(
                f"the chat template asks for too much: {error}; give other messages, or mend the template"
            ) from error
        except (jinja2.TemplateError, *_EXPRESSION_ERRORS) as error:
            raise OptionError(f"the chat template does not accept these messages: {one_line(error)}") from error
        if not length:
            raise OptionError("the chat template writes nothing for these messages; give other messages")
        return "".join(pieces)


def check_messages(messages: object) -> list[dict[str, Any]]:
    """The messages as a template takes them: plain data without empty entries, the content of each one text.

    Content may be given as a list of parts, as OpenAI's clients send it: {"type": "text", "text": ...}. Raises
    OptionError unless `messages` is a non-empty list of dictionaries with `role` and `content`.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise OptionError(
            f'messages is {messages!r}; it must be a non-empty list such as [{{"role": "user", "content": "Hello"}}]'
        )
    try:
        return [_checked_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    except RecursionError as error:
        raise OptionError(
            "messages holds lists and dictionaries without end; give each message as plain data"
        ) from error


def _checked_message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise OptionError(f"{where} is {message!r}; it must be a dictionary with role and content")
    for name in ("role", "content"):
        if message.get(name) is None:
            raise OptionError(f"{where}[{name!r}] is missing; give it as text")
    if not isinstance(message["role"], str):
        raise OptionError(f"{where}['role'] is {message['role']!r}; it must be a string")
    plain = {name: _plain(value, f"{where}[{name!r}]") for name, value in message.items() if value is not None}
    return {**plain, "content": _content(message["content"], f"{where}['content']")}


def _content(content: object, where: str) -> str:
    """The text of a message, whose parts become one."""
    if isinstance(content, str):
        return str(content)
    if not isinstance(content, list | tuple):
        raise OptionError(f"{where} is {content!r}; it must be a string, or a list of text parts")
    return BETWEEN_PARTS.join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        raise OptionError(f'{where} is {part!r}; it must be a part such as {{"type": "text", "text": "Hello"}}')
    if kind != "text":
        raise OptionError(f"{where} is a part of the type {kind!r}; the model reads only text")
    if not isinstance(part.get("text"), str):
        raise OptionError(f"{where}['text'] is {part.get('text')!r}; it must be a string")
    return str(part["text"])


def _plain(value: object, where: str) -> Any:
    """A copy of strings, numbers, lists and dictionaries only: other objects have methods that a sandbox knows not."""
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # the text itself: str() of an enumeration's member would give the member's name
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {_plain(key, where): _plain(entry, where) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, where) for entry in value]
    raise OptionError(
        f"{where} holds {type(value).__name__}; it must be made of strings, numbers, lists and dictionaries"
    )


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
        if any(len(given) > MOST_ENTRIES for given in args if isinstance(given, Mapping | list | tuple)):
            raise TemplateLimitError(f"it makes a dictionary of more than {MOST_ENTRIES:,} entries")
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

    def __repr__(self) -> str:
        return "<Namespace>"  # with its entries, a few namespaces in each other would be endless to print


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace must not hold {name!r}")


@pass_context
def _to_json(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML characters, which would change the model's text.
    if (isinstance(indent, int) and indent > WIDEST_FIELD) or len("".join(separators or ())) > WIDEST_FIELD:
        raise TemplateLimitError(f"it separates entries by more than {WIDEST_FIELD} characters")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        return encoder.encode(value)
    pieces, budget = [], budget_of(context)
    for piece in encoder.iterencode(value):  # indentation can be most of the text
        budget.spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    if len(pattern) > WIDEST_FIELD:
        raise TemplateLimitError(f"it writes the date in more than {WIDEST_FIELD} characters")
    return datetime.now().strftime(pattern)


_GLOBALS = {
    "raise_exception": _raise_exception,
    "strftime_now": _strftime_now,
    "dict": _PlainDict(),
    "namespace": _PlainNamespace,
}
