"""Bounds of numbers that hold for the binary number which a validator reads, whatever digits an answer has.

llguidance compares digits: to it, 0.99999999999999999999 is below 1, and Python reads it as 1.0. It also reads the
bounds themselves inexactly from 16 digits on. So an exclusive bound is given to it as the next number of 15 digits
inside, as an inclusive one. Reading is monotone, so a number beyond that one in digits is read as one beyond it, too.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from typing import Any, TypeGuard

DIGITS = 15  # of a decimal number that a binary one of 64 bits keeps
LAST_PLACE = -22  # behind the point; 10**22 is the largest power of ten that a binary number holds exactly
SHORTER = range(1, 7)  # places behind the point at which a number may end before its bound does
SIDES = (("minimum", "exclusiveMinimum", ROUND_CEILING, 1), ("maximum", "exclusiveMaximum", ROUND_FLOOR, -1))


def include_bounds(schema: dict[str, Any]) -> None:
    """Put inclusive bounds in the place of those that a schema has; draft 4 writes `exclusiveMinimum` as true."""
    outer = []  # new bounds away from 0
    farthest = farthest_multiple(schema.get("multipleOf"))
    for inclusive, exclusive, rounding, inwards in SIDES:
        bounds: list[float] = [] if farthest is None else [-inwards * farthest]
        limit, beyond = schema.get(inclusive), schema.get(exclusive)
        if is_number(limit):
            bounds.append(inner(limit, beyond is True, rounding, inwards))
        if is_number(beyond):
            bounds.append(inner(beyond, True, rounding, inwards))
        if bounds:
            schema[inclusive] = max(bounds) if inwards > 0 else min(bounds)
            schema.pop(exclusive, None)
            if schema[inclusive] != limit and schema[inclusive] * inwards < 0:
                outer.append(inclusive)
    if outer and schema.get("type") != "integer":
        _allow_shorter(schema, outer)


def farthest_multiple(step: object) -> int | None:
    """Up to where all multiples of a step are binary numbers, so that reading one gives a multiple; None for any.

    Whole steps have none, for Python reads whole numbers exactly; 3.0 has, for by it Python divides binary numbers. Nor
    have 0.5, 0.25 and so on, whose multiples become whole numbers beyond it.
    """
    if not is_number(step):
        return None
    numerator, denominator = step.as_integer_ratio()
    is_power = numerator & (numerator - 1) == 0
    return None if isinstance(step, int) or is_power else 2**53 // denominator


def _allow_shorter(schema: dict[str, Any], sides: list[str]) -> None:
    """Let numbers end in the middle of a bound's digits: by a `maximum` of 0.99999 llguidance refuses 0.9 and 0.99."""
    whole: dict[str, Any] = {key: schema[key] for key in ("type", "minimum", "maximum") if key in schema}
    choices = [whole]
    for places in SHORTER:
        place = Decimal(1).scaleb(-places)
        shorter = {side: float(Decimal(repr(schema[side])).quantize(place, ROUND_DOWN)) for side in sides}
        choices.append(whole | shorter)
    others = schema.get("allOf", [])
    if isinstance(others, list):  # else it is refused as such
        schema["allOf"] = [*others, {"anyOf": choices}]


def inner(bound: float, is_exclusive: bool, rounding: str, inwards: int) -> float:
    """The nearest number inside a bound that has few digits; the bound itself where it may be reached and has few.

    bound: at most 2**53. rounding: of decimal, inwards. inwards: 1 for a lower bound and -1 for an upper one.
    """
    exact = Decimal(repr(bound))
    place = min(0, max(exact.adjusted() - DIGITS + 1, LAST_PLACE)) if bound else LAST_PLACE
    few = exact.quantize(Decimal(1).scaleb(place), rounding)
    while is_exclusive and (float(few) - bound) * inwards <= 0:
        few += Decimal(inwards).scaleb(place)
    return int(few) if few == few.to_integral_value() else float(few)


def is_kept(number: float) -> bool:
    """Whether llguidance reads a constant exactly."""
    return number == inner(number, False, ROUND_FLOOR, -1)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
