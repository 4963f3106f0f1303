"""One worker process as its parent sees it: started, spoken to, and buried with all that it started.

Owns the command line and environment of workers, and their end.  Which tasks they get is `pool`.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from llmc_build.execute import cage, osdep
from llmc_build.execute.channel import Channel, ChannelClosed
from llmc_build.execute.messages import BEGUN, shortened, signal_name
from llmc_build.execute.protocol import Lane, Status, Task
from llmc_build.execute.sandbox import home_path, remove_tree
from llmc_build.execute.supervise import GRACE_S
from llmc_build.execute.sweep import end_marked
from llmc_build.execute.worker import BOOTSTRAP
from llmc_build.model import Json

BACKSTOP_S: Final = 5.0  # beyond a task's time and grace, before a shell worker counts as stuck
_LINGER_S = 2.0  # for a worker whose connection is closed to be gone
_TAIL_BYTES = 4096
_TAIL_LINES = 12

# What Python and the dynamic linker may need.  A step's environment is exact and comes with its request.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Flight:
    """A task that was sent to a worker."""

    __slots__ = ("begun", "deadline", "ending", "heard", "reason", "sent", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sent = time.monotonic()
        self.deadline = float("inf")  # when it is told to end, and when its worker is killed after that
        self.ending: Status | None = None  # what it was told to end as
        self.reason = ""
        self.begun = False  # as far as it is known
        self.heard = False  # whether the worker has told of it


class _Started:
    """A process that waits to be told which lane it serves."""

    def __init__(self, kind: str, environ: Mapping[str, str], scratch: Path | None) -> None:
        """Raises OSError."""
        self.errors = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by whoever buries it
        page = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed below
        page.write(BEGUN.pack(-1))
        page.flush()
        self.page = mmap.mmap(page.fileno(), BEGUN.size)
        self.page_fd = page.fileno()  # there
        self.channel, theirs = Channel.pair()
        try:
            self.process = subprocess.Popen(
                _command_line(kind, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=self.errors,
                stderr=self.errors,
                pass_fds=(theirs.fileno(), self.page_fd),
                env=_environment(kind, environ),
                start_new_session=True,  # the terminal's signals go to llmc alone
            )
        except OSError:
            self.channel.close()
            self.errors.close()
            raise
        finally:
            theirs.close()
            page.close()


class Spare:
    """A worker that was started before anybody knows for what, and makes ready what it is likely to need."""

    def __init__(
        self, kind: str, environ: Mapping[str, str], module: str, config: Mapping[str, Json]
    ) -> None:
        """`config`: what the module's `prepare` gets.  Raises OSError."""
        self._kind = kind
        self._started: _Started | None = _Started(kind, environ, None)
        with contextlib.suppress(ChannelClosed):  # its end is noticed by whoever takes it
            self._started.channel.post({"op": "prepare", "module": module, "config": dict(config)})

    def taken(self, kind: str) -> _Started | None:
        """The worker for a lane of some kind; None where it is for another, is gone, or has ended."""
        if kind != self._kind or not self.is_there:
            return None
        started, self._started = self._started, None
        return started

    @property
    def is_there(self) -> bool:
        """Whether nobody took it, and it lives."""
        return self._started is not None and self._started.process.poll() is None

    def close(self) -> None:
        """Ends it, where nobody took it."""
        started, self._started = self._started, None
        if started is not None:
            started.process.kill()
            started.process.wait()
            started.channel.close()
            started.errors.close()
            started.page.close()


class WorkerProcess:
    """A running worker of a lane."""

    def __init__(
        self,
        lane: Lane,
        runner: str,
        config: Mapping[str, Json],
        *,
        environ: Mapping[str, str],
        scratch: Path | None,
        token: str,
        spare: Spare | None = None,
    ) -> None:
        """Starts it, unless it is the spare one; its steps are known by the token.  Raises OSError."""
        self.lane = lane
        limits = config.get("limits")
        most = limits.get("processes") if isinstance(limits, dict) else None
        limit = most if isinstance(most, int) else cage.MAX_PROCESSES
        self.group = cage.make(f"llmc-{token}", limit) if lane.kind == "shell" else None
        self.flights: dict[int, Flight] = {}  # those of a shell worker in the order in which it runs them
        self.capacity: int | None = None  # None until it says that it is ready
        self.defaults: Mapping[str, Json] = {}  # of its replies
        self.tells = False  # whether it tells of each task when it begins it, which may be later
        self.watched = False  # whether the pool waits until it takes more
        self.idle_since = time.monotonic()  # when its last task ended
        # Once it is buried: the task that a model worker did something for alone.
        self.named: int | None = None
        self.holding = False  # it gave tasks back: the one that it runs takes long
        self._token = token
        self._scratches: set[str] = set()
        self._last: Mapping[str, Json] = {}  # the last request that was sent
        try:
            started = spare.taken(lane.kind) if spare is not None else None
            started = started or _Started(lane.kind, environ, scratch)
        except OSError:
            if self.group is not None:
                cage.remove(self.group)
            raise
        self.channel, self._process, self._errors = started.channel, started.process, started.errors
        self._page = started.page
        with contextlib.suppress(ChannelClosed):  # its end is noticed by reading
            self.channel.post(
                {
                    "op": "start",
                    "kind": lane.kind,
                    "runner": runner,
                    "config": {**config, "token": self._token, "begun": started.page_fd, "group": self.group},
                    "parent": os.getpid(),
                    # The signal comes when the thread that started the worker ends.
                    "watch": threading.current_thread() is threading.main_thread(),
                }
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, task: Task) -> Flight:
        """Gives it a task, with the next `flush` of its channel."""
        shell = self.lane.kind == "shell"
        request, rest = shortened(task.request, self._last) if shell else (task.request, False)
        message: dict[str, Json] = {"op": "run", "id": task.id, "request": dict(request)}
        if rest:
            message["rest"] = True
        if task.timeout_s is not None or not shell:
            message["timeout_s"] = task.timeout_s
        self.channel.hold(message)
        if shell:
            self._last = task.request
            scratch = request.get("scratch")
            if isinstance(scratch, str):
                self._scratches.add(scratch)
        flight = self.flights[task.id] = Flight(task)
        return flight

    def start_clocks(self) -> list[Flight]:
        """Tasks whose time begins now, if they have one.

        The time that a worker takes to get ready counts for none.
        """
        if self.capacity is None or self.lane.kind == "http":
            return []  # the http lane keeps its own time, which doesn't run while a request stands in line
        found = []
        for flight in self.running:
            if self.tells and not flight.heard:
                continue  # it stands in line
            limit = flight.task.timeout_s
            if limit is not None and flight.ending is None and flight.deadline == float("inf"):
                # A shell worker keeps the time itself.
                more = GRACE_S + BACKSTOP_S if self.lane.kind == "shell" else 0.0
                flight.deadline = time.monotonic() + limit + more
                found.append(flight)
        return found

    @property
    def running(self) -> Iterable[Flight]:
        """Its tasks but for those that wait behind another: a shell worker's first, all of another's."""
        flights = self.flights.values()
        return itertools.islice(flights, 1) if self.lane.kind == "shell" else flights

    @property
    def begun(self) -> Flight | None:
        """The task that it began last, if it has not answered that: the one to blame if it dies.

        The first of its tasks where it has begun none yet.
        """
        (number,) = BEGUN.unpack_from(self._page)
        return self.flights.get(number) if number != -1 else next(iter(self.flights.values()), None)

    # ------------------------------------------------------------ its end

    def hang_up(self) -> None:
        """Closes the connection, which tells it to end what runs, and itself."""
        self.channel.close()

    def ended_within(self, seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    def bury(self, *, at_once: bool = True) -> tuple[str, str]:
        """Makes sure that nothing of it is left; (how it died, the end of what it wrote to stderr).

        A living worker is killed, after a short time if not `at_once`.
        """
        known: list[osdep.Process] = []
        if not self.ended_within(0.0 if at_once else _LINGER_S):
            known = self._kill()
        code = self._process.wait()
        if self.lane.kind == "shell" and code != 0:  # else it has ended its steps itself
            end_marked(self._token, known=known)
            for scratch in self._scratches:
                remove_tree(home_path(scratch, self._process.pid))
        if self.group is not None:
            cage.remove(self.group)
        tail = self._tail()
        self._errors.close()
        if self.lane.kind == "model":
            self.named = BEGUN.unpack_from(self._page)[0]
        self._page.close()
        return f"the worker died: {_how(code)}", tail

    def _kill(self) -> list[osdep.Process]:
        """Kills it with its descendants; returns those, which may live a moment longer."""
        pid = self._process.pid
        osdep.send(pid, signal.SIGSTOP)  # lest it start something while its descendants are listed
        listed = osdep.processes() if self.lane.kind == "shell" else []
        below = set(osdep.descendants(pid, listed))
        for descendant in below:
            osdep.send(descendant, signal.SIGKILL)
        osdep.send(pid, signal.SIGKILL)
        return [process for process in listed if process.pid in below]

    def _tail(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _TAIL_BYTES))
        lines = self._errors.read().decode("utf-8", "replace").rstrip().splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


def _command_line(kind: str, fd: int) -> list[str]:
    if kind == "shell":  # needs the standard library only, and starts faster without the rest
        return [sys.executable, "-I", "-S", "-c", BOOTSTRAP, str(fd), _PACKAGE_PARENT]
    found = [os.path.abspath(path) for path in sys.path if path]
    return [sys.executable, "-I", "-c", BOOTSTRAP, str(fd), *found, _PACKAGE_PARENT]


def _environment(kind: str, environ: Mapping[str, str]) -> dict[str, str]:
    if kind == "shell":
        return {name: environ[name] for name in _KEPT if name in environ}
    return dict(environ)


def _how(code: int) -> str:
    return f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"
