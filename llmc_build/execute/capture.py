"""A file that a step's output is captured in, or that a step wrote: its size, its end, its content.

Owns no names of files and no meaning of what is in them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from llmc_build.execute.protocol import INLINE_BYTES, pack_content
from llmc_build.model import Json
from llmc_build.store.cas import Cas

_TAIL_LINES: Final = 20
_TAIL_BYTES: Final = 4096
_CHUNK: Final = 1 << 20


class Capture:
    """An open file, with the name it was opened by."""

    def __init__(self, path: str, *, fresh: bool = True) -> None:
        """`fresh`: made, or emptied, for a step to write to; else only read."""
        # Appending, so that what reopens /dev/stderr with `>>` and what inherited it don't overwrite
        # each other.
        mode = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND if fresh else os.O_RDONLY
        self.path = path
        self.fd = os.open(path, mode | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def empty(self) -> None:
        if self.size:
            os.ftruncate(self.fd, 0)

    def close(self) -> None:
        os.close(self.fd)

    def tail(self) -> str:
        """The last lines, as text."""
        size = self.size
        if not size:
            return ""
        data = os.pread(self.fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        lines = data.decode("utf-8", "replace").rstrip().split("\n")
        return "\n".join(lines[-_TAIL_LINES:])

    def copy_to(self, path: str) -> None:
        """Writes the same bytes to another file."""
        with open(self.path, "rb") as source, contextlib.closing(Capture(path)) as target:
            while data := source.read(_CHUNK):
                view = memoryview(data)
                while view:
                    view = view[os.write(target.fd, view) :]

    def content(self, cas: Cas, *, consume: bool = False) -> dict[str, Json]:
        """A content for a message; large ones go to the store, which takes the file itself with `consume`."""
        if self.size <= INLINE_BYTES:
            return pack_content(os.pread(self.fd, INLINE_BYTES + 1, 0), cas.put_bytes)
        digest = cas.put_file(Path(self.path), consume=consume)
        return {"hash": digest.hash, "size": digest.size}
