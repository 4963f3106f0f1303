"""Whether a text is of a grammar.  Pure.

Owns the recogniser: it follows every way through the rules at once, one character after the other, as
llama.cpp does while it samples.  A way is a place in a rule and what is to come after that rule's end; ways
that share their rest share it in memory, so right recursion costs nothing.  Ambiguous grammars can have
very many ways: `budget` bounds the work.
"""

from __future__ import annotations

from llmc_build.constrain.gbnf import Grammar, Symbol

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
