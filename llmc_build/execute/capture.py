"""The files that a step's output is captured in, or that it wrote: their size, their end, their content.

Owns the log folder of a step and the names in it, and no meaning of what is in the files.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from llmc_build.execute import osdep
from llmc_build.execute.messages import INLINE_BYTES, pack_content

if TYPE_CHECKING:
    from llmc_build.execute.redact import Redactor
    from llmc_build.model import Json
    from llmc_build.store.cas import Cas

    Store = Callable[[], Cas]  # opens the store: its modules are loaded where something large is to be kept

_MARK: Final = b"\n[llmc: "
_MARK_END: Final = b" bytes were cut out here]\n"
_MARK_ROOM: Final = 64
_HOLE_ROOM: Final = 1 << 17  # beside a hole, so that a secret at a place where it is cut is seen whole
_TAIL_LINES: Final = 20
_TAIL_BYTES: Final = 4096
_CHUNK: Final = 1 << 20
_ENCODING: Final = sys.getfilesystemencoding()
_ERRORS: Final = sys.getfilesystemencodeerrors()
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
# Appending, so that what reopens /dev/stderr with `>>` and what inherited it don't overwrite each other.
_FRESH: Final = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Capture:
    """An open file, with the name it was opened by."""

    __slots__ = ("_hollow", "fd", "path")

    def __init__(self, path: str, *, fresh: bool = True, hidden: bool = False) -> None:
        """`fresh`: made, or emptied, for a step to write to; else only read.

        `hidden`: it has no name, so that it is gone with the processes that have it open, however they end.
        """
        self.path = path
        self._hollow = 0  # where the hole in it ends
        self.fd = os.open(path, _FRESH if fresh else _READ, 0o600)
        if hidden:
            os.unlink(path)

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def empty(self) -> None:
        self._hollow = 0
        if self.size:
            os.ftruncate(self.fd, 0)

    def hollow(self, limit: int) -> None:
        """Keeps what it takes of the disk within a few `limit`s while a step writes, for `cut` to do later.

        Where no holes can be made in files, it is cut, and what is written in this moment is lost.
        """
        size = self.size
        if size - self._hollow <= 3 * limit + _HOLE_ROOM:
            return
        start, end = max(self._hollow, limit // 2 + _HOLE_ROOM), size - limit // 2 - _HOLE_ROOM
        if osdep.punch(self.fd, start, end):
            self._hollow = end
        else:
            self.cut(limit)

    def cut(self, limit: int, secrets: Redactor | None = None) -> None:
        """Leaves its beginning and its end, `limit` bytes together, with a mark between them.

        No secret is cut through: half of one would not be found later.
        """
        size, half = self.size, limit // 2
        if size <= limit + _MARK_ROOM:
            return
        first, last = half, size - half
        if secrets is not None:
            first, last = self._beside(first, secrets)[0], self._beside(last, secrets)[1]
        end = os.pread(self.fd, half, last)
        os.ftruncate(self.fd, first)
        _write(self.fd, b"%s%d%s%s" % (_MARK, last - first, _MARK_END, end))

    def _beside(self, place: int, secrets: Redactor) -> tuple[int, int]:
        """Where the secret that stands across a place begins and ends; else the place itself."""
        room = secrets.longest
        begin = max(0, place - room)
        start, end = secrets.across(os.pread(self.fd, 2 * room, begin), place - begin)
        return begin + start, begin + end

    def close(self) -> None:
        os.close(self.fd)

    def small(self) -> bytes | None:
        """All of it, where that is little enough to travel in a message."""
        data = os.pread(self.fd, INLINE_BYTES + 1, 0)
        return data if len(data) <= INLINE_BYTES else None

    def tail(self) -> str:
        """The last lines, as text."""
        data = os.pread(self.fd, _TAIL_BYTES, max(0, self.size - _TAIL_BYTES))
        lines = data.decode("utf-8", "replace").rstrip().split("\n")
        return "\n".join(lines[-_TAIL_LINES:])

    def copy_to(self, path: str) -> None:
        """Writes the same bytes to another file."""
        with contextlib.closing(Capture(path)) as target:
            offset = 0
            while data := os.pread(self.fd, _CHUNK, offset):
                _write(target.fd, data)
                offset += len(data)

    def content(self, store: Store, *, consume: bool = False) -> dict[str, Json]:
        """A content for a message; large ones go to the store, which takes the file itself with `consume`."""
        data = self.small()
        if data is not None:
            return pack_small(data)
        from pathlib import Path

        if os.fstat(self.fd).st_nlink == 0:  # hidden: what is in it by now may have a name
            self.copy_to(self.path)
            consume = True
        digest = store().put_file(Path(self.path), consume=consume)
        return {"hash": digest.hash, "size": digest.size}


def pack_small(data: bytes) -> dict[str, Json]:
    """The content of a file that is `small`."""
    return pack_content(data, _travels)


def _travels(data: bytes) -> None:
    raise AssertionError("what is small travels in the message")


def encoded(text: str) -> bytes:
    """As `os.fsencode`, of a text."""
    return text.encode(_ENCODING, _ERRORS)


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        data = data[written:]
        written = os.write(fd, data)


def log_files(folder: str, texts: Iterable[tuple[str, str]]) -> None:
    """Makes the log folder of a step and writes `texts` (name, content) into it."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:  # of an attempt before
        pass
    except FileNotFoundError:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    for name, text in texts:
        data = encoded(text)
        fd = os.open(f"{folder}/{name}", _FRESH, 0o600)
        try:
            _write(fd, data)
        finally:
            os.close(fd)
