"""Runs one script and keeps hold of every process that comes of it.

Owns the life of a step's processes: how they are started, awaited and ended.  What the script is, where
its output goes and what its end means is `shellrun`.

Theory of operation
-------------------
A *step* is a script's process and all its descendants.  The promise is that none of them outlives the
step, however the step ends: by itself, by a timeout, by cancellation, by the death of its worker or of
llmc.  Killing the process group is not enough: a child may call `setsid`, or fork twice and lose its
parent.  Three things together hold them:

1. *Adoption.*  A shell worker is a child subreaper: a descendant whose parent dies becomes a child of
   the worker and not of init.  So every living descendant has a living chain of parents up to the worker,
   and a worker without children (`waitpid` says ECHILD) has no descendants.  That is the check after
   every step, and it costs one system call.  While there are children, the tree is read from the process
   table, each process is sent SIGKILL, the dead are reaped, and again, until ECHILD.  A process that
   forks while it is listed is found by the next round; one that was killed can't fork.
   The worker runs one step at a time and starts no other processes, so all its children are the step's.

2. *Connection.*  A worker whose connection to llmc closes ends its step and then itself; PDEATHSIG
   (SIGTERM) says the same where the system has it.  llmc itself may die by SIGKILL.

3. *Mark.*  A worker that is killed ends nothing.  What it leaves is known by a mark that every process of a
   step inherits, and llmc ends it; where llmc was killed too, a guardian does.  That is `sweep`.

Signals are sent by process id.  The ids of a worker's own children can't be reused before it reaps them;
those of deeper descendants could be in the microseconds between listing and signalling, as with every
tool that isn't a container.

Without subreapers (macOS) the members of a step are its process group, the descendants by ancestry, and,
when the step is ended by force, whatever carries the mark; a child that left its group, lost its parent
and outlived a script that ended well is not found.

A step that ends by itself and leaves processes behind (`server &`) gives them `LEFTOVER_S` to end alone,
as `exec > >(tee log)` needs; then they are asked (SIGTERM), then killed.

Waiting is `poll` on the script's process (a pidfd), on the connection to llmc, and on the wake-up pipe that
SIGTERM writes to.  Where there are no pidfds, and while other processes of the step are awaited, SIGCHLD
writes to that pipe too; otherwise it is not handled, because a handler costs a short step more than all its
waiting does.  Output goes to files, so nothing is ever read from a pipe that a descendant could hold open.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Final, NamedTuple, Self

from llmc_build.execute import osdep
from llmc_build.execute.sweep import TOKEN_VARIABLE

GRACE_S: Final = 2.0  # between SIGTERM and SIGKILL
LEFTOVER_S: Final = 0.5  # for what a script left behind: to end alone, and again after SIGTERM
_KILL_LIMIT_S = 5.0  # after which processes that don't die of SIGKILL are given up and reported
_TICK_S = 0.05  # between two calls of `check`, in which some 100 MB can be written

# All of them, although Python ignores only some: for the others the C library would first ask the system
# whether they are ignored, in every child.
_DEFAULTED: Final = frozenset(signal.valid_signals())


class Command(NamedTuple):
    """One process to start."""

    argv: tuple[str | bytes, ...]  # the first is the path of the executable
    env: Mapping[bytes, bytes]
    cwd: str | None  # None: where this process is
    stdout: int  # file descriptors
    stderr: int
    holds: bool = False  # what it starts dies with it: its child is asked to end before it is


class Ending(NamedTuple):
    """How a step ended.  Nothing of it runs any more, but for `survivors`."""

    exit_code: int | None  # None where a signal ended the script
    signal: int | None
    stopped: str | None  # why it was made to end; None: it ended by itself
    left: int  # processes that it left behind and that had to be ended
    survivors: tuple[int, ...]  # processes that couldn't be killed


FINE: Final = Ending(0, None, None, 0, ())  # by itself, and well


class Supervisor:
    """Runs steps, one at a time, in a process that has no other children.

    They inherit its standard input, which must be empty, and no other open file.  Only for a process's main
    thread, since it handles signals.
    """

    def __init__(self, *, token: str = "", interrupt_fd: int | None = None) -> None:
        """`interrupt_fd`: readable when `interrupt` of `run` may have something to say."""
        self._token = token
        self._adopts = False
        self._pidfds = False
        self._wake_read, self._wake_write = os.pipe()
        self._children = select.poll()
        self._children.register(self._wake_read, select.POLLIN)
        self._anything = select.poll()
        self._anything.register(self._wake_read, select.POLLIN)
        if interrupt_fd is not None:
            self._anything.register(interrupt_fd, select.POLLIN)
        self._statuses: dict[int, int] = {}

    def __enter__(self) -> Self:
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._pidfds = osdep.has_pidfds()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if self._pidfds else _ignore)
        osdep.adopt_orphans(True)
        osdep.mark(self._token)
        self._adopts = osdep.adopts_orphans()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._wake_read)
        os.close(self._wake_write)

    @property
    def adopts(self) -> bool:
        """Whether no process of a step can get out of sight."""
        return self._adopts

    def run(
        self,
        command: Command,
        *,
        timeout_s: float | None = None,
        interrupt: Callable[[], str | None] = lambda: None,
        check: Callable[[], str | None] = lambda: None,
        grace_s: Callable[[str], float] = lambda reason: GRACE_S,
        looks: Sequence[float] = (),
    ) -> Ending:
        """Runs a command to its end and ends all that it started.

        `interrupt` is asked after every event, at the moments `looks` (seconds after the start, ascending)
        and a few times a second, as is `check`; a reason that one of them gives ends the step and is handed
        back as `stopped`, as "timeout" is when the time is over.  Raises OSError where the process can't be
        started.
        """
        if command.cwd is not None:
            os.chdir(command.cwd)
        pid = self._spawn(command)
        self._statuses.clear()
        stopped, alive = self._await_exit(pid, timeout_s, interrupt, check, looks)
        left = 0
        survivors: tuple[int, ...] = ()
        if stopped is not None:
            survivors = self._end(pid, grace_s(stopped), holds=command.holds)
        elif alive:
            left, survivors = self._end_leftovers(pid)
        status = self._statuses.get(pid)
        if status == 0 and stopped is None and not left and not survivors:
            return FINE
        code = None if status is None else os.waitstatus_to_exitcode(status)
        return Ending(
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            stopped=stopped,
            left=left,
            survivors=survivors,
        )

    def _spawn(self, command: Command) -> int:
        actions = [
            (os.POSIX_SPAWN_DUP2, command.stdout, 1),
            (os.POSIX_SPAWN_DUP2, command.stderr, 2),
        ]
        return osdep.spawn(command.argv, command.env, actions, _DEFAULTED)

    # ------------------------------------------------------------ waiting

    def _await_exit(
        self,
        pid: int,
        timeout_s: float | None,
        interrupt: Callable[[], str | None],
        check: Callable[[], str | None],
        looks: Sequence[float],
    ) -> tuple[str | None, bool]:
        """Waits until the script's own process ended (None) or has to end (why); whether anything is left."""
        process = os.pidfd_open(pid) if self._pidfds else self._wake_read
        poll = self._anything
        if process != self._wake_read:
            poll.register(process, select.POLLIN)
        try:
            started = now = time.monotonic()
            deadline = float("inf") if timeout_s is None else started + timeout_s
            later = iter(looks)
            next_look = started + next(later, _TICK_S)
            while True:
                until = next_look if next_look < deadline else deadline
                events = poll.poll(max(0.0, until - now) * 1000)
                if events:
                    alive = self._alive(pid)
                    if pid in self._statuses:
                        return None, alive
                    self._drain()
                reason, now = interrupt(), time.monotonic()
                if now >= next_look:
                    reason = reason or check()
                    next_look = max(now, started + next(later, now - started + _TICK_S))
                if reason is None and now >= deadline:
                    reason = "timeout"
                if reason is not None:
                    return reason, True
        finally:
            if process != self._wake_read:
                poll.unregister(process)
                os.close(process)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _alive(self, group: int) -> bool:
        """Reaps what has died; whether anything of the step is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return not self._adopts and osdep.send_group(group, 0)
            if pid == 0:
                return True
            self._statuses[pid] = status

    def _gone_within(self, group: int, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        with self._hearing():
            while self._alive(group):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                # Without adoption, the death of what is no child wakes nobody.
                self._children.poll((left if self._adopts else min(left, 0.02)) * 1000)
                self._drain()
        return True

    @contextlib.contextmanager
    def _hearing(self) -> Iterator[None]:
        """Here the death of a child is written to the wake-up pipe, which takes a handler."""
        before = signal.signal(signal.SIGCHLD, _ignore)
        try:
            yield
        finally:
            signal.signal(signal.SIGCHLD, before)

    # ------------------------------------------------------------ ending

    def _end_leftovers(self, group: int) -> tuple[int, tuple[int, ...]]:
        if self._gone_within(group, LEFTOVER_S):
            return 0, ()
        left = len(self._members(group))
        return left, self._end(group, LEFTOVER_S)

    def _end(self, group: int, grace_s: float, *, holds: bool = False) -> tuple[int, ...]:
        """Asks all of the step to end, kills what doesn't; returns what can't be killed.

        `holds`: not its first process and the one below that, which hold the others.
        """
        if not self._alive(group):
            return ()
        members = self._members(group)
        spared = {p.pid for p in members if p.pid == group or p.parent == group} if holds else set()
        for process in members:
            if process.pid not in spared and (holds or process.group != group):
                osdep.send(process.pid, signal.SIGTERM)
        if not holds:
            osdep.send_group(group, signal.SIGTERM)
        osdep.send_group(group, signal.SIGCONT)  # a stopped process would sleep through the grace
        if not self._gone_within(group, grace_s):
            self._kill(group)
        if not self._adopts and self._token:
            for pid in osdep.marked(TOKEN_VARIABLE, self._token):
                osdep.send(pid, signal.SIGKILL)
        return tuple(process.pid for process in self._members(group)) if self._alive(group) else ()

    def _kill(self, group: int) -> None:
        """First all are stopped: what forks as fast as it can would win against being killed one by one."""
        deadline, stopped = time.monotonic() + _KILL_LIMIT_S, set[int]()
        while time.monotonic() < deadline:
            members = {process.pid for process in self._members(group)}
            new = members - stopped
            for pid in new:
                osdep.send(pid, signal.SIGSTOP)
            stopped |= new
            if new and time.monotonic() < deadline - _KILL_LIMIT_S / 2:
                continue
            for pid in members:
                osdep.send(pid, signal.SIGKILL)
            stopped.clear()
            if self._gone_within(group, 0.05):
                return

    def _members(self, group: int) -> list[osdep.Process]:
        listed = osdep.processes()
        tree = set(osdep.descendants(os.getpid(), listed))
        return [p for p in listed if not p.zombie and (p.pid in tree or p.group == group)]


def _ignore(number: int, frame: FrameType | None) -> None:
    """Nothing: what was signalled is found by asking."""
