"""Ends what steps left running when those who had started it are dead.

Owns the mark by which a step's processes are known, their end when their worker is gone, and the guardian,
which sees to it when llmc itself is gone.  While a worker lives it ends its steps itself: `supervise`.

Theory of operation
-------------------
*The mark.*  A worker has a token: ten hex digits of its build, four of its own.  It stands in two places
that a process hands on to all that it starts: in the environment (LLMC_STEP_TOKEN), which `env -i` clears,
and on Linux in the soft limit RLIMIT_LOCKS, which no kernel has enforced for twenty years, no program sets,
and which anybody may read.  Neither `setsid` nor a double fork nor closed files nor a cleared environment
takes it off.  So whoever looks finds every process of a step, and the descendants of those that have the
mark.

*A worker dies*: llmc looks for the worker's token (`end_marked`).  It must not simply end its own new
children: it may be a library in somebody's program that has others.

*llmc dies*, by SIGKILL too: its workers see their connection close, end their steps and themselves.

*Both die*: the guardian is there, one for each build, started with its first worker.  It is a shell that
reads from a pipe which only llmc writes to, so it sleeps until llmc has said goodbye or is dead.  Then it
becomes a Python that gives living workers a moment to end by themselves, ends all that has the build's
mark, and removes the build's scratch folder.  Its command line names nothing of llmc, so that what kills
llmc by its name does not kill it.

*All die at once*: nobody is left to look.  The build's mark stands in its scratch folder, and the next
build of the workspace ends what has it (`end_forgotten`).

Ending: everything is stopped first, again until nothing new is found, then killed: what forks as fast as it
can would else win the race.  A process is known by its id and the time at which it started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Final

from llmc_build.execute import cage, osdep

TOKEN_VARIABLE: Final = "LLMC_STEP_TOKEN"
MARK_FILE: Final = "mark"  # in a build's scratch folder: its token, and which process is llmc
_KILL_LIMIT_S = 5.0  # after which processes that don't die of SIGKILL are given up and reported
_STOP_ROUNDS = 20  # in which new ones may be found before they are killed all the same
_PATIENCE_S = 5.0  # for workers to end by themselves when llmc is gone; stopped ones never do

_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SWEEP: Final = (
    "import sys; sys.path.append(sys.argv[1]); from llmc_build.execute.sweep import main; main(sys.argv[2:])"
)
# Lines: `PID [FOLDER]`, a worker and the control group it is to be put into, and at last `bye`.
_GUARD: Final = """trap '' HUP INT QUIT TERM PIPE
while read -r word folder; do
  [ "$word" = bye ] && exit 0
  set -- "$@" "$word"
  [ -n "$folder" ] && echo "$word" > "$folder/cgroup.procs" && GUARD_GROUPS="$GUARD_GROUPS$folder:"
done
export GUARD_GROUPS
exec "$GUARD_PYTHON" -I -S -c "$GUARD_CODE" "$GUARD_HOME" "$GUARD_BUILD" "$GUARD_FOLDER" "$@"
"""


def end_marked(token: str, *, known: Iterable[osdep.Process] = ()) -> tuple[int, ...]:
    """Kills the steps that lost their worker: all whose token begins so, with their descendants.

    `known` are processes known to be a step's, for a caller that listed them before.  Those that became
    children of this process are reaped; no other child is touched.  Returns what couldn't be killed.
    """
    ours = set(map(_identity, known))
    deadline, stopped, rounds = time.monotonic() + _KILL_LIMIT_S, set[tuple[int, int]](), 0
    while True:
        listed = osdep.processes()
        living = {_identity(process): process.pid for process in listed if not process.zombie}
        ours.update(_carrying(token, listed))
        found = ours & living.keys()
        new, rounds = found - stopped, rounds + 1
        if new and rounds <= _STOP_ROUNDS:
            for identity in new:
                osdep.send(living[identity], signal.SIGSTOP)
            stopped |= new
            continue
        for identity in found:
            osdep.send(living[identity], signal.SIGKILL)
        _reap(pid for pid, _ in ours)
        if not found or time.monotonic() > deadline:
            return tuple(sorted(living[identity] for identity in found))
        time.sleep(0.002)


def _carrying(token: str, listed: Sequence[osdep.Process]) -> set[tuple[int, int]]:
    """Processes with a token that begins so, and their descendants, but for this one."""
    by_id = {process.pid: process for process in listed if not process.zombie and process.pid != os.getpid()}
    found = {pid for pid in osdep.marked(TOKEN_VARIABLE, token, by_id) if pid in by_id}
    below = [pid for root in found for pid in osdep.descendants(root, listed)]
    return {_identity(by_id[pid]) for pid in found.union(below) if pid in by_id}


def _identity(process: osdep.Process) -> tuple[int, int]:
    return process.pid, process.started


def _reap(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def end_forgotten(folder: str) -> None:
    """Ends what builds left that died with all that was theirs.  `folder` has their scratch folders."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        path = f"{folder}/{name}/{MARK_FILE}"
        with contextlib.suppress(OSError, ValueError):
            with open(path) as file:
                token, pid, started = file.read(100).split(" ")
            if len(token) == BUILD_DIGITS and osdep.started(int(pid)) != int(started):
                end_marked(f"{int(token, 16):0{BUILD_DIGITS}x}")
                os.unlink(path)


# ---------------------------------------------------------------- the guardian

BUILD_DIGITS: Final = 10  # hex digits of a token that are its build's


class Guardian:
    """The process that outlives llmc where that is killed; told of every worker."""

    def __init__(self, scratch: str | None) -> None:
        """`scratch`: the build's folder, which goes when llmc dies; its siblings are other builds'."""
        self.build = os.urandom(BUILD_DIGITS // 2).hex()
        self._scratch = scratch or ""
        self._workers: list[str] = []
        self._pid, self._pipe = 0, -1
        self._count = 0

    def token(self) -> str:
        """That of the next worker."""
        self._count += 1
        return f"{self.build}{self._count & 0xFFFF:04x}"

    def watch(self, worker: int, group: str | None = None) -> None:
        """Told of a worker, which has just been started, and of the control group that it is to be in."""
        self._workers.append(f"{worker} {group or ''}\n")
        if not self._pid:
            if self._scratch:
                self._leave_mark()
            self._start()
        try:
            os.write(self._pipe, self._workers[-1].encode())
        except OSError:  # somebody has killed it
            self._forget()
            self._start()
            with contextlib.suppress(OSError):
                os.write(self._pipe, "".join(self._workers).encode())

    def close(self) -> None:
        """All workers are gone, with all that they started."""
        if self._pid:
            with contextlib.suppress(OSError):
                os.write(self._pipe, b"bye\n")
            osdep.send(self._pid, signal.SIGKILL)
            self._forget()

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._pipe)
        if self._pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
        self._pid, self._pipe = 0, -1

    def _start(self) -> None:
        """Without it (no process to be had, say) the build goes on."""
        environ = {
            "GUARD_PYTHON": sys.executable,
            "GUARD_CODE": _SWEEP,
            "GUARD_HOME": _PACKAGE_PARENT,
            "GUARD_BUILD": self.build,
            "GUARD_FOLDER": self._scratch,
        }
        read, self._pipe = os.pipe()
        try:
            self._pid = _spawn(["/bin/sh", "-c", _GUARD, "guardian"], environ, read)
        except OSError:
            self._pid = 0
        finally:
            os.close(read)

    def _leave_mark(self) -> None:
        with contextlib.suppress(OSError), open(f"{self._scratch}/{MARK_FILE}", "x") as file:
            file.write(f"{self.build} {os.getpid()} {osdep.started(os.getpid())}")


def _spawn(argv: list[str], environ: dict[str, str], stdin: int) -> int:
    nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (1, 2)]
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), *nowhere]
    default = [signal.SIGINT, signal.SIGTERM, signal.SIGPIPE]
    return osdep.spawn(tuple(argv), environ, actions, default)


def main(words: Sequence[str]) -> None:
    """What the guardian does when llmc is gone.  `words`: the build, its scratch folder, its workers' ids."""
    build, scratch, workers = words[0], words[1], set(map(int, words[2:]))
    os.chdir("/")
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        # Workers end their own steps, and better: with a moment of grace.
        if not workers.intersection(osdep.marked(TOKEN_VARIABLE, build, workers)):
            break
        time.sleep(0.05)
    end_marked(build)
    for group in filter(None, os.environ.get("GUARD_GROUPS", "").split(":")):
        cage.remove(group)
    if scratch and os.path.isfile(f"{scratch}/{MARK_FILE}"):
        from llmc_build.execute.sandbox import remove_tree

        remove_tree(scratch)
