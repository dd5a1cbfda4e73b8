"""Limits of time and memory for chat templates, which are programs of strangers.

Jinja's sandbox keeps a template from Python's internals, but not from endless loops or endless text. Signals and limits
of the operating system would end those only in a main thread, or only on some systems. So all that a template does
passes through a `Budget`, by the hooks of `template_sandbox`. Two rules make that enough:

- Each step is counted: rounds of loops, calls, filters, tests and operators, and all text that is made.
- No step is long by itself: a value that would be too large is refused before it is made.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from jinja2.exceptions import TemplateRuntimeError

MOST_SECONDS = 10.0  # of one rendering; a message takes some hundred-thousandths of one
LONGEST_SOURCE = 2**17  # characters of a template; a longer one can take many seconds to compile
# Characters of one value: some times the messages, and room for a template's own text.
LARGEST_VALUE, LARGEST_VALUE_PER_CHARACTER = 2**20, 4
LONGEST_TEXT = 2**16  # of the whole text, and LARGEST_VALUE_PER_CHARACTER; a model reads some thousand a second
# Characters of all that is made on the way. A template that grows a text message by message makes it many times.
MOST_WORK, MOST_WORK_PER_CHARACTER = 2**22, 256
ITEM = 8  # an item of a list or dictionary counts as so many characters; it takes about as much memory
MOST_BITS = 4096  # of a whole number; multiplying and dividing takes time that grows with their square
WIDEST_FIELD = 1000  # characters that a format, or a search from behind, may be asked for
MOST_ENTRIES = 10_000  # of a dictionary that is made by a call; colliding keys take time that grows with their square


class TemplateLimitError(TemplateRuntimeError):
    """A template asks for more time or memory than any conversation takes."""


class Budget:
    """Time and memory that one rendering may still take.

    Attributes:
        largest: characters of the largest value.
        longest: characters of the whole text.
    """

    def __init__(self, messages: object) -> None:
        """messages: all that the template is given; the longer, the more it may take."""
        size = weigh(messages, None)
        self.largest = LARGEST_VALUE + LARGEST_VALUE_PER_CHARACTER * size
        self.longest = LONGEST_TEXT + LARGEST_VALUE_PER_CHARACTER * size
        self._left = MOST_WORK + MOST_WORK_PER_CHARACTER * size
        self._deadline = time.monotonic() + MOST_SECONDS

    def spend(self, amount: int) -> None:
        """Count a step that makes so many characters; TemplateLimitError when no time or memory is left."""
        self._left -= amount
        if self._left < 0:
            raise TemplateLimitError("it takes too many steps, or makes too much text on the way")
        if time.monotonic() > self._deadline:
            raise TemplateLimitError(f"it takes more than {MOST_SECONDS:g} seconds")

    def room(self, size: int) -> None:
        """TemplateLimitError when a value of so many characters would be too large."""
        if size > self.largest:
            raise TemplateLimitError(f"it makes a value of more than {self.largest:,} characters")

    def made(self, value: Any) -> Any:
        """Count a step and the value that it made, which is returned."""
        size = 0
        if isinstance(value, str):
            size = len(value)
            self.room(size)
        elif isinstance(value, list | tuple | dict):
            size = ITEM * len(value)
            weigh(value, self.largest)
        elif isinstance(value, int):
            check_bits(value.bit_length())
        self.spend(1 + size)
        return value

    def paced(self, items: Iterable[Any], step: int = 1) -> Iterator[Any]:
        """The items, each counted as so many characters when it is taken."""
        for item in items:
            self.spend(step)
            yield item


def weigh(value: object, most: int | None) -> int:
    """Characters of a value and all that it holds, each as often as it appears in it, and of `ITEM` for each place.

    Raises TemplateLimitError above `most`: a list of lists of lists can be small and yet endless to print.
    """
    total, waiting = 0, [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            total += len(part)
        elif isinstance(part, list | tuple | dict):
            total += ITEM * len(part)
        if most is not None and total > most:
            raise TemplateLimitError(f"it makes a value of more than {most:,} characters")
        if isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple):
            waiting += part
    return total


def check_bits(bits: int) -> None:
    """TemplateLimitError for a whole number of too many bits."""
    if bits > MOST_BITS:
        raise TemplateLimitError(f"it makes a number of more than {MOST_BITS} bits")


def check_operator(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """TemplateLimitError when an operator would make too much; the others make little, which is checked afterwards."""
    if operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                budget.room(weigh(sequence, budget.largest) * times)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() * right)
    elif operator == "%" and isinstance(left, str):
        _check_percent_format(budget, left, right)


def check_call(budget: Budget, function: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments to call a function with; TemplateLimitError when a method would make too much of them."""
    if isinstance(function, FunctionType) and function.__name__ in ("format", "format_map"):
        # Jinja hands out these two methods in a wrapper, which knows the method.
        _check_brace_format(budget, vars(function)["__wrapped__"].__self__, args)
    if not isinstance(function, BuiltinMethodType | MethodType) or not isinstance(function.__self__, str) or not args:
        return args
    text, name = function.__self__, function.__name__
    if name in ("center", "ljust", "rjust", "zfill") and isinstance(args[0], int):
        budget.room(args[0])
    elif name == "replace" and len(args) > 1:
        _check_replace(budget, text, *args)
    elif name == "join":
        return (_check_join(budget, args[0], text),)
    elif name in ("strip", "lstrip", "rstrip", "rfind", "rindex", "rsplit", "rpartition"):
        _check_trim(budget, text, args[0])
    return args


def check_filter(budget: Budget, name: str, value: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The value to give to a filter; TemplateLimitError when the filter would make too much of it."""
    check = _FILTER_CHECKS.get(name)
    return value if check is None else check(budget, value, *args, **named)


# One function for each filter that can make much out of little, with the filter's own names of its arguments.


def _check_join(budget: Budget, value: Iterable[Any], d: Any = "", attribute: Any = None) -> list[Any]:
    parts = list(budget.paced(value))
    budget.room(weigh(parts, budget.largest) + len(parts) * len(str(d)))
    return parts


def _check_replace(budget: Budget, s: Any, old: Any, new: Any, count: Any = None) -> Any:
    budget.room(len(str(s)) + str(s).count(str(old)) * len(str(new)))
    return s


def _check_indent(budget: Budget, s: Any, width: Any = 4, first: Any = False, blank: Any = False) -> Any:
    budget.room(len(str(s)) + (str(s).count("\n") + 1) * (width if isinstance(width, int) else len(str(width))))
    return s


def _check_trim(budget: Budget, value: Any, chars: Any = None) -> Any:
    # Searches from behind, and for one of many characters, take as long as both texts' lengths multiplied.
    if isinstance(chars, str) and len(chars) > WIDEST_FIELD:
        raise TemplateLimitError(f"it searches a text for one of more than {WIDEST_FIELD} characters")
    return value


def _check_round(budget: Budget, value: Any, precision: Any = 0, method: Any = "common") -> Any:
    if isinstance(precision, int) and abs(precision) > WIDEST_FIELD:
        raise TemplateLimitError(f"it rounds to more than {WIDEST_FIELD} places")
    return value


def _check_sum(budget: Budget, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    if isinstance(start, list | tuple):
        raise TemplateLimitError("it adds up lists, although the filter 'sum' is for numbers")
    return iterable


def _check_format(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> Any:
    _check_percent_format(budget, str(value), kwargs or args)
    return value


_FILTER_CHECKS: dict[str, Callable[..., Any]] = {
    "format": _check_format,
    "indent": _check_indent,
    "join": _check_join,
    "replace": _check_replace,
    "round": _check_round,
    "sum": _check_sum,
    "trim": _check_trim,
}


def _check_percent_format(budget: Budget, text: str, values: Any) -> None:
    _check_widths(re.findall(r"%[^%a-zA-Z]*?(\d+|\*)", text))
    budget.room(len(text) + text.count("%") * weigh(values, budget.largest))


def _check_brace_format(budget: Budget, text: str, values: tuple[Any, ...]) -> None:
    _check_widths(re.findall(r"\{[^{}]*?(\d+|\{)", text))
    budget.room(len(text) + text.count("{") * weigh(values, budget.largest))


def _check_widths(widths: Iterable[str]) -> None:
    """TemplateLimitError for a width that is large, or that the values could make large."""
    if any(not width.isdecimal() or int(width) > WIDEST_FIELD for width in widths):
        raise TemplateLimitError(f"it formats a value with a width that may be more than {WIDEST_FIELD}")
