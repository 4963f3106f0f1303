"""Stop strings in a stream of bytes.  Pure.

Owns when a stop string is complete and which bytes can already be given out.  Works on bytes, because a
token's text need not end where a character does.

The answer is cut where, reading byte by byte, a stop string is complete for the first time; of several
that are complete at the same byte the longest counts.  So the result does not depend on how the bytes were
cut into tokens.  Bytes that may be the beginning of a stop string are held back.
"""

from __future__ import annotations

from collections.abc import Iterable


class StopMatcher:
    """Finds the first of some stop strings in bytes that arrive in pieces."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(sorted({s.encode("utf-8", "replace") for s in stops if s}, key=len, reverse=True))
        self._held = b""
        self.stopped = False  # a stop string was found; nothing is given out after it

    def feed(self, data: bytes) -> bytes:
        """The bytes that can be given out now."""
        if self.stopped:
            return b""
        data = self._held + data
        self._held = b""
        cut = self._cut(data)
        if cut is not None:
            self.stopped = True
            return data[:cut]
        keep = self._beginning(data)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def flush(self) -> bytes:
        """What is still held back, when no more bytes will come."""
        held, self._held = self._held, b""
        return held

    def _cut(self, data: bytes) -> int | None:
        """Where the stop string that is complete first begins."""
        found = [(at + len(stop), at) for stop in self._stops if (at := data.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _beginning(self, data: bytes) -> int:
        """How many bytes at the end are the beginning of some stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(data)), longest, -1):
                if data.endswith(stop[:length]):
                    longest = length
                    break
        return longest
