"""Finds where a script has made sure that a variable is a number.  Pure.

`case $n in ''|*[!0-9]*) exit 1;; esac; echo $((n + 1))` calculates with a value that is only digits there,
however hostile it was.  The rest of the lint does not ask in which order things happen; this is the one place
that does, and so it accepts few forms of a check, and gives a proof up for anything that might change the
variable behind it.

Owns the forms, and what may change a variable.  Where a proof holds, `lint` keeps while it walks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from llmc_build.shellcode.tree import (
    NAME,
    Assignment,
    Compound,
    Expansion,
    Function,
    Node,
    Piece,
    Pipeline,
    Sequence_,
    Simple,
    Sub,
    Text,
    Word,
)

_DIGIT = r"(?:0-9|\[:digit:\])"
_OTHERS = re.compile(rf"\*\[!{_DIGIT}[.+]*-?\]\*")  # *[!0-9]*: what holds anything else
_NUMBER = re.compile(
    rf"\^(?:-\?|\[\+-\]\?|\[-\+\]\?)?\[{_DIGIT}\](?:[+*]|\{{[0-9]{{1,3}}(?:,[0-9]{{0,3}})?\}})?\$"
)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)
_OWN_WILL = re.compile(r"_|REPLY|MAPFILE|OPT\w+|\w*PWD|COPROC\w*|BASH\w*|[A-Z]*RANDOM|SECONDS|IFS|PIPESTATUS")
_DECLARES = frozenset({"declare", "typeset", "local", "export", "readonly"})
_ASSIGNS = _DECLARES | {"read", "getopts", "mapfile", "readarray", "unset", "wait", "printf"}
_ANYTHING = frozenset(
    {"eval", ".", "source", "trap", "alias", "unalias", "command", "builtin", "enable", "shopt", "set"}
)
_NAMES = re.compile(r"\w+")
_MOST = 100_000  # commands that are looked at, again for each check: behind that nothing is proven


# ---------------------------------------------------------------- checks


def first_of_case(node: Node) -> str | None:
    """The variable that is a number in every branch of a `case` but the first."""
    if not isinstance(node, Compound) or node.kind != "case" or not node.firsts or not _runs(node):
        return None
    tests = node.patterns[: node.firsts]
    sure = any(word.literal == word.unquoted and _OTHERS.fullmatch(word.literal or "") for word in tests)
    return _variable(node.head[0]) if sure else None


def numbers(pipeline: Pipeline) -> frozenset[str]:
    """The variables that are numbers where a `[[ ]]` is true."""
    node = pipeline[0]
    if len(pipeline) != 1 or not isinstance(node, Compound) or node.kind != "[[":
        return frozenset()
    return frozenset(filter(None, map(number, clauses(node.head))))


def clauses(words: Sequence[Word]) -> list[Sequence[Word]]:
    """What a `[[ ]]` asks for, all of which must hold; empty where it is anything else than that."""
    found: list[list[Word]] = [[]]
    for word in words:
        if word.unquoted == "&&":
            found.append([])
        elif word.unquoted in ("||", "(", ")", "!", "|", "&"):
            return []
        else:
            found[-1].append(word)
    return list(found)


def number(words: Sequence[Word]) -> str | None:
    """The variable that `$n =~ ^[0-9]+$` says is one."""
    if len(words) != 3 or words[1].unquoted != "=~":
        return None
    pattern = words[2].literal
    sure = pattern is not None and pattern == words[2].unquoted and _NUMBER.fullmatch(pattern)
    return _variable(words[0]) if sure else None


def _variable(word: Word) -> str | None:
    pieces = [piece for piece in word.pieces if not isinstance(piece, Text) or piece.text]
    if len(pieces) != 1 or not isinstance(pieces[0], Expansion):
        return None
    match = _VARIABLE.fullmatch(pieces[0].text)
    name = (match[1] or match[2]) if match else ""
    return name if NAME.fullmatch(name) and not _OWN_WILL.fullmatch(name) else None


# ---------------------------------------------------------------- what is only reached where a check held


def behind(tree: Sequence_, at: int, leaving: frozenset[str]) -> frozenset[str]:
    """The variables that are numbers behind a pipeline, for it has left where they were none.

    `leaving`: those of `exit`, `return`, `continue` and `break` that leave this sequence for good.
    """
    if not _always(tree, at):
        before = at - 1
        denied = tree[before][0] if before >= 0 and _joined(tree[before]) == "||" else None
        if denied is None or _negated(denied) or not _begins(tree, before):
            return frozenset()
        return numbers(tree[before]) if not _joined(tree[at]) and _leaves(tree[at], leaving) else frozenset()
    node = tree[at][0]
    if len(tree[at]) != 1 or not isinstance(node, Compound) or node.negated:
        return frozenset()
    name = first_of_case(node)
    if name is not None and leaves(node.bodies[0], leaving):
        return frozenset({name})
    if node.kind == "if" and _runs(node) and len(node.bodies) == 2 and leaves(node.bodies[1], leaving):
        return refused_by(node.bodies[0])
    return frozenset()


def asked_by(condition: Sequence_) -> frozenset[str]:
    """The variables that are numbers where the condition of an `if` is true."""
    joined = [_joined(pipeline) for pipeline in condition]
    if any(one != "&&" for one in joined[:-1]) or joined[-1:] != [""]:
        return frozenset()
    found = [numbers(pipeline) for pipeline in condition if not _negated(pipeline[0])]
    return frozenset().union(*found)


def refused_by(condition: Sequence_) -> frozenset[str]:
    """The variables that are numbers where the condition of an `if`, one `!`, is false."""
    if len(condition) != 1 or _joined(condition[0]):
        return frozenset()
    node = condition[0][0]
    if _negated(node):
        return numbers(condition[0])
    if len(condition[0]) == 1 and isinstance(node, Compound) and node.kind == "[[" and node.head:
        name = number(node.head[1:]) if node.head[0].unquoted == "!" else None
        return frozenset({name}) if name else frozenset()
    return frozenset()


def leaves(tree: Sequence_, leaving: frozenset[str]) -> bool:
    """Whether nothing goes on behind these commands."""
    return bool(tree) and _always(tree, len(tree) - 1) and _leaves(tree[-1], leaving)


def _leaves(pipeline: Pipeline, leaving: frozenset[str]) -> bool:
    node = pipeline[0]
    if len(pipeline) != 1 or isinstance(node, Function) or node.negated or not _runs(node):
        return False
    if isinstance(node, Compound):
        return node.kind == "{" and leaves(node.bodies[0], leaving)
    if not node.words or node.words[0].literal not in leaving:
        return False
    # With several arguments, or one that a loop does not take, bash complains and goes on.
    if len(node.words) == 2 and node.words[0].literal in ("exit", "return"):
        return node.words[1].spelled == "$?" or not any(map(_splits, node.words[1].pieces))
    return len(node.words) == 1


def _runs(node: Simple | Compound) -> bool:
    """Whether no file has to be opened before, without which the shell goes on behind it."""
    return all(one.operator == ">&" for one in node.redirects)


def _splits(piece: Piece) -> bool:
    return getattr(piece, "split", False)


def _always(tree: Sequence_, at: int) -> bool:
    """Whether a pipeline is run whatever others say, and by this shell itself."""
    return not _joined(tree[at]) and _begins(tree, at)


def _begins(tree: Sequence_, at: int) -> bool:
    return not at or _joined(tree[at - 1]) not in ("&&", "||")


def _joined(pipeline: Pipeline) -> str:
    node = pipeline[0]
    return "" if isinstance(node, Function) else node.joined


def _negated(node: Node) -> bool:
    return not isinstance(node, Function) and node.negated


# ---------------------------------------------------------------- what may change a variable


class Changes:
    """What may change a variable of a script."""

    def __init__(self, tree: Sequence_) -> None:
        self._functions: dict[str, list[Node]] = {}
        self._trapped: set[str] = set()  # words of all handlers
        self._refers = False  # whether there may be other names for variables, or handlers that are not fixed
        self._left = _MOST
        for node in _every(tree):
            if isinstance(node, Function):
                self._functions.setdefault(node.name, []).append(node.body)
            elif isinstance(node, Simple) and node.words:
                self._notice(node.words)

    def _notice(self, words: Sequence[Word]) -> None:
        literals = [word.literal for word in words]
        if "trap" in literals:
            self._refers |= any(word.literal is None for word in words[1:])
            self._trapped |= {name for word in words for name in _NAMES.findall(word.prefix)}
        self._refers |= not _DECLARES.isdisjoint(literals) and any(
            (word.literal is None and word.prefix in ("", "-")) or _refers(word.prefix) for word in words[1:]
        )

    def left_alone(self, names: Iterable[str], tree: Sequence_, called: frozenset[str]) -> frozenset[str]:
        """Those of the names that these commands leave alone.  `called`: what a function is called."""
        return frozenset(name for name in names if not self._changed(name, tree, called))

    def _changed(self, name: str, tree: Sequence_, called: frozenset[str]) -> bool:
        if self._refers or name in self._trapped or not called.isdisjoint(self._trapped):
            return True
        return self._by(_every(tree), name, called)

    def _by(self, nodes: Iterable[Node], name: str, called: frozenset[str]) -> bool:
        calls = False
        for node in nodes:
            self._left -= 1
            if self._left < 0:
                return True
            if isinstance(node, Compound) and node.variable == name:
                return True
            if isinstance(node, Simple):
                if any(_assigns(one, name) for one in node.assignments) or _commands(node.words, name):
                    return True
                calls = calls or any((word.literal or "") in called for word in node.words)
            if any(_fills(word, name) for word in _words(node)):
                return True
        if not calls:
            return False
        if not called <= self._functions.keys():
            return True
        bodies = [body for some in self._functions.values() for body in some]
        return self._by([one for body in bodies for one in _every(((body,),))], name, frozenset())


def _refers(option: str) -> bool:
    return option.startswith("-") and "n" in option


def _every(tree: Sequence_) -> Iterator[Node]:
    """All commands, also those in functions that are defined among them."""
    for pipeline in tree:
        for node in pipeline:
            yield node
            if isinstance(node, Compound):
                for body in node.bodies:
                    yield from _every(body)
            elif isinstance(node, Function):
                yield from _every(((node.body,),))


def _words(node: Node) -> Iterator[Word]:
    if isinstance(node, Function):
        return
    if isinstance(node, Simple):
        yield from node.words
        yield from (value for one in node.assignments for value in one.values)
    else:
        yield from (*node.head, *node.patterns)
    yield from (one.word for one in node.redirects)


def _assigns(assignment: Assignment, name: str) -> bool:
    """Whether this gives a variable anything but a number."""
    if assignment.name != name:
        return False
    if assignment.subscript or assignment.is_array or len(assignment.values) != 1:
        return True
    pieces = [one for one in assignment.values[0].pieces if not isinstance(one, Text) or one.text]
    calculated = [isinstance(one, Expansion) and one.kind == "arithmetic" for one in pieces]
    return calculated != [True] and not all(isinstance(one, Text) and one.text.isdigit() for one in pieces)


def _commands(words: Sequence[Word], name: str) -> bool:
    """Whether a command may assign to a variable."""
    if not words:
        return False
    command, arguments = words[0].literal, words[1:]
    if command is None or command.lstrip("\\") in _ANYTHING:
        return True
    if not any((word.literal or "") in _ASSIGNS for word in words):
        return False
    if command == "printf" and arguments and (arguments[0].literal or "-v")[:2] != "-v":
        return False
    for word in arguments:
        target = NAME.match(word.prefix)
        known = word.literal is not None or "=" in word.prefix
        if not known or (target and target[0] == name) or word.prefix.startswith("-v"):
            return True
    return False


def _fills(word: Word, name: str) -> bool:
    """Whether `${name:=...}` is in a word."""
    return any(
        isinstance(piece, Expansion) and re.search(rf"\b{name}(?:\[[^\]]*\])?:?=", piece.text)
        for piece in word.pieces
        if not isinstance(piece, Sub) and not (isinstance(piece, Expansion) and piece.kind == "arithmetic")
    )
