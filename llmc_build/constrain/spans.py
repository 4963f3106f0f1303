"""Whether a number lies between bounds.  Pure.

Owns the strictest of the bounds that hold at the same time, and whether a multiple of all their steps lies
between them.  All of it in decimals, as numbers are written: the float 0.3 is a little less than 0.3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeGuard

from llmc_build.constrain.drafts import Path

_MOST_BITS = 4_000  # of a common multiple
_PLAIN = 10**20  # whole numbers below it are told digit by digit


class TooMuch(Exception):
    """It takes too long to find out."""


@dataclass(slots=True)
class _Bound:
    """The strictest of some bounds; upper ones are given with the other sign."""

    value: Fraction | None = None
    exclusive: bool = False
    path: Path = ()

    def add(self, value: Fraction, exclusive: bool, path: Path) -> None:
        if self.value is None or (value, exclusive) > (self.value, self.exclusive):
            self.value, self.exclusive, self.path = value, exclusive, path


def no_number(schemas: Iterable[tuple[dict[str, Any], Path]], *, whole: bool) -> tuple[Path, str] | None:
    """Why no number conforms to all of some schemas, and where that stands.  Raises TooMuch."""
    low, high = _Bound(), _Bound()
    steps = [Fraction(1)] if whole else []
    for schema, path in schemas:
        for name, bound, sign in (("inimum", low, 1), ("aximum", high, -1)):
            plain, other = schema.get(f"m{name}"), schema.get(f"exclusiveM{name}")
            if is_number(plain):
                bound.add(Fraction(str(plain)) * sign, other is True, (*path, f"m{name}"))
            if is_number(other):
                bound.add(Fraction(str(other)) * sign, True, (*path, f"exclusiveM{name}"))
        if is_number(schema.get("multipleOf")):
            steps.append(Fraction(str(schema["multipleOf"])))
    if low.value is None or high.value is None:
        return None
    least, most = low.value, -high.value
    told = f"{_shown(least)} and {_shown(most)}"
    place = high.path if len(high.path) >= len(low.path) else low.path
    if least > most or (least == most and (low.exclusive or high.exclusive)):
        return place, f"no number lies between {told}"
    if not steps:
        return None
    step = functools.reduce(_common_multiple, steps)
    first = -(-least // step) * step
    if first == least and low.exclusive:
        first += step
    if first > most or (first == most and high.exclusive):
        what = "whole number" if step == 1 and whole else f"multiple of {_shown(step)}"
        return place, f"no {what} lies between {told}"
    return None


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _common_multiple(a: Fraction, b: Fraction) -> Fraction:
    below = a.denominator * b.denominator
    found = Fraction(math.lcm(a.numerator * b.denominator, b.numerator * a.denominator), below)
    if found.numerator.bit_length() > _MOST_BITS:
        raise TooMuch
    return found


def _shown(value: Fraction) -> str:
    if value.denominator == 1 and abs(value) < _PLAIN:
        return str(value)
    return f"{(Decimal(value.numerator) / Decimal(value.denominator)).normalize():.15g}"
