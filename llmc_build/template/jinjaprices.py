"""What the operations of a Jinja2 template cost, in steps.  Pure.

Owns the prices that follow from an operation's name and the sizes of what goes in.  `jinjabox` asks for them
before the operation begins, since nothing in Python can stop one that has begun: a search for `abab...` in a
text of `aaaa...` is one call into C, and may take an hour.

A step is a microsecond.  The prices are from measurements with the worst text for each operation; a test
measures them again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import nodes

# Characters that an operation works through in a step.
_USUAL = 32
_FILTER_SPEEDS = {"indent": 16, "title": 4, "urlencode": 4, "wordcount": 16, "wordwrap": 2}
_FAST = frozenset({  # as fast as copying, which weighing charges for
    "center", "d", "default", "endswith", "first", "isascii", "last", "length", "ljust",
    "lstrip", "raw", "removeprefix", "removesuffix", "rjust", "rstrip", "safe", "startswith", "string",
    "strip", "trim", "zfill",
})  # fmt: skip
BY_CHARACTER = frozenset({  # filters that take a text apart
    "batch", "dictsort", "groupby", "join", "list", "map", "max", "min", "reject", "rejectattr", "select",
    "selectattr", "slice", "sort", "sum", "unique",
})  # fmt: skip
_BY_ATTRIBUTE = frozenset({  # filters that may look up the path of an attribute in each item
    "groupby", "join", "map", "max", "min", "rejectattr", "selectattr", "sort", "sum", "unique",
})  # fmt: skip
_FORWARD = frozenset({"count", "find", "index", "partition", "replace", "split"})
_BACKWARD = frozenset({"rfind", "rindex", "rpartition", "rsplit"})
_STRIPPING = frozenset({"lstrip", "rstrip", "strip", "trim"})
_COMPARED_PER_STEP = 1024  # characters, by the searches of CPython
_COPIED_PER_STEP = 8192
_RUN = re.compile(r"\S+|\s+")


def of_method(name: str, text: str, args: Sequence[Any]) -> int:
    """Steps that a method of a text takes."""
    return of_argument(name, text, args) + (0 if name in _FAST else len(text) // _USUAL)


def of_filter(name: str, size: int, args: Sequence[Any], named: Mapping[str, Any]) -> int:
    """Steps that a filter takes; `size` is the weight of what goes in, `args[0]` the value."""
    steps = 0 if name in _FAST else size // _FILTER_SPEEDS.get(name, _USUAL)
    if not args:
        return steps
    value, others = args[0], [*args[1:], *named.values()]
    if isinstance(value, str):
        steps += len(value) if name in BY_CHARACTER else 0
        steps += of_argument(name, value, others)
        if name == "wordwrap":
            steps += _wrapping(value, others)
    if name in _BY_ATTRIBUTE and hasattr(value, "__len__"):
        steps += len(value) * sum(len(arg) for arg in others if isinstance(arg, str)) // 4
    return steps


def of_argument(name: str, text: str, others: Sequence[Any]) -> int:
    """Steps of looking for a text in a text, as far as they depend on both."""
    words = [word for word in others if isinstance(word, str)]
    if not words:
        return 0
    if name in _STRIPPING:
        return len(text) * len(words[0]) // _COMPARED_PER_STEP
    if name in _BACKWARD:
        return searching(len(text), len(words[0]), backward=True)
    return searching(len(text), len(words[0])) if name in _FORWARD else 0


def searching(size: int, word: int, *, backward: bool = False) -> int:
    """Steps that CPython takes at most to find `word` characters in `size` of them.

    Forward it changes to a method of linear time where both are long; backward it never does.
    (Objects/stringlib/fastsearch.h)
    """
    if not backward:
        word = min(word, size if size < 2_500 else 100 if size < 30_000 else 6)
    return size * word // _COMPARED_PER_STEP


def _wrapping(text: str, others: Sequence[Any]) -> int:
    """textwrap copies what is left of a word for each line that it cuts off."""
    width = min((other for other in others if type(other) is int), default=79)
    longest = max((len(run[0]) for run in _RUN.finditer(text)), default=0)
    return len(text) * longest // max(width, 1) // _COPIED_PER_STEP


# ---------------------------------------------------------------- what is paid for each time round a loop

A_CALL = 40  # steps of calling a macro
_LOOKUPS = (nodes.Getattr, nodes.Getitem)  # each of which asks the sandbox
_OPERATIONS = (nodes.Call, nodes.Filter, nodes.Test, nodes.BinExpr)
_CHEAP = 16  # nodes of all other kinds that take a step together


def of_code(body: Iterable[nodes.Node]) -> int:
    """Steps for running through a piece of a template once, besides what its operations are charged for."""
    lookups = operations = others = 0
    rest = list(body)
    while rest:
        node = rest.pop()
        if isinstance(node, _LOOKUPS):
            lookups += 1
        elif isinstance(node, _OPERATIONS):
            operations += 1
        else:
            others += 1
        rest.extend(node.iter_child_nodes())
    return lookups + 2 * operations + others // _CHEAP
