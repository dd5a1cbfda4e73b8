r"""Classes of characters in the patterns of a schema, of which JavaScript and Python have two readings.

`\w`, `\d` and `\s` are ASCII or all of Unicode, and `.` leaves out one line end or four. A pattern is written anew, so
that both readings match each text of it. A class is narrow, and wide where a bracket turns it round, as in `[^\w]`. No
class that is turned round has the character 0: with all control characters, llguidance takes `\"` and `\\` too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

NARROW = {
    "w": "[0-9A-Za-z_]",
    "W": r"[^\x00\p{L}\p{M}\p{N}\p{Pc}]",
    "d": "[0-9]",
    "D": r"[^\x00\p{Nd}]",
    "s": r"[\x20\t\n\r\f\x0b]",
    "S": r"[^\x00\s\x1c-\x1f\x85\u180e\ufeff]",
}
WIDE = {
    "w": r"[\p{L}\p{M}\p{N}\p{Pc}]",
    "W": "[^0-9A-Za-z_]",
    "d": r"[\p{Nd}]",
    "D": "[^0-9]",
    "s": r"[\s\x1c-\x1f\x85\u180e\ufeff]",
    "S": r"[^\x20\t\n\r\f\x0b]",
}
ANY = r"[^\x00\n\r\u2028\u2029]"  # for a point
FOLDED = r"\u0130\u0131\u017f\u212a"  # i, s and k to some readers that ignore case
IGNORES_CASE = re.compile(r"\(\?[ms]*i")
PARTS = re.compile(r"\\(.)|\[\^?|[\].]", re.DOTALL)
HAS_CLASS = re.compile(r"\\[wWdDsS]")
ASCII_ALONE = re.compile(r"\^(?:[^\\\[.|]|\[[^^\\]|\\[wds]|\\[^a-zA-Z0-9])*\$", re.DOTALL)


def read_alike(pattern: str) -> str:
    """A pattern whose texts the given one matches too, both in JavaScript and in Python."""
    bracket = ""
    turned = r"[^\x00" + (FOLDED if IGNORES_CASE.search(pattern) else "")

    def written(part: re.Match[str]) -> str:
        nonlocal bracket
        sign = part[0]
        if part[1]:
            return (WIDE if bracket == "[^" else NARROW).get(part[1], sign)
        if sign == ".":
            return sign if bracket else ANY
        if sign == "]":
            bracket = ""
        elif not bracket:
            bracket = sign
            return turned if sign == "[^" else sign
        return sign

    return PARTS.sub(written, pattern)


def may_name_one_key_twice(patterns: Iterable[str], names: Iterable[str]) -> bool:
    """Whether a key of a name or a pattern may match another pattern in one of the two readings alone."""
    patterns = list(patterns)
    if not any(map(HAS_CLASS.search, patterns)):
        return False
    plain = all(pattern.isascii() and ASCII_ALONE.fullmatch(pattern) for pattern in patterns)
    return (len(patterns) > 1 and not plain) or not all(name.isascii() for name in names)
