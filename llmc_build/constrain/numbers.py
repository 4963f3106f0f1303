"""Numbers within bounds, as GBNF.  Pure.

Owns a grammar for exactly the whole numbers from one bound to another, without leading zeros, one for their
multiples, and one for decimal numbers that keeps to whole bounds (others are left to the verdict).  Two
numbers of as many digits are taken apart by their first digit; different lengths are alternatives.  Every
number has so many digits at most, lest a model write them until it is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

MOST_DIGITS = 18  # where no bound has more
_MOST_LISTED = 500  # multiples
_MOST_STATES = 3_000  # remainders, each with the digits that are to come
_SURE_STEP = 200  # up to which multiples are kept to, if need be with fewer digits
_PLACES = 17  # digits of a fraction

Limit = tuple[float, bool]  # a bound, and whether it is exclusive


def number_grammar(kind: str, schema: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """GBNF for a number of a kind ("integer" or "number") as a schema has it, and rules that it needs.

    Rules with the same name are the same rule.  What a grammar can't say is left out.
    """
    step = _step(schema)
    if kind == "number" and (step == 0 or step.denominator != 1):
        return decimals(*_limits(schema), places_of(step)), {}
    low, high = _bounds(schema)
    if step.numerator > 1:  # the whole ones of the multiples of 5/2 are those of 5
        return multiples(step.numerator, low, high)
    return integers(low, high) or "integer", {}


def integers(low: int | None, high: int | None) -> str | None:
    """GBNF for low <= n <= high, None meaning no bound; None where there is no such number."""
    low, high = _within_reach(low, high)
    if low is not None and high is not None and low > high:
        return None
    parts = []
    if low is None or low < 0:  # negative ones: by their amounts
        least = 1 if high is None or high >= 0 else -high
        parts += [f'"-" ({part})' for part in [_amounts(least, None if low is None else -low)] if part]
    if high is None or high >= 0:
        parts.append(_amounts(max(0, low or 0), high))
    return " | ".join(part for part in parts if part)


def _within_reach(low: int | None, high: int | None) -> tuple[int | None, int | None]:
    """Bounds without those that no number of a usual length comes near, such as those of 64 bits."""
    if low is not None and low <= -(10**MOST_DIGITS):
        low = None
    return low, None if high is not None and high >= 10**MOST_DIGITS else high


def multiples(step: int, low: int | None, high: int | None) -> tuple[str, dict[str, str]]:
    """GBNF for the multiples of a whole number from one bound to another, and rules that it needs.

    Zeros at the end of the step are zeros at the end of its multiples.  Of the rest, few are listed; else
    digits are read with the remainder that they leave and with how many are to come.
    """
    low, high = _within_reach(low, high)
    unit = 1
    while step % (10 * unit) == 0:
        unit *= 10
    low, high = None if low is None else -(-low // unit), None if high is None else high // unit
    made = _Multiples(step // unit, max(1, MOST_DIGITS + 1 - len(str(unit))))
    signed = [("", low, high), ('"-" ', None if high is None else -high, None if low is None else -low)]
    parts = ['"0"'] if (low or 0) <= 0 <= (high or 0) else []
    for sign, least, most in signed:
        body = made.amounts(max(1, least or 1), most) if most is None or most >= 1 else ""
        if body:
            parts.append(f"{sign}({body})" + (f' "{str(unit)[1:]}"' if unit > 1 else ""))
    return " | ".join(parts) or "integer", {name: rule for name, rule in made.rules.items() if rule}


class _Multiples:
    """Of one step, which is no multiple of ten."""

    def __init__(self, step: int, digits: int) -> None:
        self._step = step
        self._digits = digits
        self.rules: dict[str, str] = {}  # empty: there is no way to go on

    def amounts(self, low: int, high: int | None) -> str:
        """Those with low <= n <= high, for low >= 1."""
        step = self._step
        if step == 1:
            return _amounts(low, high, self._digits)
        first = -(-low // step) * step
        if high is not None and (high - first) // step < _MOST_LISTED:
            return " | ".join(f'"{n}"' for n in range(first, high + 1, step))
        longest = max(self._digits, len(str(low))) if high is None else len(str(high))
        if step * longest > _MOST_STATES:
            fewer = _MOST_STATES // step
            if fewer <= len(str(first)) or (high is not None and step > _SURE_STEP):
                return self._in_part(_MOST_STATES // longest, low, high)
            longest = fewer
        top = 10**longest - 1 if high is None else min(high, 10**longest - 1)
        ways = []
        for length in range(len(str(low)), longest + 1):
            least, most = max(low, 10 ** (length - 1)), min(top, 10**length - 1)
            ways.append(self._between(str(least), str(most), 0))
        return " | ".join(way for way in ways if way)

    def _in_part(self, most: int, low: int, high: int | None) -> str:
        """The multiples of the largest of its divisors that is small enough."""
        divisor = next(step for step in range(max(1, most), 0, -1) if self._step % step == 0)
        part = _Multiples(divisor, self._digits)
        body = part.amounts(low, high)
        self.rules |= part.rules
        return body

    def _between(self, low: str, high: str, rest: int) -> str:
        """Digits between two texts of as many that make a multiple of what leaves a remainder so far."""
        if not low:
            return "" if rest else '""'
        if set(low) == {"0"} and set(high) == {"9"}:
            return self._free(rest, len(low))
        if low[0] == high[0]:
            return self._then(low[0], self._between(low[1:], high[1:], self._after(rest, low[0])))
        rest_of = len(low) - 1
        ways = [self._then(low[0], self._between(low[1:], "9" * rest_of, self._after(rest, low[0])))]
        for digit in map(str, range(int(low[0]) + 1, int(high[0]))):
            ways.append(self._then(digit, self._free(self._after(rest, digit), rest_of)))
        ways.append(self._then(high[0], self._between("0" * rest_of, high[1:], self._after(rest, high[0]))))
        return " | ".join(way for way in ways if way)

    def _free(self, rest: int, left: int) -> str:
        """The rule for so many digits, or nothing where there are none."""
        if not left:
            return "" if rest else '""'
        name = f"d{self._step}-{rest}-{left}"
        if name not in self.rules:
            to: dict[int, str] = {}
            for digit in "0123456789":
                after = self._after(rest, digit)
                to[after] = to.get(after, "") + digit
            ways = [(digits, self._free(after, left - 1)) for after, digits in to.items()]
            self.rules[name] = " | ".join(f"[{digits}] {way}" for digits, way in ways if way)
        return name if self.rules[name] else ""

    def _after(self, rest: int, digit: str) -> int:
        return (10 * rest + int(digit)) % self._step

    def _then(self, digit: str, way: str) -> str:
        return f'"{digit}" ({way})' if way else ""


def places_of(step: Fraction) -> int:
    """How many digits after the point a multiple has at most."""
    power = next((n for n in range(1, _PLACES) if (step * 10**n).denominator == 1), None)
    return power if power and step else _PLACES


def decimals(low: Limit | None, high: Limit | None, places: int = _PLACES) -> str:
    """GBNF for numbers with or without a fraction between two bounds, None meaning no bound."""
    if low is None and high is None and places == _PLACES:
        return "number"
    zero = (0.0, False)
    parts = []
    if high is None or high > (0, True):
        parts.append(_fractions(zero if low is None or low[0] < 0 else low, high, places))
    elif high == (0, False) and (low is None or low <= high):
        parts.append('"0"')
    if low is None or low[0] < 0:
        least = zero if high is None or high[0] > 0 else (-high[0], high[1])
        parts.append(f'"-" ({_fractions(least, None if low is None else (-low[0], low[1]), places)})')
    return " | ".join(parts)


def _fractions(low: Limit, high: Limit | None, places: int) -> str:
    """low <= n <= high, for low >= 0: a whole part with a fraction, or the upper bound itself."""
    least = int(low[0] // 1)
    fraction = f'("." [0-9]{{1,{places}}})?'
    found = []
    if low[1] and least == low[0]:  # the bound itself is out: its fraction is not 0
        found.append(f'"{least}." ({_not_zero(places)})')
        least += 1
    if high is None or high[0] >= 10**MOST_DIGITS:
        return " | ".join([*found, f"({_amounts(least, None)}) {fraction}"])
    most = int(high[0] // 1)
    whole = most == high[0]
    below = _amounts(least, most - 1 if whole else most)
    if below:
        found.append(f"({below}) {fraction}")
    if (whole and not high[1]) or not found:
        found.append(f'"{most}"')
    return " | ".join(found)


def _not_zero(places: int) -> str:
    """Digits of a fraction, one of which is not 0."""
    if places == 1:
        return "[1-9]"
    return f'[1-9] [0-9]{{0,{places - 1}}} | "0" ({_not_zero(places - 1)})'


def _amounts(low: int, high: int | None, most_digits: int = MOST_DIGITS) -> str:
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
    if high is None and digits < most_digits:
        found.append(f"[1-9] [0-9]{{{digits},{most_digits - 1}}}")
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
    lows, highs = [], []
    for name, value in _numbers(schema):
        whole = int(value // 1)
        match name:
            case "minimum":
                lows.append(whole if whole == value else whole + 1)
            case "exclusiveMinimum":
                lows.append(whole + 1)
            case "maximum":
                highs.append(whole)
            case "exclusiveMaximum":
                highs.append(whole - 1 if whole == value else whole)
    return max(lows, default=None), min(highs, default=None)


def _limits(schema: Mapping[str, Any]) -> tuple[Limit | None, Limit | None]:
    """The strictest bounds of a number."""
    lows = [(value, name != "minimum") for name, value in _numbers(schema) if name.endswith("inimum")]
    highs = [(value, name == "maximum") for name, value in _numbers(schema) if name.endswith("aximum")]
    high = min(highs, default=None)
    return max(lows, default=None), None if high is None else (high[0], not high[1])


def _step(schema: Mapping[str, Any]) -> Fraction:
    """What a number must be a multiple of; 0: of nothing."""
    value = schema.get("multipleOf")
    return (
        Fraction(str(value)) if isinstance(value, int | float) and not isinstance(value, bool) else Fraction()
    )


def _numbers(schema: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Its bounds; in draft 4 exclusive ones are plain ones with a mark."""
    found = []
    for plain, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        marked = schema.get(exclusive) is True
        for name in (plain, exclusive):
            if isinstance(schema.get(name), int | float) and not isinstance(schema[name], bool):
                found.append((exclusive if marked else name, schema[name]))
    return found
