"""The process pool: tasks to workers, their answers back, workers replaced when they die.

Owns which worker a task goes to, capacities, deadlines and the life of worker processes as seen from
llmc; one process is `process`.  What a request means is its runner's business, and which task is to be
submitted when is the plan's.

A lane of kind "shell" has up to `jobs` workers, each of which runs one task; a lane of another kind has one
worker, which answers several tasks at a time.  Workers start when first needed and stay.  One that dies
fails the tasks it had, and nothing else; the next task starts a new one.  Where the pool itself has to kill
a worker because one of its tasks ignores its end, the worker's other tasks run again in a new one.

A task's time is kept by the shell worker itself, and by the pool for other lanes.  Behind both stands the
pool: what doesn't answer in time after it was told to end loses its worker.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from llmc_build.execute import osdep
from llmc_build.execute.channel import ChannelClosed, Message
from llmc_build.execute.process import Flight, WorkerProcess
from llmc_build.execute.protocol import Done, Executor, Lane, Progress, Status, Task
from llmc_build.execute.supervise import GRACE_S
from llmc_build.execute.worker import RUNNERS
from llmc_build.model import Json

HTTP_CAPACITY: Final = 64
OBEY_S: Final = 5.0  # for a runner to obey a cancel, beyond what it grants its processes itself
_CLOSE_S = 3.0  # for workers to end by themselves
_LOOK_S = 0.2  # the longest sleep where no signal can wake the pool


@dataclass(slots=True)
class _LaneState:
    lane: Lane
    workers: list[WorkerProcess] = field(default_factory=list)
    queue: deque[Task] = field(default_factory=deque)


class Pool(Executor):
    """Runs tasks in worker processes.  Used by one thread, which should live as long as the pool."""

    def __init__(
        self,
        jobs: int,
        cas: Path,
        *,
        scratch: Path | None = None,
        environ: Mapping[str, str] | None = None,
        runners: Mapping[str, str] = RUNNERS,
    ) -> None:
        """`jobs`: shell tasks at a time; `cas`: the store's root, given to lanes that don't name one.

        `scratch`: a folder for what workers write to stderr (else the system's); `environ`: what workers
        get their environment from (else this process's); `runners`: kind of lane -> module that serves it.
        """
        self._jobs = max(1, jobs)
        self._cas = cas
        self._scratch = scratch
        self._environ = dict(os.environ if environ is None else environ)
        self._runners = runners
        self._lanes: dict[Lane, _LaneState] = {}
        self._news: deque[Done | Progress] = deque()
        self._open: set[int] = set()  # tasks whose end was not yet returned
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._waking = threading.RLock()  # a signal may arrive in the thread that holds it
        self._awake = True  # the pipe is open
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._woken = self._take_wakeup()
        self._adopted_before = osdep.adopt_orphans(True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kill=error is not None)

    # ------------------------------------------------------------ the interface

    @property
    def busy(self) -> int:
        return len(self._open)

    def room(self, lane: Lane) -> int:
        state = self._lanes.get(lane)
        if state is None:
            return self._slots(lane, ())
        taken = len(state.queue) + sum(len(worker.flights) for worker in state.workers)
        return max(0, self._slots(lane, state.workers) - taken)

    def submit(self, task: Task) -> None:
        if self._closed:
            raise ValueError("the pool is closed")
        if task.id in self._open:
            raise ValueError(f"task {task.id} is already there")
        self._open.add(task.id)
        state = self._lanes.get(task.lane)
        if state is None:
            state = self._lanes[task.lane] = _LaneState(task.lane)
        state.queue.append(task)
        self._feed(state)

    def wait(self, timeout_s: float | None) -> list[Done | Progress]:
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._enforce()
            if self._news or not self._open:
                return self._take_news()
            until = min(deadline, self._next_deadline())
            seconds = max(0.0, until - time.monotonic())
            if not self._woken:
                seconds = min(seconds, _LOOK_S)
            events = self._selector.select(None if seconds == float("inf") else seconds)
            for key, mask in events:
                if key.data is None:
                    self._drain_wakeup()
                else:
                    self._service(key.data, mask)
            woken = any(key.data is None for key, _ in events) or not (events or self._woken)
            if self._news:
                return self._take_news()
            if woken or time.monotonic() >= deadline:
                return []

    def wake(self) -> None:
        """Makes a running `wait` return.  May be called from a signal handler or another thread.

        It may also come too late: once the pool is closed, the number of its pipe may be that of a file.
        """
        with self._waking, contextlib.suppress(BlockingIOError):
            if self._awake:
                os.write(self._wake_write, b"\0")

    def cancel(self, task_id: int, reason: str) -> None:
        for state in self._lanes.values():
            for task in state.queue:
                if task.id == task_id:
                    state.queue.remove(task)
                    self._news.append(Done(id=task_id, status=Status.CANCELLED, error=reason))
                    return
            for worker in state.workers:
                flight = worker.flights.get(task_id)
                if flight is not None:
                    self._tell_to_end(worker, flight, Status.CANCELLED, reason)
                    return

    def close(self, *, kill: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        workers = [worker for state in self._lanes.values() for worker in state.workers]
        for worker in workers:
            # A signal's exception may have come between any two statements before.
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(worker.channel)
            worker.hang_up()
        if not kill:
            deadline = time.monotonic() + _CLOSE_S
            for worker in workers:
                worker.ended_within(max(0.0, deadline - time.monotonic()))
        for worker in workers:
            worker.bury()
        self._lanes.clear()
        self._open.clear()
        self._news.clear()
        osdep.adopt_orphans(self._adopted_before)
        self._give_wakeup_back()
        self._selector.close()
        with self._waking:
            self._awake = False
            os.close(self._wake_read)
            os.close(self._wake_write)

    # ------------------------------------------------------------ giving tasks out

    def _slots(self, lane: Lane, workers: Iterable[WorkerProcess]) -> int:
        """How many tasks a lane runs at a time."""
        if lane.kind == "shell":
            return self._jobs
        for worker in workers:
            if worker.capacity is not None:
                return worker.capacity
        if lane.kind == "http":
            return HTTP_CAPACITY
        told = lane.config.get("parallel")
        return max(1, told) if isinstance(told, int) else 1

    def _feed(self, state: _LaneState) -> None:
        """Sends queued tasks to workers that have room, starting workers where there may be more."""
        while state.queue:
            worker = self._with_room(state)
            if worker is None:
                return
            task = state.queue.popleft()
            try:
                worker.send(task)
            except ChannelClosed:  # it died unnoticed: the task was not begun
                state.queue.appendleft(task)
                self._lost(worker)
            else:
                self._watch_writes(worker)

    def _with_room(self, state: _LaneState) -> WorkerProcess | None:
        each = 1 if state.lane.kind == "shell" else self._slots(state.lane, state.workers)
        for worker in state.workers:
            if len(worker.flights) < each:
                return worker
        if len(state.workers) >= (self._jobs if state.lane.kind == "shell" else 1):
            return None
        return self._start(state)

    def _start(self, state: _LaneState) -> WorkerProcess | None:
        config: dict[str, Json] = {"cas": str(self._cas), **state.lane.config}
        try:
            worker = WorkerProcess(
                state.lane,
                self._runners[state.lane.kind],
                config,
                environ=self._environ,
                scratch=self._scratch,
            )
        except OSError as error:
            for task in state.queue:
                text = f"a worker could not be started: {error.strerror or error}"
                self._news.append(Done(id=task.id, status=Status.CRASHED, error=text))
            state.queue.clear()
            return None
        state.workers.append(worker)
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        return worker

    def _watch_writes(self, worker: WorkerProcess) -> None:
        """Asks to be told when a worker takes more, only while there is more."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.channel.unsent else 0)
        if self._selector.get_key(worker.channel).events != events:
            self._selector.modify(worker.channel, events, worker)

    # ------------------------------------------------------------ taking answers

    def _service(self, worker: WorkerProcess, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                worker.channel.flush()
                self._watch_writes(worker)
            messages = worker.channel.drain()
        except ChannelClosed:
            self._lost(worker)
            return
        for message in messages:
            try:
                self._handle(worker, message)
            except (KeyError, TypeError, ValueError):  # it doesn't speak the protocol any more
                self._lost(worker, error="the worker died: it sent what is no answer")
                return
        self._feed(self._lanes[worker.lane])

    def _handle(self, worker: WorkerProcess, message: Message) -> None:
        operation = message["op"]
        if operation == "done":
            flight = worker.flights.pop(message["id"])
            self._news.append(_ended(flight, message))
        elif operation == "progress":
            if message["id"] in worker.flights:
                self._news.append(Progress(id=message["id"], stats=message["stats"]))
        elif operation == "ready":
            worker.is_ready(int(message["capacity"]))
        else:
            raise ValueError(operation)

    def _lost(
        self, worker: WorkerProcess, *, culprit: Flight | None = None, error: str | None = None
    ) -> None:
        """A worker is gone, or has to go: its tasks fail, or run again where only `culprit` is to blame."""
        state = self._lanes[worker.lane]
        state.workers.remove(worker)
        self._selector.unregister(worker.channel)
        worker.hang_up()
        how, tail = worker.bury(at_once=culprit is not None)
        again = []
        for flight in worker.flights.values():
            if flight is culprit or flight.ending is not None:
                self._news.append(_forced(flight))
            elif culprit is not None:
                again.append(flight.task)
            else:
                reply: dict[str, Json] = {"stderr_tail": tail} if tail else {}
                wall_s = time.monotonic() - flight.sent
                self._news.append(
                    Done(
                        id=flight.task.id,
                        status=Status.CRASHED,
                        reply=reply,
                        error=error or how,
                        wall_s=wall_s,
                    )
                )
        state.queue.extendleft(reversed(again))
        self._feed(state)

    def _take_news(self) -> list[Done | Progress]:
        found = list(self._news)
        self._news.clear()
        self._open.difference_update(item.id for item in found if isinstance(item, Done))
        return found

    # ------------------------------------------------------------ deadlines

    def _flights(self) -> list[tuple[WorkerProcess, Flight]]:
        return [
            (worker, flight)
            for state in self._lanes.values()
            for worker in state.workers
            for flight in worker.flights.values()
        ]

    def _next_deadline(self) -> float:
        return min((flight.deadline for _, flight in self._flights()), default=float("inf"))

    def _enforce(self) -> None:
        """Tells tasks whose time is over to end, and kills the workers of those that don't."""
        now = time.monotonic()
        for worker, flight in self._flights():
            if now < flight.deadline or flight.task.id not in worker.flights:
                continue
            if flight.ending is not None:
                self._lost(worker, culprit=flight)
                return self._enforce()
            self._tell_to_end(worker, flight, Status.TIMEOUT, _timed_out(flight.task))
        return None

    def _tell_to_end(self, worker: WorkerProcess, flight: Flight, status: Status, reason: str) -> None:
        if flight.ending is not None:
            return
        flight.ending, flight.reason = status, reason
        flight.deadline = time.monotonic() + OBEY_S + (GRACE_S if worker.lane.kind == "shell" else 0.0)
        with contextlib.suppress(ChannelClosed):  # its end is noticed by reading
            worker.channel.post({"op": "cancel", "id": flight.task.id, "reason": reason})
            self._watch_writes(worker)

    # ------------------------------------------------------------ signals

    def _take_wakeup(self) -> bool:
        """Lets signals end a sleep; False where the program that uses this library needs them itself."""
        if threading.current_thread() is not threading.main_thread():
            return False
        before = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
        return before == -1

    def _give_wakeup_back(self) -> None:
        if self._woken and threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)

    def _drain_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)


def _ended(flight: Flight, message: Mapping[str, Any]) -> Done:
    """What a runner's answer means, given what it was told."""
    status, error = Status(message["status"]), message.get("error")
    if status is Status.CANCELLED and flight.ending is not None:
        status, error = flight.ending, flight.reason
    return Done(
        id=flight.task.id,
        status=status,
        reply=message.get("reply") or {},
        error=error,
        wall_s=float(message["wall_s"]),
    )


def _forced(flight: Flight) -> Done:
    status = flight.ending or Status.TIMEOUT
    return Done(
        id=flight.task.id,
        status=status,
        error=flight.reason or _timed_out(flight.task),
        wall_s=time.monotonic() - flight.sent,
    )


def _timed_out(task: Task) -> str:
    return f"timed out after {task.timeout_s:g} s"
