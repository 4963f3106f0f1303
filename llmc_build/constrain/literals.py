"""Texts, characters and JSON values written as GBNF.  Pure.

Owns how characters become GBNF, outside of JSON strings and inside, where some must be escapes, and the
rules that every grammar made from a schema has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

CHAR = "char"  # the rule for one character of a JSON string, or one escape
VALUE = "value"  # the rule for any JSON value

# One character counts as one, so no escape makes half of one: surrogates are left out.
COMMON = {
    CHAR: r'[^"\\\x01-\x1F\x7F] | "\\" escape',
    "escape": r'["\\/bfnrt] | "u" ([0-9a-cA-CefEF] hex hex hex | [dD] [0-7] hex hex)',
    "hex": "[0-9a-fA-F]",
    "ws": '" "?',
    "string": r'"\"" char* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,17})',
    "number": 'integer ("." [0-9]{1,17})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "object": r'"{" ws (member (ws "," ws member)*)? ws "}"',
    "member": r'string ws ":" ws value',
    "array": r'"[" ws (value (ws "," ws value)*)? ws "]"',
    VALUE: "object | array | string | number | boolean | null",
}
_SHORT = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}


def literal(text: str) -> str:
    """A text as a GBNF literal."""
    return '"' + "".join(_in_literal(c) for c in text) + '"'


def json_literal(value: object) -> str:
    """A JSON value, written as `json.dumps` writes it, as a GBNF literal."""
    return literal(json.dumps(value, ensure_ascii=False))


def in_string(char: str) -> str:
    """One character of the inside of a JSON string."""
    code = ord(char)
    return literal(_json_escape(code) if _must_escape(code) else char)


def char_class(ranges: list[tuple[int, int]], negated: bool = False) -> str:
    """One character of the inside of a JSON string that is in some ranges, or in none of them."""
    if negated:
        return _not_in(ranges)
    plain, escapes = [], []
    for low, high in ranges:
        for code in _special(low, high):
            escapes.append(literal(_json_escape(code)))
        plain += _without_special(low, high)
    parts = [f"[{''.join(_range(low, high) for low, high in plain)}]"] if plain else []
    parts += dict.fromkeys(escapes)
    if not parts:
        return '""'
    return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"


def other_than(names: Sequence[str]) -> str:
    """The inside of a JSON string that is none of the names: where it leaves each of them."""
    if len(names) > 64 or any(
        len(name) > 64 or not name.isascii() or json.dumps(name)[1:-1] != name for name in names
    ):
        return f"{CHAR}*"
    heads = sorted({name[0] for name in names if name})
    parts = []
    for head in heads:
        tails = [name[1:] for name in names if name and name[0] == head]
        parts.append(f"{literal(head)} ({other_than(tails)})")
    codes = [(ord(head), ord(head)) for head in heads]
    parts.append(f"{char_class(codes, negated=True)} {CHAR}*")
    if "" not in names:
        parts.append('""')
    return " | ".join(parts)


def _not_in(ranges: list[tuple[int, int]]) -> str:
    forbidden = [*ranges, (0x22, 0x22), (0x5C, 0x5C), (0x00, 0x1F), (0x7F, 0x7F)]
    parts = [f"[^{''.join(_range(max(1, low), high) for low, high in forbidden if high >= 1)}]"]
    for code in (0x22, 0x5C, 0x0A, 0x09, 0x0D):
        if not any(low <= code <= high for low, high in ranges):
            parts.append(literal(_json_escape(code)))
    return f"({' | '.join(parts)})"


def _must_escape(code: int) -> bool:
    return code < 0x20 or code in (0x22, 0x5C, 0x7F) or 0xD800 <= code <= 0xDFFF


def _json_escape(code: int) -> str:
    return f"\\{_SHORT[code]}" if code in _SHORT else f"\\u{code:04x}"


def _special(low: int, high: int) -> list[int]:
    """Characters of a range that are written as escapes, but for surrogates, which no text has."""
    known = [*range(0x20), 0x22, 0x5C, 0x7F]
    return [code for code in known if low <= code <= high]


def _without_special(low: int, high: int) -> list[tuple[int, int]]:
    found, start = [], low
    for first, last in ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF)):
        if first > high or last < start:
            continue
        if start < first:
            found.append((start, first - 1))
        start = last + 1
    return [*found, (start, high)] if start <= high else found


def _range(low: int, high: int) -> str:
    pieces = [(low, high)]
    if low <= 0xDFFF and high >= 0xD800:
        pieces = [(a, b) for a, b in ((low, 0xD7FF), (0xE000, high)) if a <= b]
    return "".join(_in_set(a) if a == b else f"{_in_set(a)}-{_in_set(b)}" for a, b in pieces)


def _in_set(code: int) -> str:
    char = chr(code)
    if char.isascii() and char.isalnum():
        return char
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def _in_literal(char: str) -> str:
    code = ord(char)
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
