"""What one record of training data may look like, and the one shape in which it goes on.

| kind | accepted | becomes |
|---|---|---|
| text | `text` (or a plain string, from text files) | `text` |
| conversation | `messages`: list of role and content, at least one answer | `messages` |
| preference | `prompt`, `chosen`, `rejected`: strings or messages | the three as messages |

A prompt may also be what chosen and rejected begin with. Other fields are not read. A record that fits none of this is
refused, never repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .errors import DataError

Messages = list[dict[str, str]]
ROLES = ("system", "user", "assistant")


def as_text(record: Any) -> dict[str, Any]:
    """A document: {"text": str}."""
    text = record.get("text") if isinstance(record, Mapping) else record
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"text is {_shown(text)}, but must be a string that is not empty")
    return {"text": text}


def as_conversation(record: Any) -> dict[str, Any]:
    """A conversation: {"messages": [{"role", "content"}, ...]} with at least one answer of the assistant."""
    messages = as_messages(_fields(record).get("messages"), "messages")
    if all(message["role"] != "assistant" for message in messages):
        raise DataError("messages has no answer of the role 'assistant' to learn from")
    return {"messages": messages}


def as_preference(record: Any) -> dict[str, Any]:
    """A preference: {"prompt", "chosen", "rejected"}, all messages; the prompt is what both answers share."""
    fields = _fields(record)
    chosen, rejected = (_answer(fields.get(name), name) for name in ("chosen", "rejected"))
    shared = _common_length(chosen, rejected)
    prompt = chosen[:shared]
    if not prompt:
        prompt = as_messages(_wrapped(fields.get("prompt"), "user"), "prompt")
    chosen, rejected = chosen[shared:], rejected[shared:]
    if chosen == rejected:
        raise DataError("chosen and rejected are the same")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[0]["role"] != "assistant":
            raise DataError(f"{name} must go on with an answer of the role 'assistant' after the prompt")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "text": as_text,
    "conversation": as_conversation,
    "preference": as_preference,
}


def as_messages(value: Any, name: str) -> Messages:
    """A list of messages with exactly their role and content; DataError names the message that is none."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{name} is {_shown(value)}, but must be a list of messages with role and content")
    messages = []
    for index, message in enumerate(value):
        fields = message if isinstance(message, Mapping) else {}
        role, content = fields.get("role"), fields.get("content")
        if role not in ROLES:
            raise DataError(f"{name}[{index}] has the role {_shown(role)}; allowed are {', '.join(ROLES)}")
        if not isinstance(content, str) or (role == "assistant" and not content.strip()):
            raise DataError(f"{name}[{index}] has the content {_shown(content)}, but must have text")
        messages.append({"role": role, "content": content})
    return messages


def _answer(value: Any, name: str) -> Messages:
    return as_messages(_wrapped(value, "assistant"), name)


def _wrapped(value: Any, role: str) -> Any:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _common_length(first: Messages, second: Messages) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _fields(record: Any) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise DataError(f"the record is {_shown(record)}, but must be an object with named fields")
    return record


def _shown(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
