"""The build as a state machine: events in, commands out.  Pure: time comes in as a number.

Theory of operation.  Every target is in one `State` (model.py says what holds in each), and `_set` makes
every transition.  A target starts WANTED with a count of the producers it still waits for.  When a producer
ends well the counts of its consumers fall; when it does not, its consumers are poisoned at once, and theirs.
A target whose count has reached zero is READY and the plan commands a `Check`.  The answer ends it (served,
skipped, failed), or puts it into the queue of its lane, ordered by critical path, from which the caller takes
it with `take` when a worker is free.  `Finished` ends it; its consumers need not wait for that, where it was
`Answered` before, but are not said to have ended before it.

Wait edges with a timeout are counted apart.  Their clocks start when nothing else is waited for; a target
that still waits when one runs out fails.  It occupied nothing meanwhile, and the producer goes on.

Equal actions: while an action runs, a target that checks to the same key follows its leader instead of
running.  It fails with its leader, and is checked again when the leader ended well, which finds the result,
or was stopped by its own time limit or by the death of its worker, which says nothing of the action.

A million targets may be ready at once.  The plan begins with some thousands of them and goes on at each tick,
so that whoever calls it hears of everything else between.

What is in no state: results, keys, digests, processes.  The caller has those.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from llmc_build.frozen import frozen
from llmc_build.model import State, TargetId
from llmc_build.subgraph import Graph

# A member of an enum costs more to look up than a name.
_WANTED, _READY, _RUNNING = State.WANTED, State.READY, State.RUNNING

# ---------------------------------------------------------------- commands


@frozen(kw_only=True)
class Check:
    """Find out what is to be done for a target; answer with a Checked event."""

    target: TargetId


@frozen(kw_only=True)
class Cancel:
    """End what runs for a target; its Finished event is still expected."""

    target: TargetId


@frozen(kw_only=True)
class Ended:
    """A target has ended; say so to whoever listens."""

    target: TargetId
    state: State
    reason: str
    error: str | None = None
    caused_by: TargetId | None = None  # of a poisoned target: the failure at the root


@frozen(kw_only=True)
class Abandoned:
    """Very many targets that never began were cancelled."""

    targets: Sequence[TargetId]
    reason: str


Command: TypeAlias = Check | Cancel | Ended | Abandoned

# ---------------------------------------------------------------- verdicts and events


@frozen(kw_only=True)
class Hit:
    reason: str


@frozen(kw_only=True)
class Skip:
    reason: str


@frozen(kw_only=True)
class Broken:
    """The check itself failed: a missing input, a condition that can't be evaluated."""

    error: str


@frozen(kw_only=True)
class Miss:
    """It must run, on a lane."""

    reason: str
    lane: str


@frozen(kw_only=True)
class Same:
    """An equal action is running for another target of this build."""

    leader: TargetId


@frozen(kw_only=True)
class Elsewhere:
    """Another process runs the same action; look again in a while."""

    again_in_s: float


Verdict: TypeAlias = Hit | Skip | Broken | Miss | Same | Elsewhere


@frozen(kw_only=True)
class Checked:
    target: TargetId
    verdict: Verdict


@frozen(kw_only=True)
class Answered:
    """A target's action ran well, and its result is on its way to the disk: what reads it may begin."""

    target: TargetId


@frozen(kw_only=True)
class Finished:
    """A target's action is over.  `error` None: it ran well and its result is durable."""

    target: TargetId
    error: str | None = None
    cancelled: bool = False
    own_fault: bool = False  # it failed by its own time limit or its worker's death, not by what it does


@frozen(kw_only=True)
class NotStarted:
    """A target that was taken was not started after all, for this reason."""

    target: TargetId
    verdict: Verdict


@frozen(kw_only=True)
class Interrupted:
    """The user asked for the end: start nothing more, end what runs."""


Event: TypeAlias = Checked | NotStarted | Answered | Finished | Interrupted


MANY = 10_000  # targets that are cancelled together
AT_ONCE = 8192  # targets that are looked at in one turn to see whether they are ready from the start


class Plan:
    """Decides what happens next.  `graph` holds exactly the targets to build."""

    def __init__(self, graph: Graph, *, fail_fast: bool = False) -> None:
        self._graph = graph
        self._fail_fast = fail_fast
        self._stopping = False  # nothing more starts
        self._cancelling = False  # and what runs is being ended
        self._states: dict[TargetId, State] = dict.fromkeys(graph.order, _WANTED)
        self._open = len(graph)
        self._answered: set[TargetId] = set()  # targets that run, and whose consumers need not wait any more
        self._early: dict[TargetId, int] = {}  # consumers of those -> how many of them
        self._held: dict[TargetId, Verdict] = {}  # what would end a target before a producer has ended
        self._begun = 0  # so many of the graph's targets, in its order, have been looked at
        self._height: dict[TargetId, int] = {}  # made when something has to run
        self._counts = graph.producer_counts()  # producers still waited for, but timed ones
        self._timed: dict[TargetId, int] = {}  # producers still waited for by a wait edge with a limit
        self._waiting: set[TargetId] = set()  # targets whose clocks run
        self._reasons: dict[TargetId, str] = {}  # of what is queued or runs
        self._queues: dict[str, list[tuple[int, TargetId]]] = {}  # lane -> heap, longest way down first
        self._followers: dict[TargetId, list[TargetId]] = {}
        self._clocks: list[tuple[float, TargetId, TargetId]] = []  # when a wait edge runs out
        self._again: list[tuple[float, TargetId]] = []  # when to check once more
        for target, limits in graph.limits.items():
            self._timed[target] = len(limits)
            self._counts[target] -= len(limits)

    # ------------------------------------------------------------ what the caller asks

    @property
    def finished(self) -> bool:
        return self._open == 0

    @property
    def lanes(self) -> Sequence[str]:
        """Lanes with something in their queue."""
        return [lane for lane, queue in self._queues.items() if queue]

    @property
    def deadline(self) -> float | None:
        """When `tick` is to be called next, or None."""
        if self._begun < len(self._graph.order):
            return -math.inf
        times = [heap[0][0] for heap in (self._clocks, self._again) if heap]
        return min(times, default=None)

    def state(self, target: TargetId) -> State:
        return self._states[target]

    def consumers(self, target: TargetId) -> Iterable[TargetId]:
        """What comes right after a target."""
        return self._graph.consumers(target)

    def take(self, lane: str) -> TargetId | None:
        """The most urgent target of a lane's queue; it is RUNNING now."""
        queue = self._queues.get(lane, [])
        while queue:
            target = heapq.heappop(queue)[1]
            if self._states[target] is _READY:
                self._set(target, _RUNNING)
                return target
        return None

    # ------------------------------------------------------------ what happens

    def start(self, now: float) -> list[Command]:
        return self._begin(now)

    def handle(self, event: Event, now: float) -> list[Command]:
        commands: list[Command] = []
        if isinstance(event, Checked):
            self._checked(event, now, commands)
        elif isinstance(event, Finished):
            self._over(event, now, commands)
        elif isinstance(event, Answered):
            self._answered.add(event.target)
            for consumer in self._graph.consumers(event.target):
                self._early[consumer] = self._early.get(consumer, 0) + 1
            self._release(event.target, now, commands)
        elif isinstance(event, NotStarted):
            self._put_back(event, now, commands)
        else:
            self._stop(commands, cancel=True)
        return commands

    def tick(self, now: float) -> list[Command]:
        """Clocks that have run out by now, and more of what is ready from the start."""
        commands = self._begin(now)
        while self._clocks and self._clocks[0][0] <= now:
            _, target, producer = heapq.heappop(self._clocks)
            if self._states[target] is _WANTED and not self._is_over(producer):
                limit = self._graph.limits[target][producer]
                place = f" (wait_for at {limit.location})" if limit.location else ""
                why = f"waited {limit.timeout_s:g} s for {producer}, which has not ended{place}"
                self._fail(target, why, commands)
        while self._again and self._again[0][0] <= now:
            _, target = heapq.heappop(self._again)
            if self._states[target] is _READY:
                commands.append(Check(target=target))
        return commands

    # ------------------------------------------------------------ transitions

    def _begin(self, now: float) -> list[Command]:
        commands: list[Command] = []
        begun, self._begun = self._begun, min(self._begun + AT_ONCE, len(self._graph.order))
        for place in range(begun, self._begun):
            self._advance(self._graph.order[place], now, commands)
        return commands

    def _set(self, target: TargetId, state: State) -> None:
        was = self._states[target]
        if was.ended:
            raise AssertionError(f"{target} was {was.value}, it can't become {state.value}")
        self._states[target] = state
        if state.ended:
            self._open -= 1

    def _advance(self, target: TargetId, now: float, commands: list[Command]) -> None:
        """A WANTED target with nothing more to wait for becomes READY; or its clocks start."""
        if self._counts[target] or self._states[target] is not _WANTED:
            return
        if not self._timed.get(target):
            self._states[target] = _READY
            commands.append(Check(target=target))
        elif target not in self._waiting:
            self._waiting.add(target)
            for producer, limit in self._graph.limits[target].items():
                if not self._is_over(producer):
                    heapq.heappush(self._clocks, (now + limit.timeout_s, target, producer))

    def _checked(self, event: Checked, now: float, commands: list[Command]) -> None:
        target, verdict = event.target, event.verdict
        if self._states[target] is not _READY:
            return  # cancelled while it was checked
        if target in self._early and isinstance(verdict, Hit | Skip | Broken):
            self._held[target] = verdict
        elif isinstance(verdict, Hit):
            self._end_well(target, State.CACHED, verdict.reason, now, commands)
        elif isinstance(verdict, Skip):
            self._end_well(target, State.SKIPPED, verdict.reason, now, commands)
        elif isinstance(verdict, Broken):
            self._fail(target, verdict.error, commands)
        elif isinstance(verdict, Same):
            self._set(target, _RUNNING)
            self._followers.setdefault(verdict.leader, []).append(target)
        elif isinstance(verdict, Elsewhere):
            heapq.heappush(self._again, (now + verdict.again_in_s, target))
        else:
            self._reasons[target] = verdict.reason
            self._height = self._height or self._graph.heights()
            queue = self._queues.setdefault(verdict.lane, [])
            heapq.heappush(queue, (-self._height[target], target))

    def _put_back(self, event: NotStarted, now: float, commands: list[Command]) -> None:
        """A taken target gets another verdict; what followed it is checked again."""
        self._set(event.target, State.READY)
        self._checked(Checked(target=event.target, verdict=event.verdict), now, commands)
        for one in self._followers.pop(event.target, []):
            self._set(one, State.READY)
            commands.append(Check(target=one))

    def _over(self, event: Finished, now: float, commands: list[Command]) -> None:
        target = event.target
        followers = self._followers.pop(target, [])
        if event.cancelled or (self._cancelling and event.error is not None):
            for one in (target, *followers):
                self._end(one, State.CANCELLED, "the build was stopped", commands)
            return
        if event.error is None:
            self._end_well(target, State.RAN, self._reasons.pop(target), now, commands)
        else:
            self._fail(target, event.error, commands)
        for one in followers:
            if event.error is None or (event.own_fault and not self._stopping):
                self._set(one, _READY)
                commands.append(Check(target=one))
            elif self._stopping:
                self._end(one, State.CANCELLED, "the build was stopped", commands)
            else:
                self._fail(one, f"{event.error} (the same action as {target})", commands)

    def _end_well(
        self, target: TargetId, state: State, reason: str, now: float, commands: list[Command]
    ) -> None:
        self._set(target, state)
        commands.append(Ended(target=target, state=state, reason=reason))
        if target not in self._answered:
            self._release(target, now, commands)
            return
        self._answered.remove(target)
        for consumer in self._graph.consumers(target):
            self._early[consumer] -= 1
            if not self._early[consumer]:
                del self._early[consumer]
                verdict = self._held.pop(consumer, None)
                if verdict is not None:
                    self._checked(Checked(target=consumer, verdict=verdict), now, commands)

    @property
    def held_up(self) -> bool:
        """Whether targets wait for the very end of others, which have answered."""
        return bool(self._held) or not self._followers.keys().isdisjoint(self._answered)

    def _is_over(self, producer: TargetId) -> bool:
        """Whether nobody waits for a target any more."""
        return self._states[producer].ended or producer in self._answered

    def _release(self, target: TargetId, now: float, commands: list[Command]) -> None:
        for consumer in self._graph.consumers(target):
            counts = self._timed if target in self._graph.limits.get(consumer, ()) else self._counts
            counts[consumer] -= 1
            self._advance(consumer, now, commands)

    def _end(self, target: TargetId, state: State, reason: str, commands: list[Command]) -> None:
        self._set(target, state)
        commands.append(Ended(target=target, state=state, reason=reason))

    def _fail(self, target: TargetId, error: str, commands: list[Command]) -> None:
        self._set(target, State.FAILED)
        commands.append(Ended(target=target, state=State.FAILED, reason="failed", error=error))
        self._poison(target, commands)
        if self._fail_fast:
            self._stop(commands, cancel=False)

    def _poison(self, root: TargetId, commands: list[Command]) -> None:
        stack = [root]
        while stack:
            for consumer in self._graph.consumers(stack.pop()):
                if self._states[consumer] is _WANTED:
                    self._set(consumer, State.POISONED)
                    commands.append(
                        Ended(
                            target=consumer,
                            state=State.POISONED,
                            reason=f"{root} failed",
                            caused_by=root,
                        )
                    )
                    stack.append(consumer)

    def _stop(self, commands: list[Command], *, cancel: bool) -> None:
        """Nothing more starts; with `cancel`, what runs is ended too."""
        self._stopping = True
        self._cancelling = self._cancelling or cancel
        if cancel:  # first what holds a worker: what only waits is a long list
            commands += [Cancel(target=target) for target, state in self._states.items() if state is _RUNNING]
        why = "the build was stopped"
        left = [target for target, state in self._states.items() if state is _WANTED or state is _READY]
        left += [one for target in left for one in self._followers.pop(target, ())]
        if len(left) < MANY:
            for target in left:
                self._end(target, State.CANCELLED, why, commands)
            return
        self._states.update(dict.fromkeys(left, State.CANCELLED))
        self._open -= len(left)
        commands.append(Abandoned(targets=left, reason=why))
