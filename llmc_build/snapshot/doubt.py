"""Marks beside a snapshot that something may lie in the workspace which it does not know. World.

Owns who leaves them and when they go. A build leaves one before it places what the snapshot has not: should
it not come to its end, or another be at work beside it, the next build looks at everything, for what was
placed must not stay when the edit that asked for it is undone. A build holds a lock on its mark, which the
kernel lets go when it dies, so that marks of the dead are known in whatever container they ran. It leaves the
mark where another build of the same files is at work, which may place again what this one has taken away.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence

from llmc_build.snapshot.form import SENSELESS, Snapshot
from llmc_build.snapshot.survey import snapshot_path

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Doubt:
    """What a build of some files knows of others at work beside it, from before it places anything."""

    def __init__(self, workspace: str, files: Sequence[str]) -> None:
        """Raises OSError."""
        self._snapshot = snapshot_path(workspace, files)
        self._dead = [mark for mark in marks(self._snapshot) if not _is_held(mark)]
        self._mark: str | None = None
        self._held: list[int] = []
        folder, _, name = self._snapshot.rpartition("/")
        os.makedirs(folder, 0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._held.append(os.open(f"{folder}/work-{name}", flags, 0o600))
        _locked(self._held[0], shared=True)  # with all builds of these files

    def mark(self) -> None:
        """Before this build places what the snapshot has not, or takes away what it has.  Raises OSError."""
        if self._mark is None:
            self._mark = _new_mark(self._snapshot)
            self._held.append(os.open(self._mark, _NEW, 0o600))
            _locked(self._held[1])

    @property
    def has_others(self) -> bool:
        """Whether another build of these files took something away, or placed it, since this one began."""
        return not {*marks(self._snapshot)} <= {self._mark, *self._dead}

    def settle(self, taken: Snapshot | None) -> None:
        """The build came to its end, having looked at everything, and this is kept of it.  Raises OSError."""
        if self._mark is None:
            # Another took away, meanwhile, what this one has placed again, perhaps.
            if self.has_others:
                os.close(os.open(_new_mark(self._snapshot), _NEW, 0o600))
            return
        if taken is not None:
            _doubt_others(taken, self._snapshot)
        if _locked(self._held[0]) is not False and not self.has_others:
            for mark in (*self._dead, self._mark):
                with contextlib.suppress(OSError):
                    os.unlink(mark)

    def close(self) -> None:
        """The build is over."""
        while self._held:
            os.close(self._held.pop())


def marks(snapshot: str) -> list[str]:
    """The marks beside the snapshot of that path."""
    folder, _, name = snapshot.rpartition("/")
    try:
        return [f"{folder}/{n}" for n in os.listdir(folder) if n.startswith(f"doubt-{name}.")]
    except OSError:
        return []


def _doubt_others(taken: Snapshot, path: str) -> None:
    """Marks snapshots of other sets of files that don't know all that was built now of a file of theirs."""
    folder, _, own = path.rpartition("/")
    for name in os.listdir(folder):
        if name.startswith("snapshot-") and name != own:
            its = f"{folder}/{name}"
            other = Snapshot.read(its) if all(map(_is_held, marks(its))) else None  # else it is marked
            with contextlib.suppress(*SENSELESS):
                if other is not None and not _knows(other, taken):
                    os.close(os.open(_new_mark(its), _NEW, 0o600))


def _knows(other: Snapshot, taken: Snapshot) -> bool:
    files = [os.path.realpath(entry[0]) for entry in taken.facts["files"]]
    shared = {os.path.realpath(entry[0]) for entry in other.facts["files"]}.intersection(files)
    mine = {document[3]: document[4:6] for document in taken.documents if files[document[0]] in shared}
    there = {*other.paths} if mine else set()
    if not all(there.issuperset(taken.paths[first : first + count]) for first, count in mine.values()):
        return False
    return all(
        other.outputs.get(path) == target
        for path, target in taken.outputs.items()
        if target.partition(".")[0] in mine
    )


def _new_mark(snapshot: str) -> str:
    folder, _, name = snapshot.rpartition("/")
    return f"{folder}/doubt-{name}.{os.getpid()}-{time.time_ns():x}"


def _locked(fd: int, *, shared: bool = False) -> bool | None:
    """Takes the lock of a file; False: somebody has it, None: the file system has no locks."""
    import fcntl

    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_held(mark: str) -> bool:
    try:
        fd = os.open(mark, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return os.path.lexists(mark)
    try:
        mine = _locked(fd)
    finally:
        os.close(fd)
    if mine is None:
        from llmc_build.store.files import alive

        pid = mark.rpartition(".")[2].partition("-")[0]
        return pid.isdecimal() and alive(int(pid))
    return not mine
