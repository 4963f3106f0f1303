"""The plan, without a world: states, causes, clocks, queues."""

from __future__ import annotations

import itertools

import pytest

from llmc_build import plan as p
from llmc_build.graph import ActionGraph
from llmc_build.model import Edge, EdgeKind, Location, State

PLACE = Location(file="flow.yaml", line=7, column=15)


def edge(producer: str, target: str, kind: EdgeKind = EdgeKind.DATA, timeout_s: float | None = None) -> Edge:
    return Edge(producer=producer, target=target, kind=kind, timeout_s=timeout_s, location=PLACE)


class World:
    """Drives a plan by hand: everything checked is a miss unless said otherwise."""

    def __init__(self, nodes: str, *edges: Edge, fail_fast: bool = False, **verdicts: p.Verdict) -> None:
        self.plan = p.Plan(ActionGraph(nodes.split(), edges), fail_fast=fail_fast)
        self.verdicts = verdicts
        self.now = 0.0
        self.ends: dict[str, p.Ended] = {}
        self.cancelled: list[str] = []
        self.checks: list[str] = []
        self.obey(self.plan.start(self.now))

    def obey(self, commands: list[p.Command]) -> None:
        for command in commands:
            if isinstance(command, p.Ended):
                assert command.target not in self.ends, "a target ends once"
                self.ends[command.target] = command
            elif isinstance(command, p.Cancel):
                self.cancelled.append(command.target)
            else:
                self.checks.append(command.target)
                verdict = self.verdicts.get(command.target, p.Miss(reason="new", lane="shell"))
                self.obey(self.plan.handle(p.Checked(target=command.target, verdict=verdict), self.now))

    def take(self) -> str | None:
        return self.plan.take("shell")

    def finish(self, target: str, error: str | None = None, **more: bool) -> None:
        self.obey(self.plan.handle(p.Finished(target=target, error=error, **more), self.now))

    def answer(self, target: str) -> None:
        self.obey(self.plan.handle(p.Answered(target=target), self.now))

    def run(self, target: str, error: str | None = None) -> None:
        assert self.take() == target
        self.finish(target, error)

    def at(self, now: float) -> None:
        self.now = now
        self.obey(self.plan.tick(now))

    def state(self, target: str) -> State:
        return self.plan.state(target)


def test_a_consumer_is_checked_only_after_its_producer_has_ended() -> None:
    world = World("w.a w.b", edge("w.a", "w.b"))
    assert world.checks == ["w.a"]
    world.run("w.a")
    assert world.checks == ["w.a", "w.b"]
    world.run("w.b")
    assert world.plan.finished
    assert [world.ends[t].state for t in ("w.a", "w.b")] == [State.RAN, State.RAN]


def test_a_consumer_begins_when_its_producer_has_answered_and_ends_when_it_likes() -> None:
    """The producer's result is on its way to the disk meanwhile."""
    world = World("w.a w.b w.c", edge("w.a", "w.b"), edge("w.a", "w.c"), edge("w.b", "w.c"))
    assert world.take() == "w.a"
    world.answer("w.a")
    assert world.checks == ["w.a", "w.b"]
    assert world.state("w.a") is State.RUNNING
    assert world.take() == "w.b"
    world.answer("w.b")
    assert world.checks == ["w.a", "w.b", "w.c"]
    world.finish("w.b")
    world.finish("w.a")
    assert world.checks == ["w.a", "w.b", "w.c"]
    world.run("w.c")
    assert world.plan.finished
    assert {end.state for end in world.ends.values()} == {State.RAN}


def test_what_is_found_at_once_is_not_said_before_its_producers_have_ended() -> None:
    world = World(
        "w.a w.b w.c w.d",
        edge("w.a", "w.c"),
        edge("w.b", "w.c"),
        edge("w.c", "w.d"),
        **{"w.c": p.Hit(reason="in the store")},
    )
    assert [world.take(), world.take()] == ["w.a", "w.b"]
    world.answer("w.a")
    world.answer("w.b")
    assert world.checks[-1] == "w.c"
    world.finish("w.a")
    assert world.state("w.c") is State.READY
    world.finish("w.b")
    assert world.state("w.c") is State.CACHED
    world.run("w.d")
    assert list(world.ends) == ["w.a", "w.b", "w.c", "w.d"]
    assert world.plan.finished


def test_who_has_answered_keeps_nobody_waiting_for_a_clock() -> None:
    world = World("w.a w.b w.c", edge("w.a", "w.b", EdgeKind.WAIT, 10), edge("w.c", "w.b", EdgeKind.WAIT, 20))
    assert world.take() == "w.a"
    assert world.take() == "w.c"
    world.answer("w.a")
    world.at(15)
    assert world.state("w.b") is State.WANTED
    world.at(21)
    assert str(world.ends["w.b"].error).startswith("waited 20 s for w.c")


def test_a_build_is_stopped_while_results_are_on_their_way() -> None:
    world = World("w.a w.b", edge("w.a", "w.b"))
    assert world.take() == "w.a"
    world.answer("w.a")
    assert world.take() == "w.b"
    world.obey(world.plan.handle(p.Interrupted(), world.now))
    world.finish("w.a")
    world.finish("w.b", "stopped", cancelled=True)
    assert [world.ends[t].state for t in ("w.a", "w.b")] == [State.RAN, State.CANCELLED]


def test_targets_on_the_longest_way_start_first_and_ties_go_by_name() -> None:
    world = World("w.z w.b w.a w.end", edge("w.z", "w.end"))
    assert [world.take() for _ in range(4)] == ["w.z", "w.a", "w.b", None]


@pytest.mark.parametrize("kind", list(EdgeKind))
def test_a_failure_poisons_all_below_by_any_edge_and_names_the_root(kind: EdgeKind) -> None:
    """Two workflows below, the cause is still the step that failed, not the one between."""
    world = World("a.x b.x c.x d.free", edge("a.x", "b.x", kind), edge("b.x", "c.x", kind))
    world.run("a.x", error="exit code 1")
    assert world.ends["c.x"].state is State.POISONED
    assert world.ends["c.x"].caused_by == "a.x"
    world.run("d.free")
    assert world.ends["d.free"].state is State.RAN


def test_poison_comes_at_once_though_another_producer_still_runs() -> None:
    world = World("w.bad w.slow w.end", edge("w.bad", "w.end"), edge("w.slow", "w.end"))
    assert {world.take(), world.take()} == {"w.bad", "w.slow"}
    world.finish("w.bad", "boom")
    assert world.state("w.end") is State.POISONED
    world.finish("w.slow")
    assert world.plan.finished


def test_what_follows_a_skipped_step_goes_on() -> None:
    world = World("w.a w.b", edge("w.a", "w.b", EdgeKind.WAIT, 5), **{"w.a": p.Skip(reason="if")})
    assert world.ends["w.a"].state is State.SKIPPED
    world.run("w.b")


def test_a_wait_runs_out_while_the_producer_goes_on() -> None:
    world = World(
        "w.slow w.wait w.after", edge("w.slow", "w.wait", EdgeKind.WAIT, 10), edge("w.wait", "w.after")
    )
    assert world.take() == "w.slow"
    assert world.plan.deadline == 10
    world.at(9.9)
    assert world.state("w.wait") is State.WANTED
    world.at(10.0)
    assert world.ends["w.wait"].error == (
        "waited 10 s for w.slow, which has not ended (wait_for at flow.yaml:7:15)"
    )
    assert world.ends["w.after"].caused_by == "w.wait"
    assert world.state("w.slow") is State.RUNNING
    world.finish("w.slow")
    assert world.ends["w.slow"].state is State.RAN
    assert world.plan.finished


def test_the_clock_of_a_wait_starts_when_nothing_else_is_waited_for() -> None:
    """A step late in its workflow must not spend its limit while its own workflow is still busy."""
    world = World(
        "w.slow w.before w.wait", edge("w.slow", "w.wait", EdgeKind.WAIT, 10), edge("w.before", "w.wait")
    )
    world.take()
    world.take()
    world.now = 100.0
    assert world.plan.deadline is None
    world.finish("w.before")
    assert world.plan.deadline == 110.0
    world.at(109.0)
    world.finish("w.slow")
    world.at(200.0)
    world.run("w.wait")


def test_a_wait_without_a_limit_never_runs_out() -> None:
    world = World("w.slow w.wait", edge("w.slow", "w.wait", EdgeKind.WAIT))
    world.take()
    assert world.plan.deadline is None


def test_twenty_may_wait_for_one() -> None:
    names = [f"w{i}.x" for i in range(20)]
    world = World(
        " ".join(["p.x", *names]), *(edge("p.x", n, EdgeKind.WAIT, i + 1) for i, n in enumerate(names))
    )
    world.take()
    world.at(10.5)
    assert [world.state(n) is State.FAILED for n in names] == [True] * 10 + [False] * 10
    world.finish("p.x")
    assert sorted(t for t in iter(world.take, None)) == sorted(names[10:])


def test_equal_actions_run_once_and_the_follower_finds_the_result() -> None:
    world = World("w.a w.b w.c", edge("w.b", "w.c"), **{"w.b": p.Same(leader="w.a")})
    assert (world.take(), world.take()) == ("w.a", None)
    world.verdicts["w.b"] = p.Hit(reason="equal to w.a")
    world.finish("w.a")
    assert world.ends["w.b"].state is State.CACHED
    world.run("w.c")


def test_a_follower_fails_with_its_leader() -> None:
    world = World("w.a w.b", **{"w.b": p.Same(leader="w.a")})
    world.run("w.a", error="exit code 3")
    assert world.ends["w.b"].state is State.FAILED
    assert world.ends["w.b"].error == "exit code 3 (the same action as w.a)"


def not_started(world: World, target: str, verdict: p.Verdict) -> None:
    world.obey(world.plan.handle(p.NotStarted(target=target, verdict=verdict), world.now))


def test_a_target_that_was_found_in_the_store_as_it_was_to_start_ends_and_its_followers_are_checked() -> None:
    world = World("w.a w.b w.end", edge("w.a", "w.end"), **{"w.b": p.Same(leader="w.a")})
    assert world.take() == "w.a"
    world.verdicts["w.b"] = p.Hit(reason="in the store")
    not_started(world, "w.a", p.Hit(reason="in the store"))
    assert world.ends["w.a"].state is State.CACHED
    assert world.ends["w.b"].state is State.CACHED
    world.run("w.end")
    assert world.plan.finished


def test_a_target_that_another_process_runs_as_it_was_to_start_is_checked_again_later() -> None:
    world = World("w.a w.b", **{"w.b": p.Same(leader="w.a")})
    assert world.take() == "w.a"
    world.verdicts["w.b"] = p.Elsewhere(again_in_s=1.0)
    not_started(world, "w.a", p.Elsewhere(again_in_s=1.0))
    world.verdicts["w.a"] = world.verdicts["w.b"] = p.Hit(reason="in the store")
    assert not world.ends
    world.at(1.0)
    assert {end.state for end in world.ends.values()} == {State.CACHED}
    assert world.plan.finished


@pytest.mark.parametrize("fail_fast", [False, True])
def test_followers_of_what_is_still_queued_are_cancelled_with_it(fail_fast: bool) -> None:
    """They occupy no worker, so nobody else would ever end them."""
    world = World("w.a w.z w.b", fail_fast=fail_fast, **{"w.b": p.Same(leader="w.z")})
    assert world.take() == "w.a"
    if fail_fast:
        world.finish("w.a", error="exit code 1")
    else:
        world.obey(world.plan.handle(p.Interrupted(), world.now))
        world.finish("w.a", error="stopped", cancelled=True)
    assert world.ends["w.z"].state is State.CANCELLED
    assert world.ends["w.b"].state is State.CANCELLED
    assert world.plan.finished


def test_a_follower_is_checked_anew_where_the_leader_was_stopped_by_its_own_limit() -> None:
    """The leader's timeout is no property of the action: the follower may have a longer one."""
    world = World("w.a w.b", **{"w.b": p.Same(leader="w.a")})
    world.take()
    world.verdicts.clear()
    world.finish("w.a", "timed out", own_fault=True)
    world.run("w.b")
    assert world.ends["w.b"].state is State.RAN


def test_fail_fast_starts_nothing_more_and_lets_what_runs_end() -> None:
    world = World("w.a w.b w.c w.d", edge("w.b", "w.d"), fail_fast=True)
    assert (world.take(), world.take()) == ("w.b", "w.a")
    world.finish("w.a", "boom")
    assert world.ends["w.c"].state is State.CANCELLED
    assert world.ends["w.d"].state is State.CANCELLED
    assert world.cancelled == []
    world.finish("w.b")
    assert world.ends["w.b"].state is State.RAN
    assert world.plan.finished


def test_an_interrupt_cancels_what_waits_and_ends_what_runs() -> None:
    world = World("w.a w.b", edge("w.a", "w.b"))
    world.take()
    world.obey(world.plan.handle(p.Interrupted(), 0.0))
    assert world.ends["w.b"].state is State.CANCELLED
    assert world.cancelled == ["w.a"]
    world.finish("w.a", "cancelled", cancelled=True)
    assert world.ends["w.a"].state is State.CANCELLED
    assert world.plan.finished


def test_what_ends_well_after_an_interrupt_is_kept() -> None:
    world = World("w.a")
    world.take()
    world.obey(world.plan.handle(p.Interrupted(), 0.0))
    world.finish("w.a")
    assert world.ends["w.a"].state is State.RAN


def test_what_another_process_runs_is_looked_at_again() -> None:
    world = World("w.a", **{"w.a": p.Elsewhere(again_in_s=0.5)})
    assert world.take() is None
    assert world.plan.deadline == 0.5
    world.verdicts["w.a"] = p.Hit(reason="in the store")
    world.at(0.5)
    assert world.ends["w.a"].state is State.CACHED


def test_a_chain_of_ten_thousand_needs_no_recursion() -> None:
    names = [f"w.s{i}" for i in range(10_000)]
    world = World(" ".join(names), *(edge(a, b) for a, b in itertools.pairwise(names)))
    world.run("w.s0", error="boom")
    assert world.plan.finished
    assert world.ends[names[-1]].caused_by == "w.s0"
