"""A pattern for all names but some, in a language of patterns that cannot look ahead."""

from __future__ import annotations

from collections.abc import Iterable

ANY = r"[\s\S]"


def names_beside(names: Iterable[str]) -> str:
    """A pattern of Rust's `regex` that matches each text that is none of the names.

    A text leaves all names behind at one character: there it goes on with another, or ends.
    """
    taken = set(names)
    followers: dict[str, set[str]] = {}
    for name in taken:
        for length, character in enumerate(name):
            followers.setdefault(name[:length], set()).add(character)
    parts = []
    for start in {*followers, *taken}:
        others = "".join(map(_escaped, sorted(followers.get(start, ()))))
        rest = f"[^{others}]{ANY}*" if others else f"{ANY}+"
        parts.append("".join(map(_escaped, start)) + (rest if start in taken else f"({rest})?"))
    return f"^({'|'.join(sorted(parts))})$"


def _escaped(character: str) -> str:
    return character if character.isascii() and character.isalnum() else f"\\u{{{ord(character):x}}}"
