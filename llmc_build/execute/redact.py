"""Takes secret values out of what a step wrote.

Owns the forms in which a secret is looked for and what replaces it.  Pure but for `redact_file`.

A value is looked for as it is, and character by character: each may stand as it is, behind backslashes, or
as a code of URLs, JSON, HTML and C, and with a line break before it, so that no list of encoders is needed
that escape this character and leave that one.  It is also looked for in base64 with every alignment and in
hexadecimal, broken into lines and with what stands between bytes, so that it is found inside of a longer
text that was encoded as a whole (`user:secret`).  So is each longer line of a value of several lines.
Values of two or three bytes are looked for only as whole words, since they would be found everywhere, and
those of one byte not at all.

Where occurrences overlap, all their bytes go: what is left of a longer one would tell of it.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from html.entities import codepoint2name
from typing import Final, NamedTuple

STAND_IN: Final = b"***"
_SHORTEST = 4  # bytes; shorter ones are looked for as words
_SHORTEST_WORD = 2
_SHORTEST_LINE = 8  # bytes; lines of a secret of several lines are looked for from this length on
_CHUNK = 1 << 20
_SHORTEST_BROKEN = 8  # bytes; shorter ones with line breaks in them are columns of numbers, too
_BREAK = rb"[ \r\n]{0,2}+"
_BETWEEN_HEX = rb"[ :,\r\n-]{0,5}+(?:0x|\\x)?"
_LOWER = bytes.maketrans(b"ABCDEF", b"abcdef")
_LINE_BREAK = rb"(?:\r?\n)?+"
_QUOTING = b"\\'\" \r\n"  # what may stand between the characters of a text that was quoted, encoded, broken
_NO_HEX = b":,-x0"  # what else stands between the bytes, and the zero of `0x`
_WIDEST = 18  # bytes; of what a byte is written as, with a line break: `\\\U{00000068}`
_TIMES = {"'": 2, '"': 2, "\\": 4, "\n": 2}  # as how many of its kind a character may be written
_IN_C = {7: b"a", 8: b"b", 9: b"t", 10: b"n", 11: b"v", 12: b"f", 13: b"r", 27: b"[Ee]"}
_LEADS = {b"\\": b"[uUx0-3]", b"%": b"[0-9A-Fa-f]", b"&": b"[#A-Za-z]"}  # and what follows them in a code
_Span = tuple[int, int]


class _Form(NamedTuple):
    """What a value is looked for as, if `hint` stands in the text without all that may be in between."""

    hint: bytes
    pattern: re.Pattern[bytes]


class Redactor:
    """Replaces every occurrence of some secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        values = {value for secret in secrets for value in _values(secret)}
        long = {value for value in values if len(value) >= _SHORTEST}
        words = {value for value in values if _SHORTEST_WORD <= len(value) < _SHORTEST and value.strip()}
        self._plain = sorted(long)
        self._written = [_written(value) for value in self._plain]
        self._codes = _any_code({character for value in long for character in _text(value)})
        encoded = sorted({form for value in long for form in _in_base64(value)})
        self._base64 = [_Form(form, _joined(form, _BREAK)) for form in encoded]
        self._hex = [_in_hex(value) for value in self._plain]
        # A border of a word needs its neighbour.
        self._words = [re.compile(rb"(?<!\w)%s(?!\w)" % re.escape(word)) for word in sorted(words)]
        # The most bytes that have to be seen to know an occurrence.
        self.longest = max([*map(_width, long), *(len(word) + 1 for word in words)], default=0)

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
        if self._plain:
            bare = data.translate(None, _QUOTING)
            digits = bare.translate(_LOWER, _NO_HEX)
            coded = _merged(self._near_codes(data))
            for hint, pattern in self._written:
                for start, end in [(0, len(data))] if hint in bare else coded:
                    yield from _all(pattern, data, start, end)
            for text, forms in ((bare, self._base64), (digits, self._hex)):
                for hint, pattern in forms:
                    if hint in text:
                        yield from _all(pattern, data)
        for word in self._words:
            yield from _all(word, data)

    def _near_codes(self, data: bytes) -> Iterator[_Span]:
        """Where an occurrence may be that a character is written as a code in: little, in most texts."""
        for code in self._codes:
            found = code.search(data)
            while found:
                # With the room of those codes that are leapt over.
                yield max(found.start() - self.longest, 0), found.start() + 2 * self.longest
                found = code.search(data, found.start() + self.longest)

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


def _all(pattern: re.Pattern[bytes], data: bytes, start: int = 0, end: int | None = None) -> Iterator[_Span]:
    """Also those that overlap."""
    end = len(data) if end is None else end
    found = pattern.search(data, start, end)
    while found:
        yield found.span()
        found = pattern.search(data, found.start() + 1, end)


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


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _width(value: bytes) -> int:
    """The most bytes that it is written as, in any form."""
    return _WIDEST * sum(len(_bytes(character)) * _TIMES.get(character, 1) for character in _text(value))


def _written(value: bytes) -> _Form:
    """Each character in any of the ways to write it.

    All that repeats is possessive: ways that differ in the number of backslashes would multiply.
    """
    line_break = _LINE_BREAK if len(value) >= _SHORTEST_BROKEN else b""
    parts: list[bytes] = []
    before = ""
    for character, run in itertools.groupby(_text(value)):
        count = len(list(run))
        way = _ways(character, line_break)
        if before == "\\":  # that of a code was taken for one more of the backslashes
            codes = b"|".join(rest for lead, rest in _codes(character) if lead == b"\\")
            way = rb"(?:%s|(?<=\\)(?:%s))" % (way, codes)
        more = b"" if character in "\r\n" else line_break
        least, most = count - 1, _TIMES.get(character, 1) * count - 1
        if most:
            way += b"(?:%s%s){%d,%d}+" % (more, way, least, most)
        if before and character in _TIMES:  # not at the start: a search for such a group is slow
            way = b"(?>%s)" % way
        parts += [more if before else b"", way]
        before = character
    # Where no code is used, what stands between white space (that has names of its own) stands there.
    hint = max((piece.translate(None, _QUOTING) for piece in re.split(rb"[\0-\x20]+", value)), key=len)
    return _Form(hint, re.compile(b"".join(parts)))


def _ways(character: str, line_break: bytes) -> bytes:
    """How one character is written: as it is, behind backslashes, as a code."""
    plain = [re.escape(_bytes(character))]
    if character == "'":  # the two ways to have one between such quotes in a shell
        plain = [rb"'(?:\\{1,3}+''|\"'\"')?+"]
    elif character == "\n":
        plain = [rb"\r?+\n"]
    elif character == " ":
        plain = [rb"[ +]"]
    escaped, codes = list(plain), []
    for lead, rest in _codes(character):
        if lead == b"\\":
            escaped.append(rest)
        else:
            codes.append(lead + rest)
    if ord(character) in _IN_C:
        escaped.append(_IN_C[ord(character)])
    ways = [*codes, rb"\\{1,3}+(?:%s)" % b"|".join(escaped), *plain]
    whole = _bytes(character)
    if len(whole) > 1:  # its bytes one by one, too
        of_bytes = [
            rb"(?:%s|%%%s|\\{1,3}+(?:%s|%s))"
            % (re.escape(byte), _in_url(byte[0]), re.escape(byte), _in_c(byte[0]))
            for byte in (whole[i : i + 1] for i in range(len(whole)))
        ]
        ways = [*ways[:-1], line_break.join(of_bytes)]
    return b"(?:%s)" % b"|".join(ways)


def _codes(character: str) -> Iterator[tuple[bytes, bytes]]:
    """What stands for a character by a number or a name: what it begins with, and the rest."""
    number, whole = ord(character), _bytes(character)
    if len(whole) == 1:
        yield b"%", _in_url(whole[0])
        yield b"\\", _in_c(whole[0])
    else:
        yield b"\\", rb"[uUx]\{?+0{0,7}%s\}?" % _hex(number)
    if number > 0xFFFF:
        high, low = divmod(number - 0x10000, 0x400)
        yield b"\\", rb"u%s\\{1,3}+u%s" % (_hex(0xD800 + high), _hex(0xDC00 + low))
    yield b"&", rb"#(?:0{0,4}%d|[xX]0{0,4}%s);" % (number, _hex(number))
    name = "apos" if character == "'" else codepoint2name.get(number)
    if name:
        yield b"&", name.encode() + b";"


def _hex(number: int) -> bytes:
    return b"(?i:%x)" % number


def _in_url(byte: int) -> bytes:
    return b"(?i:%02x)" % byte


def _in_c(byte: int) -> bytes:
    return rb"[uUx]\{?+0{0,7}%s\}?|%03o" % (_hex(byte), byte)


def _any_code(characters: set[str]) -> list[re.Pattern[bytes]]:
    """Whether one of these is written as a code: a text is looked through much faster for that alone."""
    codes = {code for character in characters for code in _codes(character)}
    for byte in _bytes("".join(characters)):
        codes |= {(b"%", _in_url(byte)), (b"\\", _in_c(byte))}
    return [
        re.compile(
            rb"%s(?=%s)(?:%s)"
            % (re.escape(lead), after, b"|".join(sorted(rest for of, rest in codes if of == lead)))
        )
        for lead, after in _LEADS.items()
    ]


def _in_base64(value: bytes) -> Iterator[bytes]:
    """As it stands in something longer that was encoded as a whole."""
    for shift in range(3):
        # Only the characters that all of whose bits come from the value: the others depend on what
        # stands before and after it.
        start, end = -(-8 * shift // 6), 8 * (shift + len(value)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(shift) + value)[start:end]


def _in_hex(value: bytes) -> _Form:
    form = value.hex().encode()
    pairs = (_joined(form[i : i + 2], _BREAK).pattern for i in range(0, len(form), 2))
    return _Form(form.translate(None, b"0"), re.compile(b"(?i:%s)" % _BETWEEN_HEX.join(pairs)))


def _joined(form: bytes, between: bytes) -> re.Pattern[bytes]:
    return re.compile(between.join(re.escape(bytes([c])) for c in form))
