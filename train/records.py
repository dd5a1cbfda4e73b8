"""The shapes that a record of training data may have, and the one shape of each kind that stages get.

    kind            accepted                                                     becomes
    text            `text`, or a plain string from text files                    `text`
    conversation    `messages`: a list of role and content, with an answer       `messages`
    preference      `prompt`, `chosen`, `rejected`: strings or messages          the three as messages
    labelled        `text`: a string or messages, of which the user's count;     `text`, `labels`, `shape`
                    `label`: a name, a list of names, a number or numbers
    problem         `problem` or `prompt`, a string or messages; `solution`      `prompt` as messages, `solution`

Chosen and rejected may also both begin with the prompt. Other fields are not read. A record of another shape is
refused, never repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from doge_common.labelled import Messages, as_messages, labels_in, shown, text_in

from .errors import DataError


def as_text(record: Any) -> dict[str, Any]:
    """A document: {"text": str}."""
    text = record.get("text") if isinstance(record, Mapping) else record
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"text is {shown(text)}; it must be a string that is not empty")
    return {"text": text}


def as_conversation(record: Any) -> dict[str, Any]:
    """A conversation: {"messages": [{"role", "content"}, ...]} with at least one answer of the assistant."""
    messages = as_messages(_fields(record).get("messages"), "messages")
    if all(message["role"] != "assistant" for message in messages):
        raise DataError("messages has no answer to learn from; it must have one of the role 'assistant'")
    return {"messages": messages}


def as_preference(record: Any) -> dict[str, Any]:
    """A preference: {"prompt", "chosen", "rejected"}, all messages; the prompt is the beginning that both share."""
    fields = _fields(record)
    chosen, rejected = (_answer(fields.get(name), name) for name in ("chosen", "rejected"))
    shared = _common_length(chosen, rejected)
    prompt = chosen[:shared]
    if not prompt:
        prompt = as_messages(_wrapped(fields.get("prompt"), "user"), "prompt")
    chosen, rejected = chosen[shared:], rejected[shared:]
    if chosen == rejected:
        raise DataError("chosen and rejected are equal; they must differ")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[0]["role"] != "assistant":
            raise DataError(f"{name} has no answer after the prompt; it must go on with one of the role 'assistant'")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def as_labelled(record: Any) -> dict[str, Any]:
    """A text with its label: {"text": str, "labels": [str, ...], "shape": one of ONE, SEVERAL, NUMBERS}."""
    fields = _fields(record)
    text = text_in(fields.get("text"))
    labels, shape = labels_in(fields.get("label"))
    return {"text": text, "labels": labels, "shape": shape}


def shaped(record: Any, kind: str, columns: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A record in the one shape of its kind; columns: the record's names of fields by the stage's, where they differ.

    Raises:
        DataError: it has no such shape, or no such column.
    """
    return KINDS[kind](_renamed(record, columns or {}))


def as_problem(record: Any) -> dict[str, Any]:
    """A problem: {"prompt": messages, "solution": the text that has its key}."""
    from .rewards import read_key  # noqa: PLC0415 - of this kind alone, and math-verify takes a second to import

    fields = _fields(record)
    name = "problem" if "problem" in fields else "prompt"
    prompt = as_messages(_wrapped(fields.get(name), "user"), name)
    if prompt[-1]["role"] == "assistant":
        raise DataError(f"{name} ends with an answer; it must end with a question")
    if not isinstance(fields.get("solution"), str):
        raise DataError(f"solution is {shown(fields.get('solution'))}; it must be text with the answer's key")
    read_key(fields["solution"])
    return {"prompt": prompt, "solution": fields["solution"]}


KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "text": as_text,
    "conversation": as_conversation,
    "preference": as_preference,
    "labelled": as_labelled,
    "problem": as_problem,
}


def _renamed(record: Any, columns: Mapping[str, str]) -> Any:
    if not isinstance(record, Mapping):
        return record
    others = {ours: theirs for ours, theirs in columns.items() if ours != theirs}
    for ours, theirs in others.items():
        if theirs not in record:
            there = ", ".join(map(shown, record)) or "none"
            raise DataError(f"there is no column {theirs!r} to read {ours} from; name one that is there: {there}")
    return {**record, **{ours: record[theirs] for ours, theirs in others.items()}}


def _answer(value: Any, name: str) -> Messages:
    return as_messages(_wrapped(value, "assistant"), name)


def _wrapped(value: Any, role: str) -> Any:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _common_length(first: Messages, second: Messages) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _fields(record: Any) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise DataError(f"the record is {shown(record)}; it must be an object with named fields")
    return record
