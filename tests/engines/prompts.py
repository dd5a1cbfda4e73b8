"""Prompts for other engines, and the comparison of their answers with those of one process."""

from __future__ import annotations

from typing import Any

from doge_export.batch import Generator

WORDS = ("The sun", "Water", "One day", "A cat", "The city", "In 1990", "She said", "My name is")


def prompts(count: int) -> list[dict[str, Any]]:
    """Rows with a number, a prompt, and now and then none."""
    return [
        {"number": number, "prompt": None if number % 40 == 7 else f"{WORDS[number % len(WORDS)]} {number}"}
        for number in range(count)
    ]


def compare(engine: str, found: list[dict[str, Any]], rows: list[dict[str, Any]], generator: Generator) -> int:
    """The number of rows that an engine lost, doubled or answered otherwise than one process."""
    alone = generator({name: [row[name] for row in rows] for name in rows[0]})
    expected = {row["number"]: (alone["text"][at], alone["error"][at]) for at, row in enumerate(rows)}
    numbers = [row["number"] for row in found]
    wrong = sum((row["text"], row["error"]) != expected[row["number"]] for row in found)
    lost, doubled = len(expected.keys() - set(numbers)), len(numbers) - len(set(numbers))
    print(f"{engine}: {len(found)} rows, {lost} lost, {doubled} doubled, {wrong} answered otherwise")
    return lost + doubled + wrong
