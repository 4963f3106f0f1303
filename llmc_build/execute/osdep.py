"""What an operating system offers to keep hold of processes, with the best that macOS allows.

Owns the calls that only Linux has (child subreaper, PDEATHSIG, pidfds, /proc, FICLONE) and what stands in for
them elsewhere.  What they are used for is told in `supervise`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import NamedTuple

LINUX = sys.platform.startswith("linux")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_FICLONE = 0x40049409  # _IOW(0x94, 9, int)
_PS_LIMIT_S = 10


class Process(NamedTuple):
    """One process as the system lists it."""

    pid: int
    parent: int
    group: int
    zombie: bool


def features() -> dict[str, str]:
    """What holds process trees together here, for `llmc doctor`."""
    if not LINUX:
        return {
            "orphans": "found by process group, ancestry and environment (ps)",
            "death of llmc": "seen by the workers when their connection closes",
        }
    adopted = "adopted by their worker (child subreaper)" if _prctl_works() else "found by ancestry (/proc)"
    return {
        "orphans": adopted,
        "death of llmc": "seen by the workers when their connection closes, and PDEATHSIG",
    }


def adopt_orphans(on: bool) -> bool:
    """Makes this process the new parent of orphaned descendants, or ends that.

    Returns whether it did before.  Where the system can't, nothing happens.
    """
    if not LINUX:
        return False
    import ctypes

    before = ctypes.c_int(0)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0) != 0:
        return False
    if bool(before.value) != on:
        prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(on), 0, 0, 0)
    return bool(before.value)


def adopts_orphans() -> bool:
    """Whether orphaned descendants become children of this process."""
    if not LINUX:
        return False
    import ctypes

    found = ctypes.c_int(0)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0) == 0 and bool(found.value)


def has_pidfds() -> bool:
    """Whether the end of a process can be awaited with `poll`, on the descriptor of `os.pidfd_open`."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # another system; an old kernel, or a sandbox that forbids it
        return False
    return True


def signal_on_parent_death(number: int) -> bool:
    """Has the system send a signal when the thread that started this process ends; False: it can't."""
    if not LINUX:
        return False
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return bool(prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0) == 0)


def processes() -> list[Process]:
    """Every process that can be seen."""
    return _from_proc() if LINUX else _from_ps()


def descendants(root: int, listed: Iterable[Process] | None = None) -> list[int]:
    """Children of `root`, their children, and so on; those that ended but weren't reaped are left out."""
    children: dict[int, list[Process]] = {}
    for process in processes() if listed is None else listed:
        children.setdefault(process.parent, []).append(process)
    found: list[int] = []
    seen, stack = {root}, [root]
    while stack:
        for child in children.get(stack.pop(), ()):
            if child.pid not in seen:
                seen.add(child.pid)
                stack.append(child.pid)
                if not child.zombie:
                    found.append(child.pid)
    return found


def with_variable(name: str, value: str, pids: Iterable[int] | None = None) -> list[int]:
    """Processes that were started with `name=value` in their environment, of `pids` or of all."""
    if not LINUX:
        found = _ps_with(f"{name}={value}")
        return found if pids is None else sorted(set(found) & set(pids))
    wanted = f"{name}={value}".encode()
    return [pid for pid in (_proc_pids() if pids is None else pids) if wanted in _environ(pid)]


def send(pid: int, number: int) -> bool:
    """Sends a signal to a process; False where it is gone or belongs to someone else."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send_group(group: int, number: int) -> bool:
    """Sends a signal to a process group; False where nobody is in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def clone_file(source: int, target: int) -> bool:
    """Makes the open file `target` share the blocks of `source` where the file system can."""
    if not LINUX:
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _prctl_works() -> bool:
    before = adopt_orphans(True)
    works = adopts_orphans()
    adopt_orphans(before)
    return works


def _proc_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _from_proc() -> list[Process]:
    found = []
    for pid in _proc_pids():
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                line = file.read()
        except OSError:
            continue  # it ended since
        # pid (name) state ppid pgrp ...; the name may hold spaces and parentheses.
        state, parent, group = line[line.rindex(b")") + 2 :].split(b" ", 3)[:3]
        found.append(Process(pid, int(parent), int(group), state in (b"Z", b"X")))
    return found


def _environ(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _ps(*arguments: str) -> list[str]:
    import subprocess  # slow to import, and not needed on Linux

    try:
        run = subprocess.run(
            ["/bin/ps", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PS_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return run.stdout.decode("utf-8", "replace").splitlines()


def _from_ps() -> list[Process]:
    found = []
    for line in _ps("-A", "-o", "pid=,ppid=,pgid=,state="):
        fields = line.split()
        if len(fields) >= 4 and all(field.isdigit() for field in fields[:3]):
            pid, parent, group = map(int, fields[:3])
            found.append(Process(pid, parent, group, fields[3].startswith("Z")))
    return found


def _ps_with(text: str) -> list[int]:
    found = []
    for line in _ps("-A", "-E", "-ww", "-o", "pid=,command="):
        pid, _, rest = line.strip().partition(" ")
        if pid.isdigit() and text in rest.split(" "):
            found.append(int(pid))
    return found
