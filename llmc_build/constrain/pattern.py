"""Regular expressions of JSON Schema as GBNF.  Pure.

Owns which patterns a grammar can follow, and how: the expression inside of a JSON string, where a quote, a
backslash and control characters are written as escapes.  What it can't (look-around, back-references, word
borders, anchors in the middle) gives None, and the finished answer is checked instead.  How a pattern is
matched is `judge`'s business.

Engines disagree on whether `\\d`, `\\w` and `\\s` go beyond ASCII.  So the grammar takes what all of them
take: for `\\w` letters of ASCII, and for `\\W` no letter of any script.  `$` is the end of the text.
"""

from __future__ import annotations

import functools
import re

from llmc_build.constrain import lengths
from llmc_build.constrain.lengths import Chain, Char, Node, OneOf, Repeat
from llmc_build.constrain.literals import CHAR, char_class, in_string

MAX_PATTERN = 2000  # characters
MAX_REPEAT = 500  # beyond that a grammar does not count
_DIGITS = [(0x30, 0x39)]
_WORD = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACES = [(0x09, 0x0D), (0x20, 0x20)]
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACES}
_SINGLE = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11}
_TIMES: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_LAST = 0x10FFFF
_BEYOND = (0x80, _LAST)  # of which engines disagree

_NAMED = re.compile(r"\(\?<(?![=!])([^>]*)>|\\k<([^>]*)>")
_ATOM = re.compile(r"\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL)
_CLASS_ESCAPES = frozenset(rf"\{char}" for char in "dDwWsS")

Ranges = list[tuple[int, int]]


class _No(Exception):
    """Not to be had in a grammar."""


def matches(pattern: str, text: str) -> bool:
    """Whether a text has a match of a pattern, within ASCII and beyond.  May take very long."""
    return all(expression.search(text) for expression in compiled(pattern))


@functools.lru_cache(maxsize=256)
def compiled(pattern: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A pattern as engines read it, within ASCII and beyond.  Raises re.error."""
    portable = _portable(pattern)
    return re.compile(portable, re.ASCII), re.compile(portable)


def _portable(pattern: str) -> str:
    """What ECMAScript writes otherwise than `re`: the end, names of groups, dashes beside classes."""
    out, at = [], 0
    while at < len(pattern):
        named = _NAMED.match(pattern, at)
        if named is not None:
            out.append(f"(?P<{named[1]}>" if named[1] else f"(?P={named[2]})")
            at = named.end()
        elif pattern[at] == "[":
            text, at = _set_of(pattern, at)
            out.append(text)
        else:
            char = _ATOM.match(pattern, at)[0]  # type: ignore[index]
            out.append(r"\Z" if char == "$" else char)
            at += len(char)
    return "".join(out)


def _set_of(pattern: str, at: int) -> tuple[str, int]:
    """A set as `re` reads it, and where it ends."""
    if pattern.startswith("[^]", at) and "]" not in pattern[at + 3 :]:
        return r"[\s\S]", at + 3
    out = ["[^" if pattern.startswith("[^", at) else "["]
    at += len(out[0])
    first = True
    while at < len(pattern) and (first or pattern[at] != "]"):
        first = False
        low = _ATOM.match(pattern, at)[0]  # type: ignore[index]
        at += len(low)
        out.append(low)
        if pattern[at : at + 1] != "-" or pattern[at + 1 : at + 2] in ("]", ""):
            continue
        high = _ATOM.match(pattern, at + 1)[0]  # type: ignore[index]
        at += 1 + len(high)
        if low in _CLASS_ESCAPES or high in _CLASS_ESCAPES:  # no range
            out += [r"\-", high]
            if pattern[at : at + 1] == "-":
                out.append(r"\-")
                at += 1
        else:
            out += ["-", high]
    return "".join(out) + pattern[at : at + 1], at + 1


def string_grammar(
    pattern: str, least: int = 0, most: int | None = None, name: str = "p"
) -> tuple[str, dict[str, str]] | None:
    """GBNF for the inside of a JSON string that has a match of the pattern, and as many characters.

    The body of a rule, and rules that it needs, whose names begin with `name`; None where there is none.
    """
    node = _read(pattern)
    if node is None:
        return None
    try:
        return lengths.bounded(node, least, most, name)
    except (lengths.TooMuch, RecursionError):
        return lengths.rendered(node), {}


def widths(pattern: str) -> tuple[int, int | None] | None:
    """The fewest and the most characters of a text that has a match; None where that is not known."""
    node = _read(pattern)
    return None if node is None else lengths.width(node)


def _read(pattern: str) -> Node | None:
    if len(pattern) > MAX_PATTERN:
        return None
    try:
        return _Reader(pattern).read()
    except (_No, RecursionError):
        return None


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._classes = False  # whether the set being read has one of \\d \\w \\s

    def read(self) -> Node:
        found = [self._anchored()]
        while self._peek() == "|":
            self._at += 1
            found.append(self._anchored())
        if self._at < len(self._text):
            raise _No
        return OneOf(found)

    def _anchored(self) -> Node:
        """An alternative of the whole pattern, with what may stand before and behind it."""
        begins = self._peek() == "^"
        self._at += begins
        body = self._sequence()
        ends = self._peek() == "$"
        self._at += ends
        anything = Repeat(Char(CHAR), 0, None)
        return Chain([*([] if begins else [anything]), body, *([] if ends else [anything])])

    def _alternatives(self) -> Node:
        found = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            found.append(self._sequence())
        return OneOf(found)

    def _sequence(self) -> Node:
        found = []
        while (char := self._peek()) and char not in "|)$":
            found.append(self._repeated(self._item()))
        return Chain(found)

    def _item(self) -> Node:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return Char(self._set())
        if char == ".":
            return Char(char_class([(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)], negated=True))
        if char == "\\":
            ranges, negated = self._escape()
            return Char(char_class([*ranges, _BEYOND] if negated else ranges, negated))
        if char in "*+?{^":
            raise _No
        return Char(in_string(char))

    def _group(self) -> Node:
        if self._peek() == "?":
            self._at += 1
            mark = self._next()
            if mark == "<" and self._peek() not in ("=", "!"):  # a named group
                end = self._text.find(">", self._at)
                if end < 0:
                    raise _No
                self._at = end + 1
            elif mark == "P" and self._peek() == "<":
                self._at = self._text.find(">", self._at) + 1 or len(self._text)
            elif mark != ":":
                raise _No
        body = self._alternatives()
        if self._next() != ")":
            raise _No
        return body

    def _repeated(self, item: Node) -> Node:
        """An item with what is said of how often it comes."""
        char = self._peek()
        if char in _TIMES:
            self._at += 1
            least, most = _TIMES[char]
        elif match := re.compile(r"\{(\d{1,5})(,?)(\d{0,5})\}").match(self._text, self._at):
            self._at = match.end()
            low, comma, high = match.groups()
            if int(low) > MAX_REPEAT or (high and int(high) > MAX_REPEAT):
                raise _No
            least, most = int(low), int(high) if high else None if comma else int(low)
            if most is not None and most < least:
                raise _No
        else:
            return item
        if self._peek() == "?":  # lazy: the same texts
            self._at += 1
        elif self._peek() in ("*", "+", "{") and self._peek():
            raise _No
        return Repeat(item, least, most)

    def _set(self) -> str:
        negated = self._peek() == "^"
        self._at += negated
        if negated and self._peek() == "]" and "]" not in self._text[self._at + 1 :]:
            self._at += 1
            return char_class([], negated)
        ranges: Ranges = []
        self._classes = False
        first = True
        while first or self._peek() != "]":
            first = False
            low = self._member()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._member()
                if not (_single(low) and _single(high)):  # a dash beside a class makes no range
                    ranges += [*low, *high, (ord("-"), ord("-"))]
                    continue
                if high[0][0] < low[0][0]:
                    raise _No
                low = [(low[0][0], high[0][1])]
            ranges += low
        self._at += 1
        return char_class([*ranges, _BEYOND] if negated and self._classes else ranges, negated)

    def _member(self) -> Ranges:
        char = self._next()
        if char != "\\":
            return [(ord(char), ord(char))]
        ranges, negated = self._escape()
        return _others([*ranges, _BEYOND]) if negated else ranges

    def _escape(self) -> tuple[Ranges, bool]:
        """What an escape means: characters, or with True all others."""
        char = self._next()
        if char.lower() in _CLASSES:
            self._classes = True
            return _CLASSES[char.lower()], char.isupper()
        if char in _SINGLE:
            code = _SINGLE[char]
        elif char in "xu":
            digits = self._text[self._at : self._at + (2 if char == "x" else 4)]
            if not re.fullmatch(r"[0-9a-fA-F]{2}|[0-9a-fA-F]{4}", digits):
                raise _No
            self._at += len(digits)
            code = int(digits, 16)
        elif char.isalnum():  # borders, back-references, properties, ...
            raise _No
        else:
            code = ord(char)
        return [(code, code)], False

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise _No
        self._at += 1
        return char


def _single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _others(ranges: Ranges) -> Ranges:
    """Every character that is in none of the ranges."""
    found, low = [], 0
    for start, end in sorted(ranges):
        if start > low:
            found.append((low, start - 1))
        low = max(low, end + 1)
    return [*found, (low, _LAST)] if low <= _LAST else found
