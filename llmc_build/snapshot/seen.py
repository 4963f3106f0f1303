"""What surveys had to hash since a snapshot was taken, so that none of it is hashed twice. World.

Owns that memory, one small file beside a snapshot: files that had a new stamp and the content that was known
of them, since they were touched, or were written too shortly before the snapshot to be known by their stamps.
It says what a file with a stamp holds, and nothing of what it should hold. The next snapshot has these stamps
itself. Damaged or deleted, it says nothing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from functools import cached_property

from llmc_build.snapshot.stamps import boot, is_fresh, read_plain

TYPE_CHECKING = False  # as in `form`
if TYPE_CHECKING:
    from typing import Any


class Seen:
    def __init__(self, path: str) -> None:
        """`path`: its file, which is read when it is first asked for."""
        self.path = path
        self.has_news = False
        self._asked: dict[str, list[Any]] = {}  # path -> stamp and content, of what this survey asked for

    def holds(self, path: str, stamp: Sequence[int], content: str) -> bool:
        """Whether a file is known to hold a content while it has a stamp."""
        entry = [[*stamp], content]
        if self._known.get(path) != entry:
            return False
        self._asked[path] = entry
        return True

    def add(self, path: str, stamp: Sequence[int], content: str, began_ns: int) -> bool:
        """A file was hashed, and had the stamp before and after; False: that may change unseen."""
        if is_fresh(stamp[3], stamp[4], began_ns):
            return False
        self._asked[path] = [[*stamp], content]
        self.has_news = True
        return True

    def encoded(self) -> list[bytes]:
        """The bytes of the file: what was asked for, in parts."""
        body = json.dumps({"boot": boot(), "files": self._asked}, separators=(",", ":")).encode("ascii")
        return [b"%08x\n" % zlib.crc32(body), body]

    @cached_property
    def _known(self) -> dict[str, list[Any]]:
        head, _, body = (read_plain(self.path) or b"").partition(b"\n")
        try:
            if int(head, 16) != zlib.crc32(body):
                return {}
            document = json.loads(body)
            found: dict[str, list[Any]] = document["files"] if document["boot"] == boot() else {}
            return found if isinstance(found, dict) else {}
        except (LookupError, RecursionError, TypeError, ValueError):
            return {}
