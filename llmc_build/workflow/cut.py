"""A large document as its steps, so that an edit of one step needs only that one to be read.  Pure.

Owns where a step begins, and the text of a document in which other steps are left out.  Whether a cut is
right is known only of a document that was read as a whole: there each step stands where it was cut.

Theory of operation.  The steps are the items of a list in block style, so each begins on a line of its own
with a dash in the column of the list.  At such a line the parser knows nothing of the items before it, but
for anchors.  So where a document was read and cut alike, what stands around the steps is as it was, and none
of them has an anchor, a document with some of the steps taken out means for the others what the whole means.
An empty item stands for each stretch of steps that is taken out, and a comment for each other line of it,
which keeps the numbers of lines.  Where such an item is not read as one, what stands before it did not end
where a step begins, as with a quote that is not closed; then nothing is known of the whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

HASH = 16  # bytes of the hash of a step's text

_FIRST = re.compile(rb"^steps:[ \t]*(?:#.*)?\r?\n(?:[ \t]*(?:#.*)?\r?\n)*( *)-(?=[ \r\n])", re.MULTILINE)
_BEHIND = re.compile(rb"^[^ \t\r\n#]", re.MULTILINE)  # a line that begins in the first column
_BEHIND_DASHES = re.compile(rb"^(?!-[ \r\n])[^ \t\r\n#]", re.MULTILINE)
# What could be an anchor, wherever it stands, as in `{"a":&x 1}`; a shell's `&&`, `2>&1` and `<&3` are none.
_ANCHOR = re.compile(rb"&(?<![\w&<>]&)(?=[^\s&;|>])")


@dataclass(frozen=True)
class Steps:
    """Where the steps of a document stand."""

    text: bytes
    starts: Sequence[int]  # where each begins, and one more: where the last one ends

    @cached_property
    def around(self) -> bytes:
        """A hash of what stands before the steps and behind them."""
        hasher = hashlib.sha256(b"%d " % self.starts[0])
        hasher.update(self.text[: self.starts[0]])
        hasher.update(self.text[self.starts[-1] :])
        return hasher.digest()[:HASH]

    @cached_property
    def hashes(self) -> bytes:
        """The hashes of all steps, one after the other."""
        text, sha256 = self.text, hashlib.sha256
        starts = self.starts
        return b"".join([sha256(text[a:b]).digest()[:HASH] for a, b in pairwise(starts)])

    def lines(self, first: int) -> list[int]:
        """The line on which each step begins, where the document begins on the line `first`."""
        found, line, at = [], first, 0
        for start in self.starts[:-1]:
            line += self.text.count(b"\n", at, start)
            found.append(line)
            at = start
        return found

    def step(self, i: int) -> bytes:
        """The text of a step."""
        return self.text[self.starts[i] : self.starts[i + 1]]

    def only(self, wanted: Collection[int]) -> tuple[bytes, int]:
        """The document with some of its steps, each on the line on which it stands; and how many items stand
        for others.
        """
        text, starts = self.text, self.starts
        parts, at, left_out = [text[: starts[0]]], 0, 0
        for i in (*sorted(wanted), len(starts) - 1):
            if i > at:
                parts.append(self._instead_of(at, i))
                left_out += 1
            parts.append(text[starts[i] : starts[i + 1]] if i + 1 < len(starts) else text[starts[-1] :])
            at = i + 1
        return b"".join(parts), left_out

    def _instead_of(self, first: int, end: int) -> bytes:
        """What stands for some steps, on as many lines."""
        begin, stop = self.starts[first], self.starts[end]
        lines = self.text.count(b"\n", begin, stop)
        item = self.text[begin : self.text.index(b"-", begin)] + b"- ~"
        return item + b"\n#" * (lines - 1) + b"\n" if lines else item


def cut(text: bytes) -> Steps | None:
    """The steps of a document as they seem to stand; None where none can be seen."""
    first = _FIRST.search(text)
    if first is None:
        return None
    begin, indent = first.start(1), len(first[1])
    behind = (_BEHIND if indent else _BEHIND_DASHES).search(text, first.end())
    end = behind.start() if behind is not None else len(text)
    item = re.compile(rb"^" + b" " * indent + rb"-(?=[ \r\n]|\Z)", re.MULTILINE)
    starts = [found.start() for found in item.finditer(text, begin, end)]
    return Steps(text, [*starts, end])


def is_tied(text: bytes) -> bool:
    """Whether a step may give something to others that do not name it: an anchor, or a part of a session."""
    return b"session" in text or _ANCHOR.search(text) is not None
