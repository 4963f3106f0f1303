"""Numbers within bounds, as GBNF.  Pure.

Owns a grammar for exactly the whole numbers from one bound to another, without leading zeros, one for
multiples, and one for decimal numbers that keeps to whole bounds (others are left to the verdict).  Two
numbers of as many digits are taken apart by their first digit; different lengths are alternatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

MOST_DIGITS = 18
_MOST_LISTED = 500  # multiples
_MOST_STATES = 200  # remainders
_PLACES = 17  # digits of a fraction


def number_grammar(kind: str, schema: Mapping[str, Any], name: str) -> tuple[str, dict[str, str]]:
    """GBNF for a number of a kind ("integer" or "number") as a schema has it, and rules that it needs.

    The names of those begin with `name`.  What a grammar can't say is left out.
    """
    step = _step(schema)
    if kind == "number" and (step == 0 or step.denominator != 1):
        return decimals(*_limits(schema), places_of(step)), {}
    low, high = _bounds(schema)
    if step > 1 and step.denominator == 1:
        return multiples(int(step), low, high, name)
    return integers(low, high) or "integer", {}


def integers(low: int | None, high: int | None) -> str | None:
    """GBNF for low <= n <= high, None meaning no bound; None where there is no such number, or too long."""
    if any(bound is not None and abs(bound) >= 10**MOST_DIGITS for bound in (low, high)):
        return "integer"
    if low is not None and high is not None and low > high:
        return None
    parts = []
    if low is None or low < 0:  # negative ones: by their amounts
        least = 1 if high is None or high >= 0 else -high
        parts += [f'"-" ({part})' for part in [_amounts(least, None if low is None else -low)] if part]
    if high is None or high >= 0:
        parts.append(_amounts(max(0, low or 0), high))
    return " | ".join(part for part in parts if part)


def multiples(step: int, low: int | None, high: int | None, name: str) -> tuple[str, dict[str, str]]:
    """GBNF for the multiples of a whole number from one bound to another, and rules that it needs.

    Few are listed; else digits are read with the remainder that they leave, and of the bounds only the sign
    is kept.
    """
    if low is not None and high is not None and (high - low) // step < _MOST_LISTED:
        found = [f'"{n}"' for n in range(-(-low // step) * step, high + 1, step)]
        return " | ".join(found) or "integer", {}
    if step > _MOST_STATES:
        return integers(low, high) or "integer", {}
    rules = {
        f"{name}-{rest}": " | ".join([*_digits(rest, step, name), *(['""'] if rest == 0 else [])])
        for rest in range(step)
    }
    rules[f"{name}-from"] = " | ".join(_digits(0, step, name, least=1))
    signs = {(True, False): '"-"', (True, True): '"-"?'}.get(
        (low is None or low < 0, high is None or high > 0), ""
    )
    return f'"0" | {signs} {name}-from', rules


def _digits(rest: int, step: int, name: str, least: int = 0) -> list[str]:
    """How a number that leaves a remainder so far goes on, digit by digit."""
    to: dict[int, str] = {}
    for digit in range(least, 10):
        after = (10 * rest + digit) % step
        to[after] = to.get(after, "") + str(digit)
    return [f"[{digits}] {name}-{after}" for after, digits in to.items()]


def places_of(step: Fraction) -> int:
    """How many digits after the point a multiple has, where the step is a power of ten below 1."""
    power = next((n for n in range(1, _PLACES) if step == Fraction(1, 10**n)), None)
    return power or _PLACES


def decimals(low: float | None, high: float | None, places: int = _PLACES) -> str:
    """GBNF for numbers with or without a fraction between two bounds, None meaning no bound."""
    if low is None and high is None and places == _PLACES:
        return "number"
    fraction = f'("." [0-9]{{1,{places}}})?'
    parts = []
    if high is None or high >= 0:
        parts.append(_fractions(0 if low is None else max(0.0, low), high, fraction))
    if low is None or low < 0:
        least = 0.0 if high is None or high >= 0 else -high
        parts.append(f'"-" ({_fractions(least, None if low is None else -low, fraction)})')
    return " | ".join(parts)


def _fractions(low: float, high: float | None, fraction: str) -> str:
    """low <= n <= high, for low >= 0: a whole part with a fraction, or the upper bound itself."""
    least = int(low // 1)
    if high is None or high >= 10**MOST_DIGITS:
        return f"({_amounts(least, None)}) {fraction}"
    most = int(high // 1)
    whole = most == high
    below = _amounts(least, most - 1 if whole else most)
    found = [f"({below}) {fraction}"] if below else []
    return " | ".join([*found, f'"{most}"'] if whole or not found else found)


def _amounts(low: int, high: int | None) -> str:
    """low <= n <= high, for low >= 0."""
    if high is not None and high < low:
        return ""
    found = []
    if low == 0:
        found.append('"0"')
        low = 1
        if high == 0:
            return found[0]
    digits = len(str(low))
    last = len(str(high)) if high is not None else digits
    for length in range(digits, last + 1):
        least = low if length == digits else 10 ** (length - 1)
        most = 10**length - 1 if high is None or length < last else high
        if least <= most:
            found.append(_same_length(str(least), str(most)))
    if high is None and digits < MOST_DIGITS:
        found.append(f"[1-9] [0-9]{{{digits},{MOST_DIGITS - 1}}}")
    return " | ".join(found)


def _same_length(low: str, high: str) -> str:
    """Texts of digits between two that are as long."""
    if low == high:
        return f'"{low}"'
    rest = len(low) - 1
    if set(low[1:]) <= {"0"} and set(high[1:]) <= {"9"}:
        return f"[{low[0]}-{high[0]}]" + (f" [0-9]{{{rest}}}" if rest else "")
    if low[0] == high[0]:
        return f'"{low[0]}" ({_same_length(low[1:], high[1:])})'
    parts = [f'"{low[0]}" ({_same_length(low[1:], "9" * rest)})']
    if int(low[0]) + 1 <= int(high[0]) - 1:
        parts.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}] [0-9]{{{rest}}}")
    parts.append(f'"{high[0]}" ({_same_length("0" * rest, high[1:])})')
    return " | ".join(parts)


# ---------------------------------------------------------------- what a schema says


def _bounds(schema: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The least and the largest whole number that a schema admits."""
    low: int | None = None
    high: int | None = None
    for name, value in _numbers(schema):
        whole = int(value // 1)
        match name:
            case "minimum":
                low = max(whole if whole == value else whole + 1, low if low is not None else -(10**30))
            case "exclusiveMinimum":
                low = max(whole + 1, low if low is not None else -(10**30))
            case "maximum":
                high = min(whole, high if high is not None else 10**30)
            case "exclusiveMaximum":
                high = min(whole - 1 if whole == value else whole, high if high is not None else 10**30)
    return low, high


def _limits(schema: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The bounds of a number; an exclusive one counts as inclusive, for the verdict sees to it."""
    lows = [value for name, value in _numbers(schema) if name in ("minimum", "exclusiveMinimum")]
    highs = [value for name, value in _numbers(schema) if name in ("maximum", "exclusiveMaximum")]
    return max(lows, default=None), min(highs, default=None)


def _step(schema: Mapping[str, Any]) -> Fraction:
    """What a number must be a multiple of; 0: of nothing."""
    value = schema.get("multipleOf")
    return (
        Fraction(str(value)) if isinstance(value, int | float) and not isinstance(value, bool) else Fraction()
    )


def _numbers(schema: Mapping[str, Any]) -> list[tuple[str, float]]:
    names = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    return [
        (name, schema[name])
        for name in names
        if isinstance(schema.get(name), int | float) and not isinstance(schema[name], bool)
    ]
