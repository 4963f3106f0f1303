"""Texts of a regular language that have so many characters, as GBNF.  Pure.

Owns what a pattern is once it was read (`Node`), how many characters its texts have, and a grammar for those
between two lengths.  Reading patterns is `pattern`.

Theory of operation.  Often one repetition is all that varies, and its bounds are moved.  Else the pattern
becomes an automaton whose states are the characters of the pattern (Glushkov's), and a state of the grammar
is one of them with the number of characters so far.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmc_build.frozen import frozen

MAX_POSITIONS = 300  # characters of a pattern whose repetitions are written out
MAX_STATES = 3_000
MAX_BUILT = 20_000  # parts of it, each as often as it is repeated


@frozen
class Char:
    """One character, as GBNF."""

    text: str


@frozen
class Chain:
    parts: Sequence[Node]


@frozen
class OneOf:
    parts: Sequence[Node]


@frozen
class Repeat:
    part: Node
    least: int
    most: int | None


Node = Char | Chain | OneOf | Repeat


class TooMuch(Exception):
    """No grammar of a reasonable size, or none at all."""


def rendered(node: Node) -> str:
    """GBNF for all texts."""
    match node:
        case Char(text):
            return text
        case Chain(parts):
            return " ".join(_inner(part) for part in parts) or '""'
        case OneOf(parts):
            return " | ".join(rendered(part) for part in parts)
        case Repeat(part, least, most):
            return _grouped(part) + _times(least, most)


def _inner(node: Node) -> str:
    text = rendered(node)
    return f"({text})" if isinstance(node, OneOf) and len(node.parts) > 1 else text


def _grouped(node: Node) -> str:
    return rendered(node) if isinstance(node, Char) else f"({rendered(node)})"


def _times(least: int, most: int | None) -> str:
    short = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    return short or f"{{{least},{'' if most is None else most}}}"


def width(node: Node) -> tuple[int, int | None]:
    """The fewest and the most characters of a text; None: without bound."""
    match node:
        case Char():
            return 1, 1
        case Repeat(part, least, most):
            low, high = width(part)
            return low * least, 0 if high == 0 else None if high is None or most is None else high * most
        case Chain(parts):
            both = [width(part) for part in parts]
            highs = [high for _, high in both if high is not None]
            return sum(low for low, _ in both), sum(highs) if len(highs) == len(both) else None
        case OneOf(parts):
            both = [width(part) for part in parts]
            highs = [high for _, high in both if high is not None]
            return min(low for low, _ in both), max(highs) if len(highs) == len(both) else None


def bounded(node: Node, least: int, most: int | None, name: str) -> tuple[str, dict[str, str]]:
    """GBNF for the texts between two lengths, and rules that it needs.  Raises TooMuch."""
    node = node if most is None else _clipped(node, most)
    fitting = _fitted(node, least, most)
    return (rendered(fitting), {}) if fitting is not None else _Automaton(node).grammar(least, most, name)


def _clipped(node: Node, most: int) -> Node:
    """Without repetitions that alone are longer than the whole may be."""
    match node:
        case Repeat(part, least, many):
            few = width(part)[0]
            times = many if many is None or not few else max(least, min(many, most // few))
            return Repeat(_clipped(part, most), least, times)
        case Chain(parts):
            return Chain([_clipped(part, most) for part in parts])
        case OneOf(parts):
            return OneOf([_clipped(part, most) for part in parts])
    return node


def _fitted(node: Node, least: int, most: int | None) -> Node | None:
    """The same with other bounds of its repetitions; None where that can't say it.  Raises TooMuch."""
    low, high = width(node)
    if (most is not None and low > most) or (high is not None and high < least):
        raise TooMuch
    if low >= least and (most is None or (high is not None and high <= most)):
        return node
    match node:
        case Repeat(part, few, many):
            size, largest = width(part)
            if size != largest or not size:
                return None
            few = max(few, -(-least // size))
            many = many if most is None else most // size if many is None else min(many, most // size)
            if many is not None and many < few:
                raise TooMuch
            return Repeat(part, few, many)
        case Chain(parts):
            varying = [i for i, part in enumerate(parts) if len(set(width(part))) == 2]
            if len(varying) != 1:
                return None
            (at,) = varying
            rest = sum(width(part)[0] for i, part in enumerate(parts) if i != at)
            inner = _fitted(parts[at], max(0, least - rest), None if most is None else most - rest)
            return None if inner is None else Chain([*parts[:at], inner, *parts[at + 1 :]])
        case OneOf(parts):
            found = []
            for part in parts:
                try:
                    inner = _fitted(part, least, most)
                except TooMuch:
                    continue
                if inner is None:
                    return None
                found.append(inner)
            if not found:
                raise TooMuch
            return OneOf(found)
    return None


class _Automaton:
    """Glushkov's: a state for each character of the pattern."""

    def __init__(self, node: Node) -> None:
        self._chars: list[str] = []
        self._follow: list[set[int]] = []
        self._built = 0
        self._empty, self._first, self._last = self._build(node)

    def _build(self, node: Node) -> tuple[bool, set[int], set[int]]:
        """Whether it may be empty, and the characters that it may begin and end with."""
        self._built += 1
        if self._built > MAX_BUILT:
            raise TooMuch
        match node:
            case Char(text):
                self._chars.append(text)
                self._follow.append(set())
                if len(self._chars) > MAX_POSITIONS:
                    raise TooMuch
                here = {len(self._chars) - 1}
                return False, here, set(here)
            case Chain(parts):
                whole: tuple[bool, set[int], set[int]] = (True, set(), set())
                for part in parts:
                    whole = self._joined(whole, self._build(part))
                return whole
            case OneOf(parts):
                built = [self._build(part) for part in parts]
                return (
                    any(empty for empty, _, _ in built),
                    {i for _, first, _ in built for i in first},
                    {i for _, _, last in built for i in last},
                )
            case Repeat(part, least, most):
                whole = (True, set(), set())
                for i in range(least if most is None else most):
                    empty, first, last = self._build(part)
                    if not first:  # of nothing any number of times is nothing, however deep it is nested
                        return whole
                    whole = self._joined(whole, (empty or i >= least, first, last))
                if most is None:
                    _, first, last = self._build(part)
                    for i in last:
                        self._follow[i] |= first
                    whole = self._joined(whole, (True, first, last))
                return whole

    def _joined(
        self, one: tuple[bool, set[int], set[int]], other: tuple[bool, set[int], set[int]]
    ) -> tuple[bool, set[int], set[int]]:
        for i in one[2]:
            self._follow[i] |= other[1]
        first = one[1] | other[1] if one[0] else one[1]
        last = one[2] | other[2] if other[0] else other[2]
        return one[0] and other[0], first, last

    def grammar(self, least: int, most: int | None, name: str) -> tuple[str, dict[str, str]]:
        """Raises TooMuch."""
        top = least if most is None else most  # without an upper bound the count stays at the lower one
        if len(self._chars) * (top + 1) > MAX_STATES:
            raise TooMuch
        ends = self._ends(least, most, top)
        rules: dict[str, str] = {}
        todo = [(i, min(1, top)) for i in sorted(self._first)]
        seen = set(todo)
        while todo:
            at, count = todo.pop()
            after = self._after(at, count, most, top, ends)
            ways = [f"{self._chars[i]} {name}-{i}-{c}" for i, c in after]
            if at in self._last and count >= least:
                ways.append('""')
            rules[f"{name}-{at}-{count}"] = " | ".join(ways)
            new = [state for state in after if state not in seen]
            seen.update(new)
            todo += new
        begin = [
            f"{self._chars[i]} {name}-{i}-{min(1, top)}"
            for i in sorted(self._first)
            if (i, min(1, top)) in ends and (most is None or most >= 1)
        ]
        if self._empty and least == 0:
            begin.append('""')
        if not begin:
            raise TooMuch
        kept = {key: body for key, body in rules.items() if body}
        return " | ".join(begin), kept

    def _after(
        self, at: int, count: int, most: int | None, top: int, ends: set[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        if most is not None and count >= most:
            return []
        following = ((i, min(count + 1, top)) for i in sorted(self._follow[at]))
        return [state for state in following if state in ends]

    def _ends(self, least: int, most: int | None, top: int) -> set[tuple[int, int]]:
        """The states from which an end can be reached."""
        found = {(i, count) for i in self._last for count in range(least, top + 1)}
        before: dict[int, set[int]] = {}
        for i, following in enumerate(self._follow):
            for j in following:
                before.setdefault(j, set()).add(i)
        todo = list(found)
        while todo:
            i, count = todo.pop()
            counts = [count - 1] if most is not None or count < top else [count - 1, count]
            for state in ((j, c) for j in before.get(i, ()) for c in counts if c >= 0):
                if state not in found:
                    found.add(state)
                    todo.append(state)
        return found
