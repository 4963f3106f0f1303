"""What an operating system offers to keep hold of processes, with the best that macOS allows.

Owns the calls that only Linux has (child subreaper, PDEATHSIG, pidfds, /proc, FICLONE, the limit that serves
as a mark) and what stands in for them elsewhere.  What they are used for is told in `supervise` and `sweep`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

LINUX = sys.platform.startswith("linux")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_FICLONE = 0x40049409  # _IOW(0x94, 9, int)
_PUNCH = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
_PS_LIMIT_S = 10
# RLIMIT_LOCKS, a limit that Linux has kept and not enforced since 2.4.25: a number that a process hands on to
# all that it starts, whatever they do to their environment, files, session and parents.  Anybody may read it.
_MARK_LIMIT = 10
_MARK_LINE = b"\nMax file locks"
_MARK_BIT = 1 << 60  # tells a mark from a limit that somebody set; the rest is the token
TOKEN_DIGITS = 14  # hex digits of a token at most, so that it fits into a mark


class Process(NamedTuple):
    """One process as the system lists it."""

    pid: int
    parent: int
    group: int
    zombie: bool
    started: int = 0  # in the clock ticks of the system: with it, `pid` means one process only; 0: not known


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


def punch(fd: int, start: int, end: int) -> bool:
    """Gives the blocks of a part of an open file back, which reads as zeros from then on; False: it can't."""
    if not LINUX:
        return False
    import ctypes

    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if fallocate is None:
        return False
    offset, length = ctypes.c_int64(start), ctypes.c_int64(end - start)
    return bool(fallocate(ctypes.c_int(fd), ctypes.c_int(_PUNCH), offset, length) == 0)


def processes() -> list[Process]:
    """Every process that can be seen."""
    return _from_proc() if LINUX else _from_ps()


def started(pid: int) -> int:
    """When a process started, as in `Process`; -1: there is none.  Not on Linux: 0 for all that live."""
    if not LINUX:
        return 0 if send(pid, 0) else -1
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return _stat(pid, file.read()).started
    except OSError:
        return -1


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


def mark(token: str) -> bool:
    """Marks this process and all that it will start, with 14 hex digits at most; False: it can't."""
    if not LINUX:
        return False
    import resource

    number = _MARK_BIT | int(token or "0", 16)
    try:
        hard = resource.getrlimit(_MARK_LIMIT)[1]
        resource.setrlimit(_MARK_LIMIT, (number, hard))
    except (OSError, ValueError):  # somebody has lowered what may be set
        return False
    return True


def can_mark() -> bool:
    """Whether `mark` works here."""
    if not LINUX:
        return False
    import resource

    hard = resource.getrlimit(_MARK_LIMIT)[1]
    return hard == resource.RLIM_INFINITY or hard >= 2 * _MARK_BIT


def marked(variable: str, token: str, pids: Iterable[int] | None = None) -> list[int]:
    """Processes with a token that begins so, of `pids` or of all: by `mark`, or in that variable."""
    if not LINUX:
        found = _ps_with(f"{variable}={token}")
        return found if pids is None else sorted(set(found) & set(pids))
    wanted = f"{variable}={token}".encode()
    return [
        pid
        for pid in (_proc_pids() if pids is None else pids)
        if _mark_of(pid).startswith(token) or any(entry.startswith(wanted) for entry in _environ(pid))
    ]


def _mark_of(pid: int) -> str:
    """The token that a process was marked with; empty: none."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            text = file.read()
    except OSError:
        return ""
    at = text.find(_MARK_LINE)
    soft = text[at + len(_MARK_LINE) :].split(None, 1)[0] if at >= 0 else b""
    number = int(soft) if soft.isdigit() else 0
    return f"{number ^ _MARK_BIT:0{TOKEN_DIGITS}x}" if number & _MARK_BIT and number < 2 * _MARK_BIT else ""


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
        found.append(_stat(pid, line))
    return found


def _stat(pid: int, line: bytes) -> Process:
    # pid (name) state ppid pgrp ...; the name may hold spaces and parentheses.
    fields = line[line.rindex(b")") + 2 :].split(b" ", 20)
    return Process(pid, int(fields[1]), int(fields[2]), fields[0] in (b"Z", b"X"), int(fields[19]))


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
        if pid.isdigit() and any(word.startswith(text) for word in rest.split(" ")):
            found.append(int(pid))
    return found


def spawn(
    argv: tuple[str | bytes, ...],
    environ: Mapping[str, str] | Mapping[bytes, bytes],
    actions: Sequence[tuple[Any, ...]],
    defaulted: Iterable[int],
) -> int:
    """Starts a process in a session of its own, or at least a group; its id.  Raises OSError.

    `actions`: on files, as for `os.posix_spawn`; `defaulted`: signals that it does not ignore.
    """
    try:
        return os.posix_spawn(
            argv[0], argv, environ, file_actions=actions, setsid=True, setsigmask=(), setsigdef=defaulted
        )
    except NotImplementedError:  # a C library without POSIX_SPAWN_SETSID
        return os.posix_spawn(
            argv[0], argv, environ, file_actions=actions, setpgroup=0, setsigmask=(), setsigdef=defaulted
        )
