"""How a build's last word looks on a terminal.  Pure; imports nothing, so that it can be said at once.

Owns when there is colour, and the line of a build that had nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping

NO = frozenset({"", "0", "false", "no"})  # what the value of a switch in the environment must not be
GREEN = "\x1b[32m"
PLAIN = "\x1b[0m"


def wants_color(environ: Mapping[str, str], color: str, *, terminal: bool) -> bool:
    """Options first, then NO_COLOR and FORCE_COLOR, then what the stream is."""
    if color != "auto":
        return color == "always"
    if environ.get("NO_COLOR"):  # https://no-color.org: any value but the empty one
        return False
    if environ.get("FORCE_COLOR"):
        return environ["FORCE_COLOR"].lower() not in NO
    return terminal


def is_terminal(isatty: bool, environ: Mapping[str, str]) -> bool:
    """Whether a stream shows what a terminal can show."""
    return isatty and environ.get("TERM", "") not in ("", "dumb")


def up_to_date(total: int, wall_s: float) -> str:
    """The last line of a build in which nothing ran."""
    return f"up to date: {total} targets ({wall_s:.2f} s)"
