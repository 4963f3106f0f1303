"""The one loop that joins plan, store and executor.  World.

Owns the order of things within a build: commands are taken from the plan, targets are checked or
submitted, what workers answer is made durable and only then handed back to the plan and reported.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from llmc_build import plan as p
from llmc_build.answers import Verified
from llmc_build.binder import Binder
from llmc_build.collecting import loading
from llmc_build.environment import MissingSecret
from llmc_build.errors import InternalError
from llmc_build.execute.protocol import Done, Executor, Lane, Status, Task
from llmc_build.frozen import frozen
from llmc_build.model import State, TargetId, TargetReport
from llmc_build.outputs import Outputs
from llmc_build.report import Reporter, TargetEvent
from llmc_build.rules import BindError
from llmc_build.store import Store

COMMANDS_A_TURN = (
    128  # obeyed before workers and interrupts are looked after again: a few milliseconds' worth
)
PATIENCE_S = 0.2  # the longest wait: an interrupt that comes between two looks is seen by then


@frozen(kw_only=True)
class Surroundings:
    """What a build works with."""

    plan: p.Plan
    binder: Binder
    store: Store
    outputs: Outputs
    executor: Executor
    reporter: Reporter
    logs: Callable[[TargetId], str | Path]  # where a target's logs are to be
    retries: int = 0
    dry_run: bool = False
    interrupts: Callable[[], int] = lambda: 0  # how often the user asked for the end
    ended: Callable[[TargetId], None] = lambda target: None  # told of each target that has ended
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class StoppedAtOnce(Exception):
    """The user asked for the end a second time: nothing is waited for."""


class Build:
    """One run of a plan."""

    def __init__(self, around: Surroundings) -> None:
        self._a = around
        self._todo: deque[p.Command] = deque()
        self._tasks: dict[int, tuple[TargetId, int]] = {}  # of the executor -> target, part of it
        self._numbers: dict[TargetId, list[int]] = {}  # of the tasks of a target that run
        self._verified: dict[TargetId, Verified] = {}
        self._walls: dict[TargetId, float] = {}  # how long they ran, all attempts together
        self._lanes: dict[str, Lane] = {}  # the plan's name of a queue -> lane
        self._committing: dict[str, tuple[TargetId, Done, Verified]] = {}  # key -> what waits for the disk
        self._awaited: set[str] = set()  # those of them that steps wait for
        self._count = 0
        self._stopping = False
        self.reports: dict[TargetId, TargetReport] = {}

    def run(self) -> Mapping[TargetId, TargetReport]:
        """Until every target has ended.  The executor is left to the caller.

        Raises StoppedAtOnce, StoreError, OSError.
        """
        plan, clock = self._a.plan, self._a.clock
        self._a.executor.on_begin = self._begun
        self._todo.extend(plan.start(clock()))
        while not plan.finished:
            self._obey(COMMANDS_A_TURN)
            if plan.finished:
                break
            if not self._todo or plan.lanes:  # something starts, or is waited for
                self._a.outputs.settle()
            self._feed()
            if self._committing and not self._todo and not plan.lanes and self._held_up():
                self._a.store.hurry()
            self._listen(0.0 if self._todo else self._patience())
            self._stuck()
            self._todo.extend(plan.tick(clock()))
            interrupts = self._a.interrupts()
            if interrupts > 1:
                raise StoppedAtOnce
            if interrupts and not self._stopping:
                self._stopping = True
                # What runs is told to end before the ends of all that never began are reported.
                for command in plan.handle(p.Interrupted(), clock()):
                    (self._todo.appendleft if isinstance(command, p.Cancel) else self._todo.append)(command)
        while self._todo:
            self._obey(COMMANDS_A_TURN)
        self._a.outputs.settle()
        return self.reports

    # ------------------------------------------------------------ commands of the plan

    def _obey(self, most: int) -> None:
        todo, state = self._todo, self._a.plan.state
        while todo and most > 0:
            command = todo.popleft()
            most -= 1
            if not isinstance(command, p.Check):
                self._do(command)
                continue
            targets = [command.target]
            while most > 0 and todo and isinstance(following := todo[0], p.Check):
                targets.append(following.target)
                todo.popleft()
                most -= 1
            # others were ended meanwhile, because the build stops
            self._check([target for target in targets if state(target) is State.READY])

    def _check(self, targets: list[TargetId]) -> None:
        """Checks that can be made at once; an end is told at once, the checks that follow are next."""
        following = []
        for target, verdict in zip(targets, self._a.binder.check_many(targets), strict=True):
            for command in self._a.plan.handle(p.Checked(target=target, verdict=verdict), self._a.clock()):
                if isinstance(command, p.Check):
                    following.append(command)
                else:
                    self._do(command)
        self._todo.extendleft(reversed(following))

    def _do(self, command: p.Cancel | p.Ended | p.Abandoned) -> None:
        if isinstance(command, p.Ended):
            self._ended(command)
        elif isinstance(command, p.Abandoned):  # nobody needs to hear of each: they are counted at the end
            reason, cancelled = command.reason, State.CANCELLED
            with loading():
                for target in command.targets:
                    self.reports[target] = TargetReport(target=target, status=cancelled, reason=reason)
        else:
            for number in list(self._numbers.get(command.target, ())):
                self._a.executor.cancel(number, "the build was stopped")

    def _ended(self, end: p.Ended) -> None:
        a, target = self._a, end.target
        if end.state in (State.FAILED, State.POISONED, State.SKIPPED) and not a.dry_run:
            a.outputs.withdraw(target)
        verified = self._verified.pop(target, None) or Verified()
        report = TargetReport(
            target=target,
            status=State.RAN if target in a.binder.unknown else end.state,
            reason=end.reason,
            key=a.binder.keys.get(target),
            output=a.binder.values.get(target),
            wall_s=round(self._walls.pop(target, 0.0), 6),
            error=end.error,
            caused_by=end.caused_by,
            warnings=verified.warnings or a.binder.warnings.get(target, ()),
            stderr_tail=verified.stderr_tail if end.state is State.FAILED else "",
            stats=verified.stats,
        )
        self.reports[target] = report
        a.ended(target)
        a.reporter.target(
            TargetEvent(
                target=target,
                state=report.status,
                reason=report.reason,
                wall_s=report.wall_s,
                error=report.error,
                caused_by=report.caused_by,
                location=a.binder.location(target),
                stats=report.stats,
            )
        )

    # ------------------------------------------------------------ the executor

    def _feed(self) -> None:
        """Gives the workers what they have room for, most urgent first."""
        plan, executor = self._a.plan, self._a.executor
        for queue in plan.lanes:
            room = executor.room(self._lanes[queue]) if queue in self._lanes else 1
            while room > 0:
                taken = (plan.take(queue) for _ in range(room))
                targets = [target for target in taken if target is not None]
                if not targets:
                    break
                for target, verdict in zip(targets, self._a.binder.claim_many(targets), strict=True):
                    if verdict is None:
                        lane = self._submit(target)
                        self._lanes.update({queue: lane} if lane is not None else {})
                    else:
                        event = p.NotStarted(target=target, verdict=verdict)
                        self._todo.extend(plan.handle(event, self._a.clock()))
                room = executor.room(self._lanes[queue]) if queue in self._lanes else 1

    def _submit(self, target: TargetId) -> Lane | None:
        """The lane that runs it now; None where it could not be started, which has failed it."""
        try:
            tasks = [self._task(target, part) for part in self._a.binder.parts(target)]
        except (BindError, MissingSecret, OSError) as error:
            self._a.binder.release(target, kept=False)
            self._finished(p.Finished(target=target, error=_why(error)))
            return None
        for task in tasks:
            self._start(target, task)
        return tasks[0].lane

    def _task(self, target: TargetId, part: int) -> Task:
        self._count += 1
        task = self._a.binder.task(target, self._count, self._a.logs(target), part)
        self._tasks[task.id] = target, part
        return task

    def _start(self, target: TargetId, task: Task) -> None:
        self._numbers.setdefault(target, []).append(task.id)
        self._a.executor.submit(task)

    def _begun(self, task: int) -> None:
        """Tasks are submitted before a worker is free for them."""
        target, _ = self._tasks[task]
        self._a.reporter.target(TargetEvent(target=target, state=State.RUNNING, reason=""))

    def _listen(self, timeout_s: float) -> None:
        """What the workers and the store say: a result is handed to the plan when it is durable."""
        a = self._a
        for key in a.store.committed(0.0 if a.executor.busy else timeout_s):
            waiting = self._committing.pop(key, None)  # nobody waits for a sample by itself
            self._awaited.discard(key)
            if waiting is not None:
                self._over(*waiting)
            timeout_s = 0.0
        if not a.executor.busy:
            if timeout_s > 0 and not a.store.committing:
                a.sleep(timeout_s)  # only a clock can bring news
            return
        for item in a.executor.wait(timeout_s):
            known = self._tasks.get(item.id)
            if known is None:
                continue
            target, part = known
            if isinstance(item, Done):
                self._done(target, part, item)
            else:
                a.reporter.progress(target, item.stats)

    def _done(self, target: TargetId, part: int, done: Done) -> None:
        del self._tasks[done.id]
        self._numbers[target].remove(done.id)
        self._walls[target] = self._walls.get(target, 0.0) + done.wall_s
        if self._again(target, part, done):
            return
        found = self._a.binder.finish(target, done, part)
        if found is not None:  # else other parts of it still run
            del self._numbers[target]
            self._answered(target, *found)

    def _answered(self, target: TargetId, done: Done, verified: Verified) -> None:
        if verified.record is None:
            self._over(target, done, verified)
        else:
            self._committing[verified.record.key] = (target, done, verified)
            self._a.store.commit_soon(verified.record)
            # What is never cached may be done for what it does elsewhere, with a value that must last.
            if all(map(self._a.binder.is_cached, self._a.plan.consumers(target))):
                self._todo.extend(self._a.plan.handle(p.Answered(target=target), self._a.clock()))
            else:
                self._awaited.add(verified.record.key)

    def _over(self, target: TargetId, done: Done, verified: Verified) -> None:
        self._a.binder.release(target, kept=verified.record is not None)
        self._verified[target] = verified
        self._finished(
            p.Finished(
                target=target,
                error=verified.error,
                cancelled=done.status is Status.CANCELLED,
                own_fault=done.status in (Status.TIMEOUT, Status.CRASHED),
            )
        )

    def _finished(self, event: p.Finished) -> None:
        self._todo.extend(self._a.plan.handle(event, self._a.clock()))

    def _again(self, target: TargetId, part: int, done: Done) -> bool:
        """Submits a failed target, or part of one, once more where it has attempts left."""
        if self._stopping or not self._a.binder.may_retry(target, done, self._a.retries, part):
            return False
        self._a.reporter.note(f"{target}: {done.error}; trying again")
        try:
            self._start(target, self._task(target, part))
        except (BindError, MissingSecret, OSError) as error:
            # it ends as what it was, with this as the reason
            done = dataclasses.replace(done, error=_why(error))
            found = self._a.binder.finish(target, done, part)
            if found is not None:
                del self._numbers[target]
                self._answered(target, *found)
        return True

    def _held_up(self) -> bool:
        """Whether something can't go on before results are on the disk."""
        return bool(self._awaited) or self._a.plan.held_up or not self._a.executor.busy

    def _stuck(self) -> None:
        """A plan that waits for nothing and is not finished would wait for ever: a bug, said aloud."""
        plan = self._a.plan
        waiting = self._todo or self._a.executor.busy or self._committing or plan.lanes
        waiting = waiting or plan.deadline is not None
        if not waiting and not plan.finished:
            raise InternalError("the plan is not finished and waits for nothing")

    def _patience(self) -> float:
        """How long to wait for the workers: until the next clock, or a moment while work is queued."""
        deadline = self._a.plan.deadline
        limit = PATIENCE_S
        return limit if deadline is None else max(0.0, min(limit, deadline - self._a.clock()))


def _why(error: Exception) -> str:
    """Why a task could not be made."""
    return f"its logs can't be written: {error}" if isinstance(error, OSError) else str(error)
