"""The beginning of a script's first line that fills its variables with values.  Pure.

It stands on the script's own first line, so that line numbers stay, and is run by the shell before anything
of the script: `set -e` and the like are not yet in force.  A `#!` line behind it is a comment, as it is in
every script that is given to a shell by name.

Owns the text.  Applying filters, refusing NUL, and choosing between environment and file is the executor's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple


class Load(NamedTuple):
    """Where the prelude finds what goes into a variable."""

    variable: str
    kind: Literal["environment", "file", "path"]
    source: str  # name of an environment variable, or a path: of a file to read, or to put into the variable
    newlines: str = ""  # of a file to read that ends in newlines: path of a file with these alone


def prelude(loads: Iterable[Load]) -> str:
    """One line of sh that fills variables with exact bytes and exports none; it ends the shell on failure.

    `$(...)` drops the newlines that a file ends in.  They are read from a file of their own, with a sentinel
    that is then cut off: of a whole value it can't be, for bash 5.2 in a UTF-8 locale gives other memory for
    `${v%x}` where v has certain bytes that are no UTF-8.
    """
    return "; ".join(_loading(load) for load in loads)


def with_prelude(text: str, loads: Sequence[Load]) -> str:
    """The script behind its prelude, on the same line, so that line numbers stay."""
    return f"{prelude(loads)}; {text}" if loads else text


def _loading(load: Load) -> str:
    name, quoted = load.variable, _quoted(load.source)
    match load.kind:
        case "environment":
            return f"{name}=${{{load.source}?}} && unset {load.source}"
        case "file":
            if not load.newlines:
                return f"{name}=$(/bin/cat {quoted}) || exit 125"
            newlines = f"{name}=$(/bin/cat {_quoted(load.newlines)} && printf x)"
            return f"{newlines} && {name}=$(/bin/cat {quoted})${{{name}%x}} || exit 125"
        case "path":
            return f"{name}={quoted}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
