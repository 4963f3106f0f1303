"""Graphs of every shape cost in proportion to their size: what is looked at is counted, not timed."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterable, Iterator

import networkx as nx
import pytest

from llmc_build import plan as p
from llmc_build.errors import WorkflowError
from llmc_build.graph import ActionGraph
from llmc_build.model import Edge, EdgeKind, Location, State
from llmc_build.reach import Reach

PLACE = Location(file="flow.yaml", line=7, column=15)
Pairs = list[tuple[int, int]]


def deep(size: int) -> Pairs:
    return [(i - 1, i) for i in range(1, size)]


def wide(size: int) -> Pairs:
    return [(0, i) for i in range(1, size)]


def gathered(size: int) -> Pairs:
    """One target reads all others."""
    return [(i, size - 1) for i in range(size - 1)]


def dense(size: int) -> Pairs:
    """Each reads the twenty before it."""
    return [(i - k, i) for i in range(size) for k in range(1, 21) if i >= k]


def scattered(size: int) -> Pairs:
    """Each reads three others from anywhere before it."""
    dice = random.Random(size)
    return [(dice.randrange(i), i) for i in range(1, size) for _ in range(3)]


def chains(size: int) -> Pairs:
    """One root, and workflows of ten steps in a row."""
    return [(0 if i % 10 == 1 else i - 1, i) for i in range(1, size)]


def waits(size: int) -> Pairs:
    """The same; every edge is a wait with a limit."""
    return chains(size)


SHAPES = [deep, wide, gathered, dense, scattered, chains, waits]
Shape = Callable[[int], Pairs]


def named(number: int) -> str:
    return f"w.s{number}"


class Counted(ActionGraph):
    """Counts the neighbours that are looked at."""

    looks = 0

    def producers(self, target: str) -> Iterator[str]:
        return self._counted(super().producers(target))

    def consumers(self, target: str) -> Iterator[str]:
        return self._counted(super().consumers(target))

    def _counted(self, found: Iterable[str]) -> Iterator[str]:
        for one in found:
            self.looks += 1
            yield one


def graph(shape: Shape, size: int) -> Counted:
    kind, limit = (EdgeKind.WAIT, 60.0) if shape is waits else (EdgeKind.DATA, None)
    edges = [
        Edge(producer=named(a), target=named(b), kind=kind, timeout_s=limit, location=PLACE)
        for a, b in shape(size)
    ]
    return Counted([named(i) for i in range(size)], edges)


def drive(plan: p.Plan, *, verdict: p.Verdict, error: str | None = None) -> dict[State, int]:
    """Plays a build to its end; each that runs fails with `error`."""
    ended: dict[State, int] = {}
    todo = list(plan.start(0.0))
    while todo or not plan.finished:
        if not todo:
            todo += plan.tick(0.0)
            while (target := plan.take("shell")) is not None:
                todo += plan.handle(p.Finished(target=target, error=error), 0.0)
        for command in reversed([todo.pop() for _ in range(len(todo))]):
            if isinstance(command, p.Ended):
                ended[command.state] = ended.get(command.state, 0) + 1
            elif isinstance(command, p.Check):
                todo += plan.handle(p.Checked(target=command.target, verdict=verdict), 0.0)
    return ended


HIT, MISS = p.Hit(reason="in the store"), p.Miss(reason="new", lane="shell")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("verdict", "error", "state"),
    [(HIT, None, State.CACHED), (MISS, None, State.RAN), (MISS, "no", State.FAILED)],
    ids=["cached", "ran", "failed"],
)
def test_a_plan_looks_at_each_edge_a_few_times_at_most(
    shape: Shape, verdict: p.Verdict, error: str | None, state: State
) -> None:
    for size in (1_000, 4_000 if shape is dense else 8_000):
        dag = graph(shape, size)
        ended = drive(p.Plan(dag), verdict=verdict, error=error)
        assert ended.keys() <= {state, State.POISONED}
        assert ended[state] >= 1
        assert sum(ended.values()) == size
        # once to release or poison, once for the critical path
        assert dag.looks <= 2 * len(shape(size))


@pytest.mark.parametrize("shape", SHAPES)
def test_stopping_looks_at_no_edge(shape: Shape) -> None:
    dag = graph(shape, 2_000)
    plan = p.Plan(dag)
    plan.start(0.0)
    found = plan.handle(p.Interrupted(), 0.0)
    assert len(found) == 2_000
    assert plan.finished
    assert dag.looks == 0


def test_what_runs_is_stopped_before_the_long_list_of_what_waits() -> None:
    plan = p.Plan(graph(wide, 1_000))
    for command in plan.start(0.0):
        assert isinstance(command, p.Check)
        plan.handle(p.Checked(target=command.target, verdict=MISS), 0.0)
    assert plan.take("shell") == named(0)
    assert plan.handle(p.Interrupted(), 0.0)[0] == p.Cancel(target=named(0))


def test_a_plan_begins_with_some_thousands_and_asks_to_be_called_for_the_others() -> None:
    """An interrupt, and the workers, are looked after between."""
    size = 3 * p.AT_ONCE + 1
    plan = p.Plan(ActionGraph([named(i) for i in range(size)], []))
    found = [len(plan.start(0.0))]
    while plan.deadline is not None:
        assert plan.deadline <= 0.0
        found.append(len(plan.tick(0.0)))
    assert found == [p.AT_ONCE] * 3 + [1]


# ---------------------------------------------------------------- paths


def asked(size: int) -> Iterator[tuple[int, int]]:
    """Pairs near and far, in both directions, target by target."""
    dice = random.Random(1)
    for target in range(0, size, max(1, size // 500)):
        for other in (0, target // 2, size - 1, dice.randrange(size), dice.randrange(size)):
            if other != target:
                yield target, other


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [2, 30, 300])
def test_reach_agrees_with_networkx(shape: Shape, size: int) -> None:
    dag = graph(shape, size)
    whole: nx.DiGraph[int] = nx.DiGraph()
    whole.add_nodes_from(range(size))
    whole.add_edges_from(shape(size))
    before = {target: nx.ancestors(whole, target) for target in range(size)}
    for target, other in asked(size):
        assert dag.comes_after(named(target), named(other)) == (other in before[target]), (target, other)


@pytest.mark.parametrize("seed", range(40))
def test_reach_agrees_with_networkx_on_random_graphs(seed: int) -> None:
    """Every pair, in an order that mixes targets, on sparse and dense graphs."""
    dice = random.Random(seed)
    size, edges = dice.randrange(2, 40), dice.randrange(120)
    pairs = [tuple(sorted(dice.sample(range(size), 2))) for _ in range(edges)]
    names = dice.sample(range(size), size)
    whole: nx.DiGraph[int] = nx.DiGraph()
    whole.add_nodes_from(names)
    whole.add_edges_from(pairs)
    found = [Edge(producer=named(a), target=named(b), kind=EdgeKind.DATA) for a, b in pairs]
    dag = ActionGraph([named(i) for i in names], found)
    assert list(dag.order) == [named(i) for i in nx.topological_sort(whole)]
    questions = [(a, b) for a in names for b in names]
    dice.shuffle(questions)
    for target, other in [*questions, *sorted(questions)]:
        expected = other in nx.ancestors(whole, target)
        assert dag.comes_after(named(target), named(other)) == expected, (target, other)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cost_of_a_question_does_not_grow_with_the_graph(shape: Shape) -> None:
    """2,500 questions cost the one walk and little more; a set of ancestors for each would be a million."""
    size = 4_000 if shape in (dense, scattered) else 20_000
    dag = graph(shape, size)
    for target, other in asked(size):
        dag.comes_after(named(target), named(other))
    walk = len(shape(size))
    assert dag.looks <= walk + 60_000


def test_many_questions_about_one_target_end_in_one_search() -> None:
    """A step that reads what ten thousand others write."""
    size = 20_000
    pairs = [(i, size) for i in range(1, size, 2)] + [(i - 1, i) for i in range(1, size, 2)]
    looks = 0

    def producers(target: str) -> Iterator[str]:
        nonlocal looks
        for one in before[target]:
            looks += 1
            yield one

    before: dict[str, list[str]] = {named(i): [] for i in range(size + 1)}
    after: dict[str, list[str]] = {named(i): [] for i in range(size + 1)}
    for a, b in pairs:
        before[named(b)].append(named(a))
        after[named(a)].append(named(b))
    order = [named(i) for i in (*range(0, size, 2), *range(1, size, 2), size)]
    place = {target: number for number, target in enumerate(order)}
    reach = Reach(place, producers, after.__getitem__)
    assert all(reach.comes_after(named(size), named(i)) for i in range(0, size, 2))
    assert looks <= 4 * len(pairs)


# ---------------------------------------------------------------- building it


@pytest.mark.parametrize("shape", SHAPES)
def test_a_part_keeps_order_limits_and_paths(shape: Shape) -> None:
    whole = graph(shape, 500)
    part = whole.select([named(250)])
    wanted = {named(250), *(t for t in whole.order if whole.comes_after(named(250), t))}
    assert part.order == tuple(t for t in whole.order if t in wanted)
    for target in part.order:
        assert set(part.producers(target)) == set(whole.producers(target))
        assert set(part.consumers(target)) == set(whole.consumers(target)) & wanted
        assert part.limits.get(target) == whole.limits.get(target)
    drive(p.Plan(part), verdict=MISS)


def test_a_cycle_through_twenty_thousand_is_found_without_recursion() -> None:
    size = 20_000
    edges = [Edge(producer=named(i), target=named((i + 1) % size), kind=EdgeKind.DATA) for i in range(size)]
    with pytest.raises(WorkflowError) as caught:
        ActionGraph([named(i) for i in range(size)], edges)
    assert len(caught.value.faults) == 1


def test_a_target_takes_little_memory() -> None:
    """Graph and plan of a hundred thousand targets in 90 MB; here of ten thousand."""
    names = [named(i) for i in range(10_000)]
    edges = [Edge(producer=names[a], target=names[b], kind=EdgeKind.DATA) for a, b in chains(10_000)]
    tracemalloc.start()
    try:
        dag = ActionGraph(names, edges)
        plan = p.Plan(dag)
        drive(plan, verdict=HIT)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 900 * len(names)
