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


def prelude(loads: Iterable[Load]) -> str:
    """One line of sh that fills variables with exact bytes and exports none; it ends the shell on failure.

    A value from a file is followed by a sentinel while it is read, because `$(...)` drops trailing newlines.
    """
    return "; ".join(_loading(load) for load in loads)


def with_prelude(text: str, loads: Sequence[Load]) -> str:
    """The script behind its prelude, on the same line, so that line numbers stay."""
    return f"{prelude(loads)}; {text}" if loads else text


def _loading(load: Load) -> str:
    name, quoted = load.variable, "'" + load.source.replace("'", "'\\''") + "'"
    match load.kind:
        case "environment":
            return f"{name}=${{{load.source}?}} && unset {load.source}"
        case "file":
            return f"{name}=$(/bin/cat {quoted} && printf x) || exit 125; {name}=${{{name}%x}}"
        case "path":
            return f"{name}={quoted}"
