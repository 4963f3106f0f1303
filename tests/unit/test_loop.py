"""The loop over pretended surroundings: what it does between two looks at the world."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmc_build import api
from llmc_build import plan as p
from llmc_build.execute.protocol import Done, Lane, Progress, Status, Task
from llmc_build.graph import ActionGraph
from llmc_build.loop import COMMANDS_A_TURN, Build, Surroundings
from llmc_build.model import State
from llmc_build.report import Silent, TargetEvent
from llmc_build.store import Store

SHELL = Lane(kind="shell")
MANY = 20_000


class World:
    """Every target misses and runs; two workers end their tasks when they are asked to."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.checked = 0
        self.submitted: list[int] = []
        self.running: dict[int, Task] = {}
        self.cancelled: list[int] = []
        self.keys: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.warnings: dict[str, Any] = {}
        self.unknown: set[str] = set()

    # the binder
    def check_many(self, targets: Sequence[str]) -> list[p.Verdict]:
        self.checked += len(targets)
        return [p.Miss(reason="new", lane="shell") for _ in targets]

    def claim_many(self, targets: Sequence[str]) -> list[None]:
        return [None] * len(targets)

    def parts(self, target: str) -> list[int]:
        return [0]

    def task(self, target: str, number: int, logs: str, part: int) -> Task:
        return Task(id=number, lane=SHELL, request={})

    def may_retry(self, *args: object) -> bool:
        return False

    def finish(self, target: str, done: Done, part: int) -> Any:
        return done, SimpleNamespace(record=None, error=done.error, warnings=(), stderr_tail="", stats={})

    def release(self, target: str, *, kept: bool) -> None: ...

    def location(self, target: str) -> None: ...

    # the executor
    @property
    def busy(self) -> int:
        return len(self.running)

    def room(self, lane: Lane) -> int:
        return 2 - len(self.running)

    def submit(self, task: Task) -> None:
        self.running[task.id] = task
        self.submitted.append(task.id)

    def wait(self, timeout_s: float | None) -> list[Done | Progress]:
        ended: list[Done | Progress] = [
            Done(id=number, status=Status.CANCELLED, error="stopped") for number in self.cancelled
        ]
        self.running = {n: task for n, task in self.running.items() if n not in self.cancelled}
        self.cancelled = []
        return ended

    def cancel(self, task_id: int, reason: str) -> None:
        self.log.append("cancel")
        self.cancelled.append(task_id)

    # the reporter
    def target(self, event: Any) -> None:
        if event.state is State.CANCELLED:
            self.log.append("cancelled")


def building(world: World, interrupted: Any, *, fail_fast: bool = False) -> Build:
    graph = ActionGraph(tuple(f"w.s{number}" for number in range(MANY)), {})
    around: Any = Surroundings(
        plan=p.Plan(graph, fail_fast=fail_fast),
        binder=world,  # type: ignore[arg-type]
        store=SimpleNamespace(committed=lambda timeout_s: [], committing=False),  # type: ignore[arg-type]
        outputs=SimpleNamespace(withdraw=lambda target: None, settle=lambda: None),  # type: ignore[arg-type]
        executor=world,  # type: ignore[arg-type]
        reporter=world,  # type: ignore[arg-type]
        logs=lambda target: "",
        interrupts=interrupted,
    )
    return Build(around)


def test_an_interrupt_is_seen_after_a_few_checks_and_ends_what_runs_first() -> None:
    """Among a million targets, the user must not wait until each was looked at."""
    log: list[str] = []
    world = World(log)
    reports = building(world, lambda: True).run()
    assert world.checked <= COMMANDS_A_TURN
    assert log[:2] == ["cancel", "cancel"]
    assert len(reports) == MANY
    assert {report.status for report in reports.values()} == {State.CANCELLED}


def test_workers_get_tasks_before_everything_was_looked_at() -> None:
    world = World([])
    looks = iter(range(10))

    def interrupted() -> bool:
        assert len(world.submitted) == 2
        assert world.checked <= COMMANDS_A_TURN * (1 + next(looks))
        return world.checked >= 3 * COMMANDS_A_TURN

    building(world, interrupted).run()


@pytest.mark.parametrize("fail_fast", [True])
def test_nothing_more_is_checked_once_a_failure_stops_the_build(fail_fast: bool) -> None:
    world = World([])

    def fail(timeout_s: float | None) -> list[Done | Progress]:
        found: list[Done | Progress] = [
            Done(id=number, status=Status.FAILED, error="no") for number in world.running
        ]
        world.running = {}
        return found

    world.wait = fail  # type: ignore[method-assign]
    reports = building(world, lambda: False, fail_fast=fail_fast).run()
    assert world.checked <= 2 * COMMANDS_A_TURN
    assert sum(report.status is State.FAILED for report in reports.values()) in (1, 2)


@pytest.mark.parametrize(("more", "waits"), [("", False), (", cache: false", True)])
def test_what_is_never_cached_begins_when_what_it_reads_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, waits: bool
) -> None:
    """It may be there for what it does elsewhere; all others begin when the value is known."""
    told: list[tuple[str, State]] = []

    class Listening(Silent):
        def target(self, event: TargetEvent) -> None:
            told.append((event.target, event.state))

    monkeypatch.setattr(Store, "hurry", lambda store: None)  # a commit is a quarter of a second on its way
    steps = f"[{{name: a, command: echo 1}}, {{name: b, command: 'echo {{{{w.a}}}}'{more}}}]"
    (tmp_path / "w.yaml").write_text(f"name: w\nsteps: {steps}\n")
    report = api.build([tmp_path / "w.yaml"], workspace=tmp_path, reporter=Listening())
    assert report.ok
    in_turn = told.index(("w.a", State.RAN)) < told.index(("w.b", State.RUNNING))
    assert in_turn is waits
    assert told.index(("w.a", State.RAN)) < told.index(("w.b", State.RAN))


@pytest.mark.parametrize(
    "steps",
    [
        "[{name: a, command: echo 1}, {name: s, command: echo 2, if: \"'x' == 'y'\"}, {name: b, command: echo 3}]",
        "[{name: a, command: echo 1}, {name: s, command: echo 1}, {name: b, command: echo 3}]",
        "[{name: a, command: echo 1}, {name: b, command: echo 3, cache: false}]",
    ],
    ids=["skipped", "same", "never cached"],
)
def test_a_commit_that_somebody_waits_for_goes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: str
) -> None:
    monkeypatch.setattr("llmc_build.store.group.GATHER_S", 60)  # what is not hurried takes a minute
    mark = tmp_path / "b"
    waiting = f"{{name: b, command: 'while [ ! -e {mark} ]; do sleep 0.05; done', timeout: 20}}"
    steps = steps.replace("command: echo 3", f"command: 'touch {mark}'")
    (tmp_path / "w.yaml").write_text(f"name: w\nsteps: {steps}\n---\nname: v\nsteps: [{waiting}]\n")
    assert api.build([tmp_path / "w.yaml"], workspace=tmp_path, jobs=2).ok


@pytest.mark.parametrize("many", [3, 100])
def test_an_interrupt_cancels_what_never_began_together_where_that_is_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr("llmc_build.plan.MANY", many)
    rest = "".join(f", {{name: s{i}, command: echo {i}}}" for i in range(20))
    kill = f"{{name: k, command: 'kill -INT {os.getpid()}; sleep 5'}}"
    (tmp_path / "w.yaml").write_text(f"name: w\nsteps: [{{name: a, command: echo a}}, {kill}{rest}]\n")
    report = api.build([tmp_path / "w.yaml"], workspace=tmp_path)
    assert report.exit_code == 130
    assert {name: n for name, n in report.counts.items() if n} == {"total": 22, "ran": 1, "cancelled": 21}
    assert [t.target for t in report.targets] == ["w.a", "w.k", *(f"w.s{i}" for i in range(20))]
    assert all(t.reason == "the build was stopped" for t in report.targets[2:])
    assert api.build([tmp_path / "w.yaml"], workspace=tmp_path, targets=["w.a"]).counts["cached"] == 1
