"""One process for one action: locks on bytes of one file.

Owns: the file `lock` of the store.  Not: what to do while another process has the lock.

Each key has its byte of the file (which stays empty): POSIX record locks need no content.  The kernel
drops them with the process, so a crash leaves nothing behind.  They have one trap: closing any
descriptor of a file drops all locks that the process has on it.  So a process opens the file once,
however many stores it has open.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class _File:
    """The lock file as this process has it open."""

    fd: int
    users: int = 0
    held: dict[int, KeyLocks] = field(default_factory=dict)  # offset -> who has it


_open: dict[tuple[int, int], _File] = {}  # by device and inode


class KeyLocks:
    """The locks of one store, as one part of this process sees them."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the file can't be opened for writing."""
        self._id, self._file = _share(path)
        self._file.users += 1
        self._closed = False

    def try_lock(self, key: str) -> bool:
        """Take the lock of a key (hex digits) without waiting; True also where it is ours already."""
        at = _offset(key)
        holder = self._file.held.get(at)
        if holder is not None:
            return holder is self
        try:
            fcntl.lockf(self._file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        except OSError:  # a file system without locks: equal actions may then run twice, no more
            return True
        self._file.held[at] = self
        return True

    def unlock(self, key: str) -> None:
        """Give the lock of a key back; nothing where it isn't ours."""
        at = _offset(key)
        if self._file.held.get(at) is self:
            del self._file.held[at]
            fcntl.lockf(self._file.fd, fcntl.LOCK_UN, 1, at)

    def close(self) -> None:
        """Give back every lock."""
        if self._closed:
            return
        self._closed = True
        for at in [at for at, holder in self._file.held.items() if holder is self]:
            del self._file.held[at]
            fcntl.lockf(self._file.fd, fcntl.LOCK_UN, 1, at)
        self._file.users -= 1
        if not self._file.users:
            del _open[self._id]
            os.close(self._file.fd)


def _share(path: Path) -> tuple[tuple[int, int], _File]:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        pass
    else:
        shared = _open.get((there.st_dev, there.st_ino))
        if shared is not None:
            return (there.st_dev, there.st_ino), shared
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    opened = os.fstat(fd)
    identity = (opened.st_dev, opened.st_ino)
    _open[identity] = _File(fd)
    return identity, _open[identity]


def _offset(key: str) -> int:
    """The byte of a key: its first 62 bits, for a file offset has 63."""
    return int(key[:16], 16) >> 2
