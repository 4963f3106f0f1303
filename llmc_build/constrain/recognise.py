"""Whether a text is of a grammar.  Pure.

Owns the recogniser: it follows every way through the rules at once, one character after the other, as
llama.cpp does while it samples.  A way is a place in a rule and what is to come after that rule's end; ways
that share their rest share it in memory, so right recursion costs nothing.  Ambiguous grammars can have
very many ways: `budget` bounds the work.

llama.cpp takes time by the square of their number, and nothing ends it.  So `grows` looks, before
anything runs, for a text with more and more ways: it goes on with the characters that leave most of them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmc_build.constrain.gbnf import Chars, Grammar, Symbol

MANY = 4000  # ways at a time that llama.cpp takes a second for
_STEPS = 40  # characters that `grows` looks ahead
_TRIED = 4  # characters that it tries at each step
_SEEN = 400  # ways that it takes them from
BUDGET = 3_000_000  # steps; some seconds
_DONE = 0  # the way that has nothing to come


class TooAmbiguous(Exception):
    """The grammar has too many ways through the text."""


def recognises(grammar: Grammar, text: str, budget: int = BUDGET) -> bool:
    """Whether the whole text is of the grammar.  Raises TooAmbiguous."""
    ways = _Ways(grammar, budget)
    live = ways.start()
    for char in text:
        live = ways.after(live, ord(char))
        if not live:
            return False
    return _DONE in live


def grows(grammar: Grammar) -> str | None:
    """A text, found by trying, after which there are too many ways to go on; None where none was found."""
    ways = _Ways(grammar, BUDGET)
    text = ""
    try:
        live = ways.start()
        most = max(MANY, 2 * len(live))
        for _ in range(_STEPS):
            after = {char: ways.after(live, ord(char)) for char in ways.likely(live)}
            if not any(after.values()):
                return None
            char, live = max(after.items(), key=lambda item: len(item[1]))
            text += char
            if len(live) > most:
                return text
    except TooAmbiguous:
        return text
    return None


class _Ways:
    def __init__(self, grammar: Grammar, budget: int) -> None:
        self._left = budget
        self._line: list[Symbol | None] = []  # every alternative, None behind each
        self._starts: list[list[int]] = []  # rule -> where its alternatives begin
        for alternatives in grammar.rules:
            self._starts.append([])
            for sequence in alternatives:
                self._starts[-1].append(len(self._line))
                self._line += [*sequence, None]
        self._root = grammar.root
        self._places: list[tuple[int, int]] = [(-1, -1)]  # way -> (place in the line, the way after it)
        self._numbers: dict[tuple[int, int], int] = {}

    def start(self) -> set[int]:
        return self._open([self._way(at, _DONE) for at in self._starts[self._root]])

    def after(self, live: set[int], code: int) -> set[int]:
        """The ways that go on with a character."""
        found = []
        for way in live:
            if way != _DONE:
                place, rest = self._places[way]
                symbol = self._line[place]
                if symbol is not None and not isinstance(symbol, int) and symbol.has(code):
                    found.append(self._way(place + 1, rest))
        return self._open(found)

    def likely(self, live: set[int]) -> list[str]:
        """Characters with which most ways go on."""
        counts: Counter[str] = Counter()
        ordered = sorted(live)
        for way in ordered[:: max(1, len(ordered) // _SEEN)]:
            symbol = self._line[self._places[way][0]] if way != _DONE else None
            if symbol is not None and not isinstance(symbol, int):
                counts[_one_of(symbol)] += 1
        return [char for char, _ in counts.most_common(_TRIED)]

    def _way(self, place: int, rest: int) -> int:
        if self._line[place] is None:
            return rest
        key = (place, rest)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._places)
            self._places.append(key)
        return number

    def _open(self, todo: list[int]) -> set[int]:
        """Those ways with every rule at their front opened: each stands before a character, or is done."""
        seen: set[int] = set()
        found: set[int] = set()
        while todo:
            way = todo.pop()
            if way in seen:
                continue
            seen.add(way)
            self._left -= 1
            if self._left < 0:
                raise TooAmbiguous
            place, rest = self._places[way]
            symbol = self._line[place] if way != _DONE else None
            if isinstance(symbol, int):
                behind = self._way(place + 1, rest)
                todo += [self._way(at, behind) for at in self._starts[symbol]]
            else:
                found.add(way)
        return found


def _one_of(chars: Chars) -> str:
    """A character of a set."""
    if not chars.negated:
        return chr(chars.ranges[0][0])
    return next((char for char in map(chr, range(0x20, 0x2000)) if chars.has(ord(char))), "\u4e2d")
