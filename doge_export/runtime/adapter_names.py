"""The names of adapters, which are parts of files' names too."""

from __future__ import annotations

import re

from ..errors import OptionError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> None:
    """Refuse a name that is no part of a file's name.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise OptionError(f"the adapter's name is {name!r}; it must be letters, digits, dots, dashes and underscores")
