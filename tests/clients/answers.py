"""Answers of the library alone, for clients to compare with: python -m tests.clients.answers FOLDER WORK

WORK/answers.json gets questions with the answers to them, WORK/tasks the tasks of lm-evaluation-harness, and
WORK/scores.json doge-eval's answers to those.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from doge_export import Model, load
from tests.runtimes.scores import Whole, answers, beginning, write_tasks

TEXTS = ("What is water?", "Who lives in the forest?", "Tell me about the sun, please.", "Why do birds sing?")
SCHEMA = {
    "type": "object",
    "properties": {"animal": {"enum": ["cat", "dog"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["animal", "legs"],
    "additionalProperties": False,
}


def question(model: Model, number: int) -> dict[str, Any]:
    """A question and its answers: as a chat, as a text, and as JSON by SCHEMA."""
    text, most = TEXTS[number % len(TEXTS)], 10 + 9 * number
    sampled: dict[str, Any] = {"temperature": (0.0, 0.8)[number % 2], "seed": number}
    chat = [{"role": "user", "content": text}]
    return {
        "text": text,
        "max_tokens": most,
        **sampled,
        "chat": model.chat(chat, max_new_tokens=most, **sampled).text,
        "completion": model.generate(text, max_new_tokens=most, **sampled).text,
        "json": model.chat(chat, max_new_tokens=100, json_schema=SCHEMA, **sampled).text,
    }


def main(folder: Path, work: Path) -> None:
    """Write everything."""
    work.mkdir(parents=True, exist_ok=True)
    model = load(folder)
    questions = [question(model, number) for number in range(6)]
    table = {"model": folder.resolve().name, "folder": str(folder), "schema": SCHEMA, "questions": questions}
    (work / "answers.json").write_text(json.dumps(table))
    write_tasks(work / "tasks", beginning(model))
    (work / "scores.json").write_text(json.dumps(answers(Whole(model), work / "tasks")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
