"""The forms of a text with its label, in a file to train on as in a file to measure on.

    label                                       becomes                 shape
    a name, a whole number, a truth             its name                ONE
    a list of them                              their names             SEVERAL
    a number with a point, or a list of them    the numbers as text     NUMBERS

The text is a string, or messages of which the user's count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .errors import DataError

Messages = list[dict[str, str]]
ROLES = ("system", "user", "assistant")
ONE, SEVERAL, NUMBERS = "one label", "several labels", "numbers"  # the shapes of `label`


def text_in(text: Any) -> str:
    """The text that is labelled; of messages that of the user.

    Raises:
        DataError: it is neither, or empty.
    """
    if isinstance(text, list):
        text = "\n".join(message["content"] for message in as_messages(text, "text") if message["role"] == "user")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"text is {shown(text)}; it must be a string that is not empty, or messages of a user")
    return text


def labels_in(label: Any) -> tuple[list[str], str]:
    """The labels as text, and their shape.

    Raises:
        DataError: it is nothing of this kind, or a number that is not finite.
    """
    labels = label if isinstance(label, list) else [label]
    numbers = [each for each in labels if isinstance(each, float)]
    if numbers and len(numbers) == len(labels):
        if not all(map(math.isfinite, numbers)):
            raise DataError(f"label is {shown(label)}; it must be finite")
        return [repr(each) for each in numbers], NUMBERS
    names = [str(each).lower() if isinstance(each, bool) else str(each) for each in labels]
    if not all(isinstance(each, str | int) and name.strip() for each, name in zip(labels, names, strict=True)):
        raise DataError(f"label is {shown(label)}; it must be a name, a list of names, or a number")
    return names, SEVERAL if isinstance(label, list) else ONE


def is_number(label: str) -> bool:
    """Whether a label is a number as text, finite or not."""
    try:
        float(label)
    except ValueError:
        return False
    return True


def as_messages(value: Any, name: str) -> Messages:
    """A list of messages, each with its role and content alone.

    Raises:
        DataError: naming the item that is no message.
    """
    if not isinstance(value, list) or not value:
        raise DataError(f"{name} is {shown(value)}; it must be a list of messages with role and content")
    messages = []
    for index, message in enumerate(value):
        fields = message if isinstance(message, Mapping) else {}
        role, content = fields.get("role"), fields.get("content")
        if role not in ROLES:
            raise DataError(f"{name}[{index}] has the role {shown(role)}; it must be one of {', '.join(ROLES)}")
        if not isinstance(content, str) or (role == "assistant" and not content.strip()):
            raise DataError(f"{name}[{index}] has the content {shown(content)}; it must be text")
        messages.append({"role": role, "content": content})
    return messages


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
