"""Conversations as JSON files: model, options and messages, to be read by people and other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import StateError


def write_transcript(path: Path, transcript: dict[str, Any]) -> None:
    """Write to a new file; OSError when it exists or cannot be written."""
    text = json.dumps(transcript, ensure_ascii=False, indent=2) + "\n"
    with path.open("x", encoding="utf-8") as file:
        file.write(text)


def is_transcript(path: Path) -> bool:
    """Whether a file is JSON, rather than a saved state, which begins with eight bytes of a length."""
    with path.open("rb") as file:
        head = file.read(64)
    return head.lstrip().startswith((b"{", b"[")) and b"\0" not in head[:8]


def read_turns(path: Path) -> tuple[str | None, list[tuple[str, str]]]:
    """The system message of a transcript, or of a list of messages alone, and its questions with their answers.

    Raises StateError when the file is no transcript, or its messages are not question and answer in turn.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        messages = found if isinstance(found, list) else found["messages"]
        said = [(str(message["role"]), message["content"]) for message in messages]
    except KeyError as error:
        raise StateError(
            f"{path} is not a conversation that /save wrote: it has no field {error}; give another file"
        ) from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise StateError(f"{path} is not a conversation that /save wrote ({error}); give another file") from error
    system = said.pop(0)[1] if said and said[0][0] == "system" else None
    roles = [role for role, _ in said]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not all(isinstance(text, str) for _, text in said):
        raise StateError(f"{path} holds other messages than questions and answers in turn; give another file")
    return system, [(said[index][1], said[index + 1][1]) for index in range(0, len(said), 2)]
