"""Grammars that parse and can't be used: they never end, or llama.cpp can't expand them.  Pure.

Owns four questions about rules: can each come to an end, is none left-recursive, are they not nested
too deeply, and are there not too many ways into them.  Syntax is `gbnf`.

llama.cpp keeps, for each way in which a text can go on, a stack of places in rules, and expands the top of
each until it is a character.  A rule that reaches itself there before any character, with something left
behind it, grows the stack for ever.  llama.cpp looks for that, but it takes only rules with an empty
alternative of their own for empty, and it walks every path: both are repaired here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmc_build.constrain.gbnf import Grammar, Symbol

MAX_WAYS = 100_000  # from one rule to its first characters
MAX_CHAIN = 2_000  # rules that begin one another; llama.cpp recurses along them

_Edges = list[list[tuple[int, bool]]]  # rule -> (rule it can begin with, whether something is behind that)


def unsound(grammar: Grammar) -> Iterator[tuple[int, str, str | None]]:
    """The number of a rule, what is wrong with it, and a hint; nothing where the grammar can be used."""
    found = False
    for rule in _endless(grammar):
        found = True
        name = grammar.names[rule]
        yield rule, f'rule "{name}" never ends: no text is complete', "give it an alternative without itself"
    if found:
        return
    plain = _edges(grammar, [[] in alternatives for alternatives in grammar.rules])
    exact = _edges(grammar, _nullable(grammar))
    for rule in _recursive(plain, exact):
        hint = "let a rule begin with what it does not repeat: item rest*, not list item"
        yield rule, f'rule "{grammar.names[rule]}" begins with itself (left recursion)', hint
        return
    fault = _too_many_ways(plain if any(_loops(exact)) else exact)
    if fault is not None:
        rule, message = fault
        yield rule, f'rule "{grammar.names[rule]}" {message}', None


def _endless(grammar: Grammar) -> list[int]:
    """Rules that no text completes, one for each name."""
    done = _closure(grammar, lambda symbol, done: not isinstance(symbol, int) or done[symbol])
    seen: dict[str, int] = {}
    for rule, ends in enumerate(done):
        if not ends:
            seen.setdefault(grammar.names[rule], rule)
    return list(seen.values())


def _nullable(grammar: Grammar) -> list[bool]:
    """Whether each rule can match nothing at all."""
    return _closure(grammar, lambda symbol, done: isinstance(symbol, int) and done[symbol])


def _closure(grammar: Grammar, holds: Callable[[Symbol, list[bool]], bool]) -> list[bool]:
    """The rules with an alternative whose symbols all have a property that may depend on rules."""
    rules = grammar.rules
    done = [False] * len(rules)
    users: list[list[int]] = [[] for _ in rules]
    for number, alternatives in enumerate(rules):
        for symbol in {s for sequence in alternatives for s in sequence if isinstance(s, int)}:
            users[symbol].append(number)
    todo = list(range(len(rules)))
    while todo:
        number = todo.pop()
        if not done[number] and any(all(holds(s, done) for s in sequence) for sequence in rules[number]):
            done[number] = True
            todo += users[number]
    return done


def _edges(grammar: Grammar, empty: list[bool]) -> _Edges:
    """What each rule can begin with, given which rules count as possibly empty."""
    found: _Edges = []
    for alternatives in grammar.rules:
        edges = []
        for sequence in alternatives:
            for at, symbol in enumerate(sequence):
                if not isinstance(symbol, int):
                    break
                edges.append((symbol, at + 1 < len(sequence)))
                if not empty[symbol]:
                    break
        found.append(edges)
    return found


def _recursive(plain: _Edges, exact: _Edges) -> list[int]:
    """Rules for which llama.cpp sees left recursion, or does not see that its stacks would grow."""
    found = [rule for rule, loops in enumerate(_loops(plain)) if loops]
    if found:
        return found
    return [rule for rule, loops in enumerate(_loops(exact)) if any(behind for behind in loops)]


def _loops(edges: _Edges) -> list[list[bool]]:
    """For each rule, its edges that lead back to it, each with whether something is behind that edge."""
    component = _components(edges)
    return [
        [behind for to, behind in outgoing if component[to] == component[rule]]
        for rule, outgoing in enumerate(edges)
    ]


def _components(edges: _Edges) -> list[int]:
    """Rules that can begin with one another share a number (Tarjan's algorithm, without recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    component = [-1] * len(edges)
    stack: list[int] = []

    def enter(rule: int) -> None:
        index[rule] = low[rule] = len(index)
        stack.append(rule)
        walk.append((rule, iter(edges[rule])))

    for start in range(len(edges)):
        walk: list[tuple[int, Iterator[tuple[int, bool]]]] = []
        if start not in index:
            enter(start)
        while walk:
            rule, rest = walk[-1]
            step = next(rest, None)
            if step is None:
                walk.pop()
                if walk:
                    above = walk[-1][0]
                    low[above] = min(low[above], low[rule])
                if low[rule] == index[rule]:
                    member = -1
                    while member != rule:
                        member = stack.pop()
                        component[member] = rule
            elif step[0] not in index:
                enter(step[0])
            elif component[step[0]] < 0:  # on the stack still
                low[rule] = min(low[rule], index[step[0]])
    return component


def _too_many_ways(edges: _Edges) -> tuple[int, str] | None:
    """A rule from which the walk to the first characters is too long or too wide; `edges` has no cycle."""
    ways: dict[int, int] = {}
    depth: dict[int, int] = {}
    for start in range(len(edges)):
        todo = [start]
        while todo:
            rule = todo[-1]
            if rule in ways:
                todo.pop()
                continue
            missing = [to for to, _ in edges[rule] if to not in ways]
            if missing:
                todo += missing
                continue
            todo.pop()
            ways[rule] = 1 + sum(ways[to] for to, _ in edges[rule])
            depth[rule] = 1 + max((depth[to] for to, _ in edges[rule]), default=0)
            if ways[rule] > MAX_WAYS:
                return rule, f"has more than {MAX_WAYS} ways to begin"
            if depth[rule] > MAX_CHAIN:
                return rule, f"begins a chain of more than {MAX_CHAIN} rules"
    return None
