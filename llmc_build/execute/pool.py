"""The process pool: tasks to workers, their answers back, workers replaced when they die.

Owns which worker a task goes to, capacities, deadlines and the life of worker processes as seen from
llmc; one process is `process`, which models are in memory together is `residence`.  What a request means is
its runner's business, and which task is to be submitted when is the plan's.

A lane of kind "shell" has up to `jobs` workers, each of which runs one task at a time; a lane of another
kind has one worker, which answers several.  Workers start when first needed and stay.  One that dies fails
what it ran, and nothing else; the next task starts a new one.  What it had not begun, or had not yet told
the end of, runs again in another; so do the other tasks of a worker that the pool itself has to kill because
one of them ignores its end.  Of the requests that a model worker answered when it died nobody knows which
one killed it: each is tried again alone, and only one that kills its worker then is to blame.  What an http
worker had sent is sent again, and that is said, since it may cost twice.

Shell workers are fed ahead (`lane`).  A worker whose task takes long after all gives the others back, and
they go back to their place in the lane's queue, so a long task holds up another for a moment only.

A task's time is kept by the shell worker itself, and by the pool for other lanes.  Behind both stands the
pool: what doesn't answer in time after it was told to end loses its worker.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from llmc_build.execute import osdep, residence
from llmc_build.execute.channel import ChannelClosed, Message
from llmc_build.execute.lane import MOST_DEATHS, LaneState
from llmc_build.execute.outcome import crashed, ended, forced, timed_out
from llmc_build.execute.process import Flight, Spare, WorkerProcess
from llmc_build.execute.protocol import Done, Executor, Lane, Progress, Status, Task
from llmc_build.execute.supervise import GRACE_S
from llmc_build.execute.sweep import Guardian
from llmc_build.execute.wakeup import Wakeup
from llmc_build.execute.worker import RUNNERS
from llmc_build.model import Json

OBEY_S: Final = 5.0  # for a runner to obey a cancel, beyond what it grants its processes itself
_CLOSE_S = 3.0  # for workers to end by themselves
_LOOK_S = 0.2  # the longest sleep where no signal can wake the pool
_NEVER = float("inf")


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
        models: residence.Room = residence.ENDLESS,
        spare: Spare | None = None,
    ) -> None:
        """`jobs`: shell tasks at a time; `cas`: the store's root, given to lanes that don't name one.

        `scratch`: a folder for what workers write to stderr (else the system's); `environ`: what workers
        get their environment from (else this process's); `runners`: kind of lane -> module that serves it;
        `models`: what there is for model workers; `spare`: the first of them.
        """
        self.on_begin: Callable[[int], object] = lambda number: None
        self._jobs = max(1, jobs)
        self._cas, self._scratch = cas, scratch
        self._environ = dict(os.environ if environ is None else environ)
        self._runners = runners
        self._models, self._spare = models, spare
        self._lanes: dict[Lane, LaneState] = {}
        self._waiting: dict[Lane, LaneState] = {}  # those whose worker waits for memory
        self._news: deque[Done | Progress] = deque()
        self._count = 0  # of tasks submitted
        self._open: dict[int, int] = {}  # tasks whose end was not yet returned -> their place in that order
        self._flights: dict[int, tuple[WorkerProcess, Flight]] = {}  # of all workers
        self._due: list[tuple[float, int]] = []  # heap of deadlines, those of ended flights among them
        self._unsent: set[WorkerProcess] = set()  # workers that are fed by the next `wait`
        self._closed = False
        self._guardian = Guardian(str(scratch) if scratch else None)
        self._selector = selectors.DefaultSelector()
        self._wakeup = Wakeup()
        self._selector.register(self._wakeup, selectors.EVENT_READ, None)
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
        return (LaneState(lane, self._jobs) if state is None else state).room

    def submit(self, task: Task) -> None:
        if self._closed:
            raise ValueError("the pool is closed")
        if task.id in self._open:
            raise ValueError(f"task {task.id} is already there")
        self._count += 1
        self._open[task.id] = self._count
        state = self._lanes.get(task.lane)
        if state is None:
            state = self._lanes[task.lane] = LaneState(task.lane, self._jobs)
        state.queue.append(task)
        self._feed(state)

    def wait(self, timeout_s: float | None) -> list[Done | Progress]:
        self._swap()
        self._flush()
        now = time.monotonic()
        deadline = _NEVER if timeout_s is None else now + timeout_s
        while True:
            if self._due:
                self._enforce(now)
            if self._news or not self._open:
                return self._take_news()
            seconds = max(0.0, min(deadline, self._due[0][0] if self._due else _NEVER) - now)
            if not self._wakeup.by_signals:
                seconds = min(seconds, _LOOK_S)
            events = self._selector.select(None if seconds == _NEVER else seconds)
            woken = not (events or self._wakeup.by_signals)
            for key, mask in events:
                if key.data is None:
                    self._wakeup.drain()
                    woken = True
                else:
                    self._service(key.data, mask)
            if self._news:
                return self._take_news()
            now = time.monotonic()
            if woken or now >= deadline:
                return []

    def wake(self) -> None:
        """Makes a running `wait` return.  For signal handlers and other threads too, at any time."""
        self._wakeup.ring()

    def cancel(self, task_id: int, reason: str) -> None:
        if task_id in self._flights:
            self._tell_to_end(*self._flights[task_id], Status.CANCELLED, reason)
            return
        for state in self._lanes.values():
            for task in state.queue:
                if task.id == task_id:
                    state.queue.remove(task)
                    self._news.append(Done(id=task_id, status=Status.CANCELLED, error=reason))
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
        self._guardian.close()
        for emptied in (self._lanes, self._open, self._flights, self._news):
            emptied.clear()
        osdep.adopt_orphans(self._adopted_before)
        self._selector.close()
        self._wakeup.close()

    # ------------------------------------------------------------ giving tasks out

    def _feed(self, state: LaneState) -> None:
        """Gives queued tasks to workers that have room, starting workers where there may be more."""
        while state.queue:
            worker = state.with_room()
            if worker is None and state.wants_worker:
                if state.deaths >= MOST_DEATHS:
                    self._give_up(state, f"not tried: its worker died {MOST_DEATHS} times in a row")
                    return
                worker = self._start(state)
            if worker is None:
                return
            task = state.queue.popleft()
            idle = not worker.flights
            self._flights[task.id] = worker, worker.send(task)
            self._watch_clocks(worker.start_clocks())
            self._begin(worker)
            state.flying += 1
            self._unsent.add(worker)
            if idle or state.lane.kind != "shell":
                self._flush()

    def _flush(self) -> None:
        """Sends what workers were given."""
        while self._unsent:
            worker = self._unsent.pop()
            try:
                worker.channel.flush()
                self._watch_writes(worker)
            except ChannelClosed:
                self._lost(worker)

    def _swap(self) -> None:
        """Ends idle workers for those that wait: so late that none of them has got work again."""
        for lane, state in tuple(self._waiting.items()):
            gone = residence.victims(self._models, lane, self._lanes.values()) if state.queue else []
            if gone is None:
                continue
            residence.announce(self._models, gone, lane)
            for worker in gone:
                self._forget(worker)
                worker.hang_up()
                worker.bury(at_once=False)
            del self._waiting[lane]
            self._feed(state)

    def _start(self, state: LaneState) -> WorkerProcess | None:
        if residence.victims(self._models, state.lane, self._lanes.values()) != []:
            self._waiting[state.lane] = state
            return None
        config: dict[str, Json] = {"cas": str(self._cas), **state.lane.config}
        try:
            worker = WorkerProcess(
                state.lane,
                self._runners[state.lane.kind],
                config,
                environ=self._environ,
                scratch=self._scratch,
                token=self._guardian.token(),
                spare=self._spare,
            )
        except OSError as error:
            self._give_up(state, f"a worker could not be started: {error.strerror or error}")
            return None
        state.workers.append(worker)
        if state.lane.kind == "shell":
            self._guardian.watch(worker.pid, worker.group)
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        return worker

    def _give_up(self, state: LaneState, why: str) -> None:
        """Ends the tasks that no worker will get."""
        self._news.extend(Done(id=task.id, status=Status.CRASHED, error=why) for task in state.queue)
        state.queue.clear()

    def _watch_writes(self, worker: WorkerProcess) -> None:
        """Asks to be told when a worker takes more, only while there is more."""
        if worker.channel.unsent != worker.watched:
            worker.watched = worker.channel.unsent
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.watched else 0)
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
        operation, state = message["op"], self._lanes[worker.lane]
        if operation == "done":
            flight = self._landed(worker, message["id"])
            done = ended(worker, flight, message)
            state.suspects.pop(done.id, None)
            self._news.append(done)
            state.took(done.wall_s)
            state.deaths = 0
            state.hold(worker, False)
            self._watch_clocks(worker.start_clocks())
            self._begin(worker)
        elif operation in ("progress", "sent"):
            if (told := worker.flights.get(message["id"])) is not None:
                if operation == "progress":
                    self._news.append(Progress(id=message["id"], stats=message["stats"]))
                if not told.heard:
                    told.heard = True
                    self._watch_clocks(worker.start_clocks())
        elif operation == "back":
            self._again(state, [self._landed(worker, number) for number in message["ids"]])
            state.hold(worker, bool(worker.flights))
        elif operation == "ready":
            worker.capacity = max(1, int(message["capacity"]))
            state.stillborn = 0
            worker.defaults = message.get("defaults") or {}
            worker.tells = bool(message.get("tells"))
            self._watch_clocks(worker.start_clocks())
        else:
            raise ValueError(operation)

    def _begin(self, worker: WorkerProcess) -> None:
        """Tells of what a worker runs by now."""
        for flight in worker.running:
            if not flight.begun:
                flight.begun = True
                self.on_begin(flight.task.id)

    def _landed(self, worker: WorkerProcess, number: int) -> Flight:
        """A task that its worker has no more."""
        flight = worker.flights.pop(number)
        del self._flights[number]
        self._lanes[worker.lane].flying -= 1
        worker.idle_since = time.monotonic()
        return flight

    def _forget(self, worker: WorkerProcess) -> None:
        """A worker gets nothing more, and is not listened to."""
        self._lanes[worker.lane].workers.remove(worker)
        self._selector.unregister(worker.channel)
        self._unsent.discard(worker)

    def _again(self, state: LaneState, flights: list[Flight]) -> None:
        """Puts tasks back to their places in the queue, but for those that were told to end meanwhile."""
        self._news.extend(forced(flight) for flight in flights if flight.ending is not None)
        tasks = [*state.queue, *(flight.task for flight in flights if flight.ending is None)]
        state.queue = deque(sorted(tasks, key=lambda task: self._open[task.id]))

    def _lost(
        self, worker: WorkerProcess, *, culprit: Flight | None = None, error: str | None = None
    ) -> None:
        """A worker is gone, or has to go: its tasks fail, or run again where only `culprit` is to blame."""
        state = self._lanes[worker.lane]
        self._forget(worker)
        state.hold(worker, False)
        blamed = worker.begun if worker.lane.kind == "shell" else None
        worker.hang_up()
        how, tail = worker.bury(at_once=culprit is not None)
        state.deaths += worker.lane.kind != "shell" and culprit is None
        again = []
        flights = [self._landed(worker, number) for number in tuple(worker.flights)]
        excused = state.excused(worker, flights) if culprit is None else set()
        for flight in flights:
            if flight is culprit:
                self._news.append(forced(flight))
            elif (
                flight.ending is not None
                or culprit is not None
                or (worker.lane.kind == "shell" and flight is not blamed)
                or flight.task.id in excused
            ):
                again.append(flight)
            else:
                self._news.append(crashed(flight, error or how, tail))
        if (note := state.loss(error or how, again, excused)) is not None:
            self._models.note(note)
        self._again(state, again)
        self._feed(state)

    def _take_news(self) -> list[Done | Progress]:
        found = list(self._news)
        self._news.clear()
        for item in found:
            if isinstance(item, Done):
                del self._open[item.id]
        return found

    # ------------------------------------------------------------ deadlines

    def _watch_clocks(self, flights: list[Flight]) -> None:
        for flight in flights:
            if len(self._due) > 64 + 4 * len(self._flights):  # most of them are of tasks long gone
                self._due = [
                    (f.deadline, f.task.id) for _, f in self._flights.values() if f.deadline < _NEVER
                ]
                heapq.heapify(self._due)
            heapq.heappush(self._due, (flight.deadline, flight.task.id))

    def _enforce(self, now: float) -> None:
        """Tells tasks whose time is over to end, and kills the workers of those that don't."""
        while self._due and self._due[0][0] <= now:
            deadline, number = heapq.heappop(self._due)
            worker, flight = self._flights.get(number, (None, None))
            if worker is None or flight is None or flight.deadline != deadline:
                continue  # it has ended, or got another deadline
            if flight.ending is not None:
                self._lost(worker, culprit=flight)
            else:
                self._tell_to_end(worker, flight, Status.TIMEOUT, timed_out(flight.task))

    def _tell_to_end(self, worker: WorkerProcess, flight: Flight, status: Status, reason: str) -> None:
        if flight.ending is not None:
            return
        flight.ending, flight.reason = status, reason
        flight.deadline = time.monotonic() + OBEY_S + (GRACE_S if worker.lane.kind == "shell" else 0.0)
        self._watch_clocks([flight])
        with contextlib.suppress(ChannelClosed):  # its end is noticed by reading
            worker.channel.post({"op": "cancel", "id": flight.task.id, "reason": reason})
            self._watch_writes(worker)
