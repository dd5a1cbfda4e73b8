r"""Numbers as people write them, told from LaTeX that math-verify would misread: 1e3 as 1 e 3, 12 500 as 512.

integer 42, decimal 3.5, exponent 1e-05, fraction -3/4, mixed 2 1/2, thousands 1,234 and 12 500, percent 3.5%
"""

from __future__ import annotations

import re
from fractions import Fraction

SPACE = r"(?:\s|~|\\[,;: ])"
DIGITS = rf"(?:[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]{{1,3}}(?:{SPACE}[0-9]{{3}})+|[0-9]+)"
NUMBER = re.compile(
    rf"""(?P<sign>[-+\u2212]?)\s*(?:
        (?P<whole>[0-9]+){SPACE}+(?P<part>[0-9]+)\s*/\s*(?P<parts>[0-9]+)
      | (?P<top>{DIGITS})\s*/\s*(?P<bottom>{DIGITS})
      | (?P<decimal>(?:{DIGITS}(?:\.[0-9]*)?|\.[0-9]+))(?:[eE](?P<exponent>[-+]?[0-9]{{1,3}})|\s*(?P<percent>\\?%))?
    )""",
    re.VERBOSE,
)
MOST_CHARACTERS = 1000  # Python refuses integers of more than 4,300 digits
MISREAD = re.compile(rf"[0-9]{SPACE}+[0-9]|[0-9]:[0-9]|[0-9][eE][-+]?[0-9]|[0-9]-0[0-9]")


def latex_number(text: str) -> str | None:
    """The LaTeX of a number; None where the text is none, or divides by zero."""
    found = NUMBER.fullmatch(text.strip())
    if found is None or len(text) > MOST_CHARACTERS:
        return None
    sign = "-" if found["sign"] in ("-", "\u2212") else ""
    decimal, top, bottom = (re.sub(rf"{SPACE}|,", "", found[name] or "") for name in ("decimal", "top", "bottom"))
    if decimal and found["exponent"]:
        value = Fraction(f"{decimal}e{found['exponent']}")
        return f"{sign}{_fraction(value.numerator, value.denominator)}"
    if decimal:
        return f"{sign}{decimal.removesuffix('.')}" + (r"\%" if found["percent"] else "")
    if int(bottom or found["parts"]) == 0:
        return None
    if top:
        return f"{sign}{_fraction(int(top), int(bottom))}"
    whole, part, parts = (int(found[name]) for name in ("whole", "part", "parts"))
    return f"{sign}{_fraction(whole * parts + part, parts)}"


def _fraction(top: int, bottom: int) -> str:
    return str(top) if bottom == 1 else rf"\frac{{{top}}}{{{bottom}}}"


def has_digits(text: str) -> bool:
    """Whether a text has any digit, such as 5 or ½."""
    return any(character.isnumeric() for character in text)


def is_misread(latex: str) -> bool:
    """Whether LaTeX has a time, a date, an exponent by e, or digits apart, which math-verify reads as products."""
    return MISREAD.search(latex) is not None
