"""Functions that a model may ask to be called: written by its chat template, and read from its answer."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

from ..runtime.chat_template import ChatTemplate
from .errors import bad_request
from .responses import AnsweredCall, Function
from .schemas import ChatRequest, Message

# the form of Hermes, which Qwen, SmolLM2 and many others were tuned on; a template that knows it shows it
CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|\Z)", re.DOTALL)
MARK = "<tool_call>"


def check_tools(body: ChatRequest, template: ChatTemplate) -> list[dict[str, Any]] | None:
    """The tools for the template, None where none are wanted. ApiError where it cannot write them, or calls be read."""
    if not body.tools:
        if body.tool_choice not in (None, "none"):
            raise bad_request("tool_choice needs tools; give both, or neither", "tool_choice")
        return None
    if body.tool_choice == "none":
        return None
    if not template.takes_tools:
        raise bad_request(
            "the model's chat template writes no tools; leave tools out", "tools", "unsupported_parameter"
        )
    if MARK not in template.source:
        raise bad_request(
            f"the model's chat template asks for calls in another form than {MARK}, the one that the server reads; "
            "leave tools out",
            "tools",
            "unsupported_parameter",
        )
    return [tool.model_dump(exclude_none=True) for tool in body.tools]


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as templates expect them: arguments of calls as objects, and developers as the system."""
    return [_template_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _template_message(message: Message, where: str) -> dict[str, Any]:
    plain = message.model_dump(exclude_none=True)
    if message.role == "developer":
        plain["role"] = "system"
    if message.tool_calls:
        plain.setdefault("content", "")
    for number, call in enumerate(message.tool_calls or ()):
        try:
            arguments = json.loads(call.function.arguments or "{}")
        except ValueError as error:
            place = f"{where}.tool_calls[{number}].function.arguments"
            raise bad_request(f"{place} is no JSON: {error}", place) from error
        plain["tool_calls"][number]["function"]["arguments"] = arguments
    if "content" not in plain:
        raise bad_request(f"{where}.content is missing; give it as text", f"{where}.content")
    return plain


def read_calls(text: str) -> tuple[str, list[AnsweredCall]]:
    """The text of an answer without its calls, and these; all is text where a call is malformed."""
    found: list[AnsweredCall] = []
    for match in CALL.finditer(text):
        try:
            call = json.loads(match[1])
        except ValueError:
            return text, []
        if not isinstance(call.get("name"), str) or not isinstance(call.get("arguments", {}), dict):
            return text, []
        function = Function(name=call["name"], arguments=json.dumps(call.get("arguments", {})))
        found.append(AnsweredCall(index=len(found), id=f"call_{uuid.uuid4().hex[:24]}", function=function))
    return (CALL.sub("", text).strip(), found) if found else (text, [])
