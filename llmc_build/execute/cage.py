"""Control groups that bound how many processes a step may have: one for each shell worker, where they can be
made.

Owns where they are made and what is read from them.  A worker is put into its group by the guardian
(`sweep`), since the first write of that kind takes the kernel some 20 ms, in which the worker's Python
starts.

With cgroup v1 it is a group below this process's own in the hierarchy of `pids`; with v2, below it or
beside it, wherever the controller is handed down and the user may write, as systemd lets users in their
own part of the tree. Elsewhere there is none: RLIMIT_NPROC counts all processes of a user and is no bound
for root.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from typing import Final

from llmc_build.execute import osdep

MAX_PROCESSES: Final = 4096  # of a step, at a time, threads counted; unless the lane says otherwise
_BUSY_S = 0.2  # for which a group may still count processes that have ended


@functools.cache
def place() -> str | None:
    """The folder in which groups are made; None: they can't be."""
    if not osdep.LINUX:
        return None
    try:
        with open("/proc/self/cgroup") as file:
            own = [line.rstrip("\n").split(":", 2) for line in file]
        with open("/proc/self/mountinfo") as file:
            mounts = [line.split(" - ", 1) for line in file]
    except OSError:
        return None
    for before, after in mounts:
        kind, _, options = after.split(" ", 2)
        root, where = before.split(" ")[3:5]
        for _, controllers, path in own:
            if kind == "cgroup" and "pids" in controllers.split(",") and "pids" in options.strip().split(","):
                found = _below(where, root, path)
                if found is not None and os.access(found, os.W_OK):
                    return found
            elif kind == "cgroup2" and not controllers:
                found = _handed_down(_below(where, root, path), where)
                if found is not None:
                    return found
    return None


def _below(where: str, root: str, path: str) -> str | None:
    """Where a group is seen, in a file system that shows those below `root`."""
    if root != "/":
        if path != root and not path.startswith(f"{root}/"):
            return None
        path = path[len(root) :]
    found = f"{where}{path}".rstrip("/")
    return found if os.path.isdir(found) else None


def _handed_down(own: str | None, top: str) -> str | None:
    """Of cgroup v2: the own group or the one above it, if those below have `pids` and one may join them."""
    for folder in () if own is None else (own, os.path.dirname(own)):
        try:
            with open(f"{folder}/cgroup.subtree_control") as file:
                controlled = "pids" in file.read().split()
        except OSError:
            continue
        if controlled and folder.startswith(top) and os.access(f"{folder}/cgroup.procs", os.W_OK):
            return folder
    return None


def make(name: str, limit: int) -> str | None:
    """A group for at most `limit` processes; None where there is none to be had."""
    folder = place()
    if folder is None:
        return None
    path = f"{folder}/{name}"
    try:
        os.mkdir(path)
        with open(f"{path}/pids.max", "w") as file:
            file.write(str(limit))
    except OSError:
        remove(path)
        return None
    return path


def remove(path: str) -> None:
    """Its processes have ended; one that is gone already is no error."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.005)
        else:
            return


class Refusals:
    """How often a group has refused to let another process be made."""

    def __init__(self, path: str | None) -> None:
        self._fd = -1
        if path is not None:
            with contextlib.suppress(OSError):
                self._fd = os.open(f"{path}/pids.events", os.O_RDONLY | os.O_CLOEXEC)

    def count(self) -> int:
        if self._fd < 0:
            return 0
        try:
            words = os.pread(self._fd, 100, 0).split()
        except OSError:
            return 0
        return int(words[words.index(b"max") + 1]) if b"max" in words[:-1] else 0
