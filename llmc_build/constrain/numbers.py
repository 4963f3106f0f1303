"""Numbers within bounds, as GBNF.  Pure.

Owns a grammar for exactly the whole numbers from one bound to another, without leading zeros, and one for
decimal numbers that keeps to whole bounds (others are left to the verdict).  Two numbers of as many digits
are taken apart by their first digit; different lengths are alternatives.
"""

from __future__ import annotations

MOST_DIGITS = 18


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


def decimals(low: float | None, high: float | None) -> str:
    """GBNF for numbers with or without a fraction between two bounds, None meaning no bound."""
    if low is None and high is None:
        return "number"
    parts = []
    if high is None or high >= 0:
        parts.append(_fractions(0 if low is None else max(0.0, low), high))
    if low is None or low < 0:
        least = 0.0 if high is None or high >= 0 else -high
        parts.append(f'"-" ({_fractions(least, None if low is None else -low)})')
    return " | ".join(parts)


def _fractions(low: float, high: float | None) -> str:
    """low <= n <= high, for low >= 0: a whole part with a fraction, or the upper bound itself."""
    least = int(low // 1)
    if high is None or high >= 10**MOST_DIGITS:
        return f'({_amounts(least, None)}) ("." [0-9]{{1,17}})?'
    most = int(high // 1)
    whole = most == high
    below = _amounts(least, most - 1 if whole else most)
    found = [f'({below}) ("." [0-9]{{1,17}})?'] if below else []
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
