"""Which results a running build relies on, told to whoever cleans up the store.

Owns the folder `uses/`.  Not: what is removed (`upkeep`).

Theory of operation.  Each build has a file there, locked (flock) for as long as the build lives.  It writes
the key of a result into it *before* it looks the result up, and before it stores one.  Who removes records
reads these files *after* the removal and puts back what is named in them.  So either the key was written
early enough to be seen, or the build looks when the record is gone, and finds none: it can't have found
a record that is removed then.

The first line is the time at which the build began: contents written since then may belong to records that
are still to come.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path

from llmc_build.store import files
from llmc_build.store.cas import is_hash

_OWN = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_APPEND


class Uses:
    """What one build relies on."""

    def __init__(self, root: Path) -> None:
        """Raises OSError where nothing can be written."""
        self._named: set[str] = set()
        folder = root / "uses"
        files.own_folder(f"{folder}")
        while True:
            self._path = folder / files.temp_name()
            self._fd = os.open(self._path, _OWN, 0o600)
            with contextlib.suppress(OSError):  # a file system without locks: see `in_use`
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            if os.fstat(self._fd).st_nlink:  # else somebody took it for a dead one before it was locked
                break
            os.close(self._fd)
        try:
            os.write(self._fd, b"%d\n" % time.time_ns())
        except OSError:
            self.close()
            raise
        in_use(root)  # takes away what killed builds left

    def add(self, keys: Iterable[str]) -> None:
        """To be called before these results are looked up or stored.  Raises OSError."""
        new = [key for key in keys if key not in self._named]
        if new:
            files.write_all(self._fd, ("\n".join(new) + "\n").encode("ascii"))
            self._named.update(new)

    def close(self) -> None:
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._fd)
        self._fd = -1
        self._named.clear()


def in_use(root: Path) -> tuple[set[str], int | None]:
    """(keys that running builds rely on, when the oldest of them began in ns; None: none runs).

    What dead builds left is removed.
    """
    keys: set[str] = set()
    oldest: int | None = None
    for entry in list(files.entries(f"{root}/uses")):
        with contextlib.suppress(OSError):
            fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                if _is_dead(fd):
                    os.unlink(entry.path)
                    continue
                first, *rest = file.read().decode("ascii", "replace").split("\n")
                began = int(first) if first.isdigit() else os.fstat(fd).st_ctime_ns
            oldest = began if oldest is None else min(began, oldest)
            keys.update(key for key in rest if is_hash(key))
    return keys, oldest


def _is_dead(fd: int) -> bool:
    """Whether no build has the file locked; where locks don't work, everybody is taken to live."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
