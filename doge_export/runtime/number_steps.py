"""The values of `multipleOf` in a schema, and a limit to them.

llguidance follows a step by the remainders that digits leave. It computes all of them before an answer begins, and
heeds none of its own limits meanwhile: a step of 2**31 takes gigabytes. Steps of choices at one place go together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from ..errors import OptionError
from .number_bounds import farthest_multiple, is_number

LARGEST_BOUNDED = 5_000  # beside bounds; by 10,000 llguidance gives up in the middle of an answer
LARGEST_STEP = 100_000  # whole, in units of its last decimal; about 0.7 seconds of a Xeon's core
MOST_OF_STEPS = 200_000  # all of a schema
MOST_TOGETHER = 1_000_000  # the least common multiple of those that may be chosen at one place


class Steps:
    """Those of one schema, counted while its places are walked through."""

    def __init__(self, name: str) -> None:
        """name: of the option, for errors."""
        self._name = name
        self._met: set[int] = set()

    def add(self, place: Iterable[Any]) -> None:
        """Count the steps that may be chosen at one place, each a value of JSON; OptionError for too many."""
        steps = {step: units(step) for step in place if is_number(step)}
        for step, size in steps.items():
            if size > LARGEST_STEP:
                self._refuse(
                    f"multipleOf of {step}",
                    f"at most {LARGEST_STEP}, or in decimals as few digits",
                )
        self._met.update(steps.values())
        if math.lcm(*steps.values()) > MOST_TOGETHER or sum(self._met) > MOST_OF_STEPS:
            self._refuse("several multipleOf, which together are too large to follow", "smaller ones, or fewer")

    def add_bounded(self, schemas: Iterable[dict[str, Any]]) -> None:
        """OptionError where a step is too large beside the bounds of schemas that hold together."""
        schemas = list(schemas)
        lows = [part[key] for part in schemas for key in ("minimum", "exclusiveMinimum") if is_number(part.get(key))]
        bounded = any(part.get(key) is not None for part in schemas for key in ("maximum", "exclusiveMaximum"))
        for step in (part.get("multipleOf") for part in schemas):
            if not is_number(step) or units(step) <= LARGEST_BOUNDED:
                continue
            allowed = f"at most {LARGEST_BOUNDED}, or in decimals as few digits"
            if farthest_multiple(step) is not None:  # bounds that `include_bounds` gives it
                self._refuse(f"multipleOf of {step}", allowed)
            if bounded or min(lows, default=0) < 0:
                self._refuse(f"multipleOf of {step} within bounds", f"{allowed}, or no bounds")

    def _refuse(self, given: str, allowed: str) -> None:
        raise OptionError(f"{self._name} has {given}; give {allowed}")


def units(step: float) -> int:
    """A step in units of its last decimal, and 1 for a small power of ten, whose remainders are the last digits."""
    _, digits, _ = Decimal(repr(step)).normalize().as_tuple()
    whole = int("".join(map(str, digits)))
    if whole == 1 and step <= LARGEST_STEP:
        return 1
    return abs(int(step)) if step == int(step) else whole
