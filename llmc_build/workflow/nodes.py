"""What YAML text becomes: nodes with their places, and the faults found in them.  Pure.

Owns the nodes, the types that YAML 1.2 gives to plain text, and the list of a file's faults.  How the
nodes come about is `yamltext`; what they mean is `workflow` and `config`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from llmc_build.errors import Fault
from llmc_build.model import Location

MAX_FAULTS = 1_000  # of a file; what follows is not read


class Scalar(NamedTuple):
    """A piece of text as written, without its quotes."""

    text: str
    line: int  # of the first character of the value (of `|` and `>` for a block)
    column: int
    style: str = ""  # "" (plain) or one of ' " | >
    block: tuple[int, int] | None = None  # of `|`: line of the first line of text, columns of indentation

    @property
    def value(self) -> bool | int | float | str | None:
        """The text with the type that YAML 1.2 gives it; only a plain scalar can be other than text."""
        return self.text if self.style else typed(self.text)

    @property
    def is_null(self) -> bool:
        return not self.style and self.text in NULLS


class Seq(NamedTuple):
    items: list[Node]
    line: int
    column: int


class Map(NamedTuple):
    entries: dict[str, Entry]  # keys are text, each at most once; merge keys are resolved
    line: int
    column: int


class Entry(NamedTuple):
    """The value of a key, and the place of the key."""

    line: int
    column: int
    node: Node


Node: TypeAlias = Scalar | Seq | Map


# ---------------------------------------------------------------- faults


class Enough(Exception):
    """A file has so many faults that the rest of it is not read."""


class Faults:
    """The faults found in one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Fault] = []

    def at(self, line: int, column: int) -> Location:
        return Location(file=self.file, line=line, column=column)

    def add(
        self,
        headline: str,
        line: int,
        column: int,
        *,
        hint: str | None = None,
        facts: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Keep a fault; raises Enough where there are too many to be read by anybody."""
        place = self.at(line, column)
        self.found.append(Fault(headline=headline, location=place, hint=hint, facts=tuple(facts)))
        if len(self.found) >= MAX_FAULTS:
            headline = f"more than {MAX_FAULTS:,} mistakes; what follows was not read"
            self.found.append(Fault(headline=headline, location=place))
            raise Enough


def shown(text: str, limit: int = 40) -> str:
    """Text from a file, made fit for one line of a message: short, and without control characters."""
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


# ---------------------------------------------------------------- types of plain scalars

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


def typed(text: str) -> bool | int | float | str | None:
    if text in NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text, 8 if text[:2] == "0o" else 16 if text[:2] == "0x" else 10)
    if _FLOAT.fullmatch(text):
        return float(text.replace(".", "") if text[-1] in "fFnN" else text)
    return text


def is_huge(text: str) -> bool:
    """Whether a plain scalar is an integer that 64 bits can't hold."""
    if not _INT.fullmatch(text):
        return False
    return len(text) > 30 or not -(2**63) <= int(typed(text) or 0) < 2**63
