"""A place in a script that is being scanned, and what was learnt on the way.  Pure.

Owns the way through the text, what is refused, and how deeply things are nested.  What stands at a place is
`word`'s, `command`'s and `scan`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from llmc_build.shellcode.tree import PROBLEMS, Context, Document, Found

NESTING = 40  # levels of nesting accepted; shells accept more, but our recursion is Python's


class Stop(Exception):
    """The rest of the script can't be scanned."""


class Cursor:
    """A cursor over the script, and what was learnt on the way."""

    def __init__(self, text: str, *, shell: str, strict: bool) -> None:
        self.text = text
        self.shell = shell
        self.pos = 0
        self.end = len(text)  # nearer while the body of a here-document is scanned
        self.strict = strict
        self.found: list[Found] = []
        self.contexts: dict[int, Context] = {}
        self.edits: list[tuple[int, int, str]] = []  # (start, end, replacement) besides placeholders
        self.pending: list[Document] = []
        self.substitutions = 0  # how many $(...) are open
        self._forbidden: list[tuple[str, str, bool]] = []  # message, hint, whether also inside a $( )
        self._depth = 0

    # ------------------------------------------------------------ the cursor

    def peek(self, ahead: int = 0) -> str:
        """A character from here, or "" past the end."""
        at = self.pos + ahead
        return self.text[at] if at < self.end else ""

    def at(self, text: str) -> bool:
        return self.text.startswith(text, self.pos, self.end)

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        return pattern.match(self.text, self.pos, self.end)

    def refuse(self, message: str, offset: int, hint: str | None = None) -> None:
        if self.strict and len(self.found) < PROBLEMS:
            self.found.append(Found(message=message, offset=offset, hint=hint))

    def stop(self, message: str, offset: int, hint: str | None = None) -> Stop:
        """To be raised by the caller, so that readers and type checkers see the way out."""
        self.refuse(message, offset, hint)
        return Stop()

    @contextmanager
    def nested(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > NESTING:
            raise self.stop("commands are nested too deeply", self.pos, "move the inner ones into a function")
        yield
        self._depth -= 1

    @contextmanager
    def forbidding(self, message: str, hint: str, *, deeply: bool) -> Iterator[None]:
        """Placeholders met inside are refused for this reason; `deeply`: also those of a $( ) in it."""
        self._forbidden.append((message, hint, deeply))
        yield
        self._forbidden.pop()
