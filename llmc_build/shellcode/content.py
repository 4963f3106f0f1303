"""What is known of the text that a variable or a word holds beyond that it is tainted.  Pure.

`tar cf a.tar "$y"` is harmless where y holds text that begins with a letter; where y is one placeholder, a
look at its value when the script runs decides; else nobody can say whether tar would take the text for
an option.

Owns the type, and how an expansion of a variable keeps or loses what is known of it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Forms of `${name...}` that begin with what the variable begins with, or with a fixed text that is no option.
_BEGINS_ALIKE = re.compile(
    r"\$(?:(\w+|[@*])|\{(\w+|[@*])(?:\[[^\]$`]*\])?(?:%.*|\^\^?|,,?|:?[-=?](?![-+$`\"'\\])[^$`\0]*)?\})",
    re.DOTALL,
)

_BEHIND_SUBSCRIPT = frozenset(["", *":-=?+%#/^,@~"])  # what an expansion may go on with


class Content(NamedTuple):
    """What a text is made of; the default is a text without values."""

    begins: frozenset[int] = frozenset()  # placeholders that it may begin with
    unknown: bool = False  # it may begin with a value that no placeholder alone is
    value: bool = False  # there is more of values in it than paths that llmc made

    def __or__(self, other: Content) -> Content:
        """What may be the one or the other."""
        return Content(self.begins | other.begins, self.unknown or other.unknown, self.value or other.value)


ANYTHING = Content(unknown=True, value=True)


class Given(NamedTuple):
    """The arguments of code or of a function: what they are made of, and which of them hold a value."""

    content: Content = ANYTHING
    places: frozenset[int] = frozenset({0, -1})  # numbers of arguments; -n: the n-th or any behind it


def variable_begun(expansion: str) -> str | None:
    """The variable that an expansion begins with, whatever it holds; None where it is another text."""
    named = _BEGINS_ALIKE.fullmatch(expansion)
    return (named[1] or named[2]) if named else None


def subscript(rest: str) -> tuple[str, str]:
    """The subscript behind the name of an array, and what follows it; all of it where that is unclear."""
    if not rest.startswith("["):
        return "", rest
    depth = 0
    for at, char in enumerate(rest):
        depth += (char == "[") - (char == "]")
        if not depth:
            inside, behind = rest[: at + 1], rest[at + 1 :]
            plain = not any(inside.count(quote) % 2 for quote in "\"'") and "\\" not in inside
            return (inside, behind) if plain and behind[:1] in _BEHIND_SUBSCRIPT else (rest, "")
    return rest, ""
