"""The names of adapters, which are parts of files' names too."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import OptionError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_names(names: Iterable[str]) -> None:
    """Refuse names of which one is no part of a file's name, or two would be the same file on some disks.

    Raises:
        OptionError: there is one, or a pair.
    """
    known: dict[str, str] = {}
    for name in names:
        check_name(name)
        other = known.setdefault(name.lower(), name)
        if other != name:
            raise OptionError(f"adapters has {other!r} and {name!r}, one file where case does not count; rename one")


def check_name(name: str) -> None:
    """Refuse a name that is no part of a file's name.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise OptionError(f"the adapter's name is {name!r}; it must be letters, digits, dots, dashes and underscores")
