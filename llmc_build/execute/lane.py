"""What a pool knows of a lane: its workers, what waits, and how many tasks it takes.

Owns which worker gets the next task, and how far workers are fed ahead.

Shell workers are *fed ahead* where tasks are short: each has the next few tasks before it asks, so that it
never waits for llmc to look at its answer, and several travel in one message.  They are worth `AHEAD_S` of
work at the pace of the last tasks: long tasks are not fed ahead at all, for a more urgent one may turn up.

And it owns whom a model worker's death is blamed on.  Its requests are *suspects* then, which are answered
one at a time; the one in whose company alone workers die is to blame.  Where the worker named the request
that it did something for alone, no other is a suspect.

Requests to servers may cost money, and to ask them one at a time could take hours.  So what an http worker
had sent when it died is asked again together, once; they are suspects when that worker dies as well, and the
one that another dies with, alone, is to blame.  What was not sent yet is asked as if nothing had been.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from llmc_build.execute.process import Flight, WorkerProcess
from llmc_build.execute.protocol import Lane, Task

HTTP_CAPACITY: Final = 64
AHEAD_S: Final = 0.02  # of work that a shell worker has waiting
MOST_DEATHS: Final = 5  # in a row; then a lane's model is given up
AHEAD_MOST: Final = 7  # tasks
DEATHS: Final = 2  # workers that died with nothing but one request to answer: it is to blame
STILLBORN: Final = (
    2  # workers in a row that died before they were ready: no request is to blame, and none runs
)
_QUICKEST_S: Final = 0.0001


class LaneState:
    def __init__(self, lane: Lane, jobs: int) -> None:
        """`jobs`: workers of a shell lane."""
        self.lane = lane
        self.workers: list[WorkerProcess] = []
        self.queue: deque[Task] = deque()  # what no worker has yet, the most urgent first
        self.flying = 0  # tasks that the workers have
        self.deaths = 0  # of workers, since one last answered
        self.suspects: dict[int, int] = {}  # task -> workers that died while they had nothing else
        self.stillborn = 0
        self._shaken: set[int] = set()  # requests to servers that a worker died with
        self._shell = lane.kind == "shell"
        self._most = jobs if self._shell else 1
        self._holding = 0  # workers that are given nothing behind what they run
        self._pace_s = 2 * AHEAD_S  # a task's time, the last ones counting most; nobody knows the first one's
        self._ahead = 0  # tasks that a shell worker may have waiting

    @property
    def room(self) -> int:
        """How many more tasks are wanted now, so that no worker has to wait for one."""
        slots = self._capacity * self._most
        if self._shell:
            slots += self._ahead * (self._most - self._holding)
        free = max(0, slots - len(self.queue) - self.flying)
        if 2 * free < slots and self._ahead and all(len(worker.flights) > 2 for worker in self.workers):
            return 0  # all have enough for now, and several tasks cost one message
        return free

    @property
    def wants_worker(self) -> bool:
        return len(self.workers) < self._most

    def with_room(self) -> WorkerProcess | None:
        """The worker for the next task: an idle one, or that with the least to do.

        None: a new one, if the lane wants it, or none.
        """
        if not self.workers:
            return None
        best = min(self.workers, key=_load)
        if not best.flights:
            return best
        if self.wants_worker or best.holding:
            return None
        if self.suspects and (
            self.queue[0].id in self.suspects or self.suspects.keys() & best.flights.keys()
        ):
            return None  # suspects are alone
        most = 1 + self._ahead if self._shell else self._capacity
        return best if len(best.flights) < most else None

    def excused(self, worker: WorkerProcess, flights: Sequence[Flight]) -> set[int]:
        """Tasks of a dead worker that are tried again."""
        if self._shell:
            return set()
        if worker.capacity is None:
            self.stillborn += 1
            return {flight.task.id for flight in flights} if self.stillborn < STILLBORN else set()
        if self.lane.kind == "http":
            return {flight.task.id for flight in flights if not flight.heard or self._asks_again(flight)}
        begun = [flight.task.id for flight in flights if flight.task.id == worker.named]
        if not begun:
            begun = [flight.task.id for flight in flights if flight.heard or not worker.tells]
        found = {flight.task.id for flight in flights} - set(begun)  # those stood in line, or did nothing
        for number in begun:
            deaths = self.suspects.pop(number, 0) + (len(begun) == 1)
            if deaths < DEATHS:
                self.suspects[number] = deaths
                found.add(number)
        return found

    def loss(self, how: str, again: Sequence[Flight], excused: set[int]) -> str | None:
        """What to say of a death after which that is done again: where it is slow or may cost money."""
        if self.lane.kind == "model" and excused:
            return f"{how}; what it had to answer is asked again, each alone"
        sent = sum(flight.heard and flight.ending is None for flight in again)
        if self.lane.kind == "http" and sent:
            what = "1 request" if sent == 1 else f"{sent} requests"
            return f"{how}; {what} that it had sent may be charged twice: asked again"
        return None

    def _asks_again(self, flight: Flight) -> bool:
        """Whether what was sent to a server, and lost with its worker, is sent once more."""
        number = flight.task.id
        if self.suspects.pop(number, None) is not None:
            return False
        if number in self._shaken:
            self.suspects[number] = 0
        self._shaken.add(number)
        return True

    def took(self, wall_s: float) -> None:
        """A task has ended that took so long."""
        self._pace_s += (wall_s - self._pace_s) / 5
        self._ahead = min(AHEAD_MOST, int(AHEAD_S / max(self._pace_s, _QUICKEST_S)))

    def hold(self, worker: WorkerProcess, on: bool) -> None:
        """Whether a worker runs a long task, and is given nothing behind it."""
        if worker.holding != on:
            worker.holding = on
            self._holding += 1 if on else -1

    @property
    def _capacity(self) -> int:
        """Tasks that a worker runs at a time."""
        if self._shell:
            return 1
        for worker in self.workers:
            if worker.capacity is not None:
                return worker.capacity
        if self.lane.kind == "http":
            return HTTP_CAPACITY
        told = self.lane.config.get("parallel")
        return max(1, told) if isinstance(told, int) else 1


def _load(worker: WorkerProcess) -> float:
    return float("inf") if worker.holding else len(worker.flights)
