"""Takes secret values out of what a step wrote.

Owns the forms in which a secret is looked for and what replaces it.  Pure but for `redact_file`.

A value is looked for as it is, percent-encoded, as it stands in a JSON string, and in base64 with every
alignment, so that it is found inside of a longer text that was encoded as a whole (`user:secret`).
Values of fewer than four bytes are let through: they would be found everywhere.
"""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Final

STAND_IN: Final = b"***"
_SHORTEST = 4  # bytes
_SHORTEST_LINE = 8  # bytes; lines of a secret of several lines are looked for from this length on
_CHUNK = 1 << 20


class Redactor:
    """Replaces every occurrence of some secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        needles = sorted({n for secret in secrets for n in _forms(secret)}, key=lambda n: (-len(n), n))
        self._longest = len(needles[0]) if needles else 0
        self._pattern = re.compile(b"|".join(map(re.escape, needles))) if needles else None

    def __bool__(self) -> bool:
        """Whether there is anything to look for."""
        return self._pattern is not None

    def redact(self, data: bytes) -> bytes:
        return self._pattern.sub(STAND_IN, data) if self._pattern else data

    def found_in(self, fd: int) -> bool:
        """Whether a secret stands in a file."""
        return self._pattern is not None and any(hit for _, hit in self._pieces(fd))

    def redact_file(self, fd: int) -> bool:
        """Replaces in a file that is open for reading and writing; whether anything was found."""
        if self._pattern is None or not self.found_in(fd):
            return False
        with tempfile.TemporaryFile() as clean:
            for text, hit in self._pieces(fd):
                clean.write(STAND_IN if hit else text)
            clean.seek(0)
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            while data := clean.read(_CHUNK):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
        return True

    def _pieces(self, fd: int) -> Iterator[tuple[bytes, bool]]:
        """A file in pieces that are a secret (True) or hold none, read a chunk at a time."""
        assert self._pattern is not None
        held, offset, more = b"", 0, True
        while more:
            data = os.pread(fd, _CHUNK, offset)
            offset, more, held = offset + len(data), bool(data), held + data
            # What begins in the last bytes may end in the next chunk.
            safe = len(held) - self._longest + 1 if more else len(held)
            at = 0
            for match in self._pattern.finditer(held):
                if match.start() >= safe:
                    break
                yield held[at : match.start()], False
                yield match.group(), True
                at = match.end()
            keep = max(at, safe, 0)
            yield held[at:keep], False
            held = held[keep:]


def _forms(secret: str) -> Iterator[bytes]:
    whole = secret.encode("utf-8", "surrogateescape")
    stripped = whole.strip()
    for value in {whole, stripped}:
        if len(value) >= _SHORTEST:
            yield from _encodings(value)
    lines = stripped.splitlines()
    if len(lines) > 1:
        for line in map(bytes.strip, lines):
            # The dashes: first and last line of a PEM file are no secret.
            if len(line) >= _SHORTEST_LINE and not line.startswith(b"-----"):
                yield line


def _encodings(value: bytes) -> Iterator[bytes]:
    yield value
    yield urllib.parse.quote_from_bytes(value, safe="").encode()
    yield urllib.parse.quote_from_bytes(value).encode()
    yield urllib.parse.quote_plus(value).encode()
    text = value.decode("utf-8", "surrogateescape")
    yield json.dumps(text)[1:-1].encode()
    yield json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape")
    for shift in range(3):
        # Only the characters that all of whose bits come from the value: the others depend on what
        # stands before and after it.
        start, end = -(-8 * shift // 6), 8 * (shift + len(value)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(shift) + value)[start:end]
