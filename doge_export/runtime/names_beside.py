"""A pattern for all names but some, in a language of patterns that cannot look ahead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import OptionError

ANY = r"[^\x00]"  # see pattern_classes
END = ""  # the key of a node at which a name ends
LONGEST_NAME, MOST_CHARACTERS = 200, 20_000  # the pattern's depth, and its length


def names_beside(option: str, names: Iterable[str]) -> str:
    """A pattern of Rust's `regex` that matches each text that is none of the names.

    A text leaves all names behind at one character: there it goes on with another, or ends. option: for errors.
    """
    names = set(names)
    if max(map(len, names)) > LONGEST_NAME or sum(map(len, names)) > MOST_CHARACTERS:
        raise OptionError(
            f"{option} has properties with long names beside a schema for all others; give names of at most "
            f"{LONGEST_NAME} characters, {MOST_CHARACTERS:,} in all"
        )
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for character in name:
            node = node.setdefault(character, {})
        node[END] = {}
    return f"^{_beside(tree)}$"


def _beside(node: dict[str, Any]) -> str:
    """A pattern of all that may follow where a text is the start of names."""
    nexts = sorted(character for character in node if character != END)
    others = "".join(map(_escaped, nexts))
    choices = [rf"[^\x00{others}]{ANY}*", *(_escaped(character) + _beside(node[character]) for character in nexts)]
    return f"({'|'.join(choices)})" + ("" if END in node else "?")


def _escaped(character: str) -> str:
    return character if character.isascii() and character.isalnum() else f"\\u{{{ord(character):x}}}"
