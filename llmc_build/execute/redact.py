"""Takes secret values out of what a step wrote.

Owns the forms in which a secret is looked for and what replaces it.  Pure but for `redact_file`.

A value is looked for as it is; as it stands in a URL, in a JSON string, in HTML and in what shells print
of their words; and in base64 with every alignment and in hexadecimal, also broken into lines, so that it
is found inside of a longer text that was encoded as a whole (`user:secret`).  So is each longer line of a
value of several lines.  Values of two or three bytes are looked for only as whole words, since they would
be found everywhere, and those of one byte not at all.

Where occurrences overlap, all their bytes go: what is left of a longer one would tell of it.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Final

STAND_IN: Final = b"***"
_SHORTEST = 4  # bytes; shorter ones are looked for as words
_SHORTEST_WORD = 2
_SHORTEST_LINE = 8  # bytes; lines of a secret of several lines are looked for from this length on
_CHUNK = 1 << 20
_SPACE = b" \r\n"  # what stands between the characters of an encoded text that was broken into lines
_BREAK = rb"[ \r\n]{0,2}"
_IN_C = {
    ord("'"): b"\\'",
    ord("\\"): b"\\\\",
    7: b"\\a",
    8: b"\\b",
    9: b"\\t",
    10: b"\\n",
    13: b"\\r",
    27: b"\\E",
}
_Span = tuple[int, int]


class Redactor:
    """Replaces every occurrence of some secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        values = {value for secret in secrets for value in _values(secret)}
        long = {value for value in values if len(value) >= _SHORTEST}
        words = {value for value in values if _SHORTEST_WORD <= len(value) < _SHORTEST and value.strip()}
        self._plain = sorted({form for value in long for form in _written(value)})
        encoded = sorted({form for value in long for form in _encoded(value)})
        self._encoded = [
            (form, re.compile(_BREAK.join(re.escape(bytes([c])) for c in form))) for form in encoded
        ]
        # A border of a word needs its neighbour.
        self._words = [re.compile(rb"(?<!\w)%s(?!\w)" % re.escape(word)) for word in sorted(words)]
        lengths = [len(form) for form in self._plain] + [3 * len(form) for form in encoded]
        # The most bytes that have to be seen to know an occurrence.
        self.longest = max([*lengths, *(len(word) + 1 for word in words)], default=0)

    def __bool__(self) -> bool:
        """Whether there is anything to look for."""
        return self.longest > 0

    def redact(self, data: bytes) -> bytes:
        found, at = [], 0
        for start, end in _merged(self._spans(data)):
            found += [data[at:start], STAND_IN]
            at = end
        return b"".join([*found, data[at:]])

    def redact_text(self, text: str) -> str:
        return self.redact(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def across(self, data: bytes, place: int) -> _Span:
        """The occurrence that begins before a place and ends behind it; else the place itself."""
        for start, end in _merged(self._spans(data)):
            if start < place < end:
                return start, end
        return place, place

    def found_in(self, fd: int) -> bool:
        """Whether a secret stands in a file."""
        return bool(self) and any(hit for _, hit in self._pieces(fd))

    def redact_file(self, fd: int) -> bool:
        """Replaces in a file that is open for reading and writing; whether anything was found."""
        if not self.found_in(fd):
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

    def _spans(self, data: bytes) -> Iterator[_Span]:
        """Where secrets stand, in any order; they may overlap."""
        for form in self._plain:
            at = data.find(form)
            while at >= 0:
                yield at, at + len(form)
                at = data.find(form, at + 1)
        if self._encoded:
            unbroken = data.translate(None, _SPACE)
            for form, pattern in self._encoded:
                if form in unbroken:
                    yield from (match.span() for match in pattern.finditer(data))
        for word in self._words:
            found = word.search(data)
            while found:
                yield found.span()
                found = word.search(data, found.start() + 1)

    def _pieces(self, fd: int) -> Iterator[tuple[bytes, bool]]:
        """A file in pieces that are a secret (True) or hold none, read a chunk at a time."""
        held, offset, more = b"", 0, True
        covered = 0  # bytes of `held` that belong to a secret that was told already
        before = 0  # bytes of `held` that were told already and stay as the neighbour of what follows
        while more:
            data = os.pread(fd, _CHUNK, offset)
            offset, more, held = offset + len(data), bool(data), held + data
            # What begins in the last bytes may end in the next chunk.
            cut = max(len(held) - self.longest, before) if more else len(held)
            at = before
            told = [(before, covered)] if covered > before else []
            found = (span for span in self._spans(held) if before <= span[0] < cut)
            for start, end in _merged([*told, *found]):
                if not (told and start == before):
                    yield held[at:start], False
                    yield held[start:end], True
                at = end
            if at < cut:
                yield held[at:cut], False
            keep = max(cut - 1, 0)
            covered, before, held = max(at, cut) - keep, cut - keep, held[keep:]


def _merged(spans: Iterable[_Span]) -> list[_Span]:
    """The same bytes, in order; what merely touches stays apart."""
    found: list[_Span] = []
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


# ---------------------------------------------------------------- forms


def _values(secret: str) -> Iterator[bytes]:
    """The value, what is left of it without white space around, and its lines."""
    whole = secret.encode("utf-8", "surrogateescape")
    stripped = whole.strip()
    yield from (whole, stripped)
    lines = stripped.splitlines()
    if len(lines) > 1:
        for line in map(bytes.strip, lines):
            # The dashes: first and last line of a PEM file are no secret.
            if len(line) >= _SHORTEST_LINE and not line.startswith(b"-----"):
                yield line


def _written(value: bytes) -> Iterator[bytes]:
    """As it stands in a text of some kind."""
    yield value
    quoted = {
        urllib.parse.quote_from_bytes(value, safe=""),
        urllib.parse.quote_from_bytes(value),
        urllib.parse.quote_plus(value),
    }
    for text in quoted:
        yield text.encode()
        yield re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), text).encode()
    text = value.decode("utf-8", "surrogateescape")
    for ascii_only in (False, True):
        inside = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield inside.encode("utf-8", "surrogateescape")
        yield inside.replace("/", "\\/").encode("utf-8", "surrogateescape")
    for quote in (False, True):
        yield html.escape(text, quote=quote).encode("utf-8", "surrogateescape")
    # What `set -x`, `printf %q`, `declare -p` and `export -p` print.
    yield value.replace(b"'", b"'\\''")
    yield value.replace(b"'", b"'\"'\"'")
    yield re.sub(rb"""(["$`\\])""", rb"\\\1", value)
    yield re.sub(rb"([^\w@%+=:,./\x80-\xff-])", rb"\\\1", value)
    in_c = b"".join(_IN_C.get(c, bytes([c])) for c in value)
    yield in_c
    yield b"".join(bytes([c]) if c < 128 else b"\\%03o" % c for c in in_c)


def _encoded(value: bytes) -> Iterator[bytes]:
    """As it stands in something longer that was encoded as a whole."""
    for shift in range(3):
        # Only the characters that all of whose bits come from the value: the others depend on what
        # stands before and after it.
        start, end = -(-8 * shift // 6), 8 * (shift + len(value)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(shift) + value)[start:end]
    yield value.hex().encode()
    yield value.hex().upper().encode()
