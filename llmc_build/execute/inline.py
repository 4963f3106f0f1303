"""An executor without processes, for tests: a function answers each request.

Owns nothing of how real tasks run.  Tasks are answered in the order of their submission, when `wait` is
called, so that whoever uses it sees the same sequence of events as with a pool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from llmc_build.execute.protocol import Done, Executor, Lane, Progress, Status, Task
from llmc_build.model import Json


class TaskFailed(Exception):
    """Raised by a function to answer a task with another status than OK."""

    def __init__(
        self, error: str, status: Status = Status.FAILED, reply: Mapping[str, Json] | None = None
    ) -> None:
        super().__init__(error)
        self.status = status
        self.reply = reply or {}


class Inline(Executor):
    """Runs every task with one function, in this process."""

    def __init__(
        self,
        run: Callable[[Mapping[str, Json]], Mapping[str, Json]],
        *,
        room: int = 1,
        at_once: int | None = None,
    ) -> None:
        """`room`: tasks that a lane takes; `at_once`: the most tasks that one `wait` answers."""
        self.on_begin: Callable[[int], object] = lambda number: None
        self._run = run
        self._room = room
        self._at_once = at_once
        self._tasks: deque[Task] = deque()
        self._news: deque[Done | Progress] = deque()
        self.ran: list[Task] = []  # every task that was answered by the function, in order
        self.closed = False

    @property
    def busy(self) -> int:
        return len(self._tasks) + sum(isinstance(item, Done) for item in self._news)

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def room(self, lane: Lane) -> int:
        return max(0, self._room - sum(task.lane == lane for task in self._tasks))

    def wait(self, timeout_s: float | None) -> list[Done | Progress]:
        found: list[Done | Progress] = list(self._news)
        self._news.clear()
        while self._tasks and (self._at_once is None or len(found) < self._at_once):
            found.append(self._answer(self._tasks.popleft()))
        return found

    def cancel(self, task_id: int, reason: str) -> None:
        for task in self._tasks:
            if task.id == task_id:
                self._tasks.remove(task)
                self._news.append(Done(id=task_id, status=Status.CANCELLED, error=reason))
                return

    def close(self, *, kill: bool = False) -> None:
        self._tasks.clear()
        self._news.clear()
        self.closed = True

    def _answer(self, task: Task) -> Done:
        self.ran.append(task)
        self.on_begin(task.id)
        try:
            return Done(id=task.id, status=Status.OK, reply=self._run(task.request))
        except TaskFailed as failure:
            return Done(id=task.id, status=failure.status, reply=failure.reply, error=str(failure))
