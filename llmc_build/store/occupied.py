"""Who is at work in a workspace: builds share it, `llmc clean` has it to itself.  World.

Owns the lock, one file that stays where it is; the kernel drops it when a process dies, however it dies.
On a file system without locks, nobody is told of anybody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from llmc_build.errors import StoreError
from llmc_build.store.runs import Runs

_PATIENCE_S = 60.0  # for the end of `llmc clean`
_LOOK_S = 0.05
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def shared(home: Path) -> Iterator[None]:
    """For a build, from its first file to its last.  Raises StoreError where `llmc clean` takes too long."""
    with contextlib.suppress(OSError):  # that nothing can be written here is told by what needs it
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lock_file(home) as lock:
        deadline = time.monotonic() + _PATIENCE_S
        while lock is not None and not _taken(lock, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise StoreError("`llmc clean` is at work in this workspace", hint="wait for its end")
            time.sleep(_LOOK_S)
        yield


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """For what a build would not survive.  Raises StoreError while one runs."""
    if not home.is_dir():
        yield
        return
    with _lock_file(home) as lock:
        if lock is not None and not _taken(lock, fcntl.LOCK_EX):
            process = Runs(home).process_at_work()
            who = "a build, or another `llmc clean`," if process is None else f"a build (process {process})"
            raise StoreError(f"{who} is at work in this workspace", hint="wait for its end")
        yield


@contextlib.contextmanager
def _lock_file(home: Path) -> Iterator[int | None]:
    try:
        lock = os.open(home / "lock", _OPEN, 0o600)
    except OSError:
        yield None
        return
    try:
        yield lock
    finally:
        os.close(lock)


def _taken(lock: int, how: int) -> bool:
    """False where another process has it."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
