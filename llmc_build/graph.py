"""The graph of all targets of all workflows.  Pure; the only module that uses networkx.

Owns structure: edges of every kind, cycles, closure, order, how long the way below a target is.  What the
edges mean for a build is `plan`'s business; whether a path leads from here to there is `reach`'s.

Theory of operation.  One networkx DAG of everything finds the cycles and the order.  Its dictionaries take
half a kilobyte for each target, so then only the edges stay, as numbers in arrays: a target's number is its
place in the order.  What a build has to know of an edge beyond that it is there, the limit of a wait, is kept
beside it.  Importing networkx takes a tenth of a second, longer than most small builds: a few targets are put
into the same order without it, unless they have a cycle.
"""

from __future__ import annotations

import fnmatch
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from llmc_build.errors import Fault, NoSuchTarget, WorkflowError, did_you_mean
from llmc_build.model import Edge, EdgeKind, Location, TargetId
from llmc_build.reach import Reach
from llmc_build.subgraph import Limit, SubGraph, heights_of, limits_of

_Cycle: TypeAlias = Sequence[tuple[TargetId, TargetId]]
if TYPE_CHECKING:
    from networkx import DiGraph

FEW = 64  # targets that need no networkx
_TOLD = 100  # edges of a cycle that are told: nobody reads more
_NEAR = 64  # edges of a target that are looked through before a path is looked for


class ActionGraph:
    """A directed acyclic graph over target ids; an edge goes from producer to consumer."""

    def __init__(self, targets: Sequence[TargetId], edges: Collection[Edge]) -> None:
        """Raises WorkflowError with every cycle, each printed whole, or as much as anybody reads."""
        self.order: tuple[TargetId, ...] = ()
        few = SubGraph(targets, edges) if len(targets) <= FEW else None
        if few is not None and len(few.order) == len(targets):  # else there is a cycle, to be told
            self.order = few.order
            into = _producers(few)
            self._settle(into.__getitem__, few.consumers)
        else:
            self._order_by_networkx(targets, edges)
        self.limits: Mapping[TargetId, Mapping[TargetId, Limit]] = limits_of(edges)  # target -> producer
        self._whole = self  # what it is a part of
        self._reach: Reach | None = None  # of a whole graph, once it is needed

    def _order_by_networkx(self, targets: Sequence[TargetId], edges: Collection[Edge]) -> None:
        import networkx as nx

        dag = _empty_dag()
        dag.add_nodes_from(targets)
        dag.add_edges_from((edge.producer, edge.target) for edge in edges)
        try:
            self.order = tuple(nx.topological_sort(dag))
        except nx.NetworkXUnfeasible:
            raise WorkflowError(_cycle_faults(list(_cycles(dag)), edges)) from None
        self._settle(dag.predecessors, dag.successors)
        dag.clear()  # views that it keeps refer to it, so that it would stay

    def _settle(
        self,
        producers: Callable[[TargetId], Iterable[TargetId]],
        consumers: Callable[[TargetId], Iterable[TargetId]],
    ) -> None:
        """Writes down the edges of the targets in `order`."""
        self._place = {target: place for place, target in enumerate(self.order)}
        self._into = _Lists(map(self._place.__getitem__, producers(target)) for target in self.order)
        self._out = _Lists(map(self._place.__getitem__, consumers(target)) for target in self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __contains__(self, target: object) -> bool:
        return target in self._place

    def producers(self, target: TargetId) -> Iterator[TargetId]:
        """What the target comes after by an edge of any kind."""
        return map(self.order.__getitem__, self._into[self._place[target]])

    def consumers(self, target: TargetId) -> Iterator[TargetId]:
        return map(self.order.__getitem__, self._out[self._place[target]])

    def producer_counts(self) -> dict[TargetId, int]:
        """How many producers each target has; the caller's own."""
        return dict(zip(self.order, self._into.sizes(), strict=True))

    def comes_after(self, target: TargetId, other: TargetId) -> bool:
        """Whether a path leads from `other` to `target`."""
        place = self._place[target]
        if self._into.size(place) <= _NEAR and self._place.get(other) in self._into[place]:
            return True
        whole = self._whole  # a part has all that its targets come after
        if whole._reach is None:
            whole._reach = Reach(whole._place, whole.producers, whole.consumers)
        return whole._reach.comes_after(target, other)

    def select(self, patterns: Sequence[str]) -> ActionGraph:
        """The part of the graph that the patterns name, with all it depends on; all of it for no pattern.

        A pattern is `workflow.step`, `workflow`, or a glob of either.  Raises NoSuchTarget.
        """
        if not patterns:
            return self
        wanted: set[TargetId] = set()
        for pattern in patterns:
            wanted.update(self._matches(pattern))
        stack = list(wanted)
        while stack:
            fresh = [p for p in self.producers(stack.pop()) if p not in wanted]
            wanted.update(fresh)
            stack.extend(fresh)
        if len(wanted) == len(self):
            return self
        part = object.__new__(ActionGraph)
        part.order = tuple(target for target in self.order if target in wanted)
        part.limits = {target: found for target, found in self.limits.items() if target in wanted}
        part._whole = self._whole
        part._settle(self.producers, lambda target: filter(wanted.__contains__, self.consumers(target)))
        return part

    def _matches(self, pattern: str) -> list[TargetId]:
        if pattern in self._place:
            return [pattern]
        glob = pattern if "." in pattern else f"{pattern}.*"
        found = (
            fnmatch.filter(self.order, glob)
            if any(c in pattern for c in "*?[")
            else [target for target in self.order if target.partition(".")[0] == pattern]
        )
        if not found:
            hint = _meant(pattern, self.order)
            raise NoSuchTarget(Fault(headline=f'no target matches "{pattern}"', hint=hint))
        return found

    def heights(self) -> dict[TargetId, int]:
        return heights_of(self)


def _meant(pattern: str, targets: Sequence[TargetId]) -> str:
    """How a pattern that matches nothing may have been meant."""
    workflow, dot, step = pattern.partition(".")
    named = [target for target in targets if not dot and target.endswith(f".{pattern}")]
    if named:
        return f'a target is written workflow.step: did you mean "{named[0]}"?'
    own = [target for target in targets if dot and target.startswith(f"{workflow}.")]
    if own and step:
        shown = ", ".join(target.partition(".")[2] for target in own[:8])
        return did_you_mean(pattern, own) or f"workflow {workflow} has the steps {shown}"
    workflows = sorted({target.partition(".")[0] for target in targets})
    count = "is 1 target" if len(targets) == 1 else f"are {len(targets)} targets"
    return did_you_mean(pattern, [*workflows, *targets]) or f"there {count} in: {', '.join(workflows[:8])}"


class _Lists:
    """A list of numbers for each number, in four bytes for each."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, lists: Iterable[Iterable[int]]) -> None:
        self._starts, self._ends = array("I", [0]), array("I")
        for one in lists:
            self._ends.extend(one)
            self._starts.append(len(self._ends))

    def __getitem__(self, number: int) -> array[int]:
        return self._ends[self._starts[number] : self._starts[number + 1]]

    def size(self, number: int) -> int:
        return self._starts[number + 1] - self._starts[number]

    def sizes(self) -> Iterator[int]:
        return (end - start for start, end in pairwise(self._starts))


def _producers(graph: SubGraph) -> dict[TargetId, list[TargetId]]:
    found: dict[TargetId, list[TargetId]] = {target: [] for target in graph.order}
    for target in graph.order:
        for consumer in graph.consumers(target):
            found[consumer].append(target)
    return found


def _empty_dag() -> DiGraph[str]:
    """A DiGraph whose targets and edges share one empty dictionary of attributes."""
    from networkx import DiGraph

    nothing: dict[str, object] = {}  # networkx updates it with nothing

    class Dag(DiGraph):  # type: ignore[type-arg]
        node_attr_dict_factory = edge_attr_dict_factory = staticmethod(lambda: nothing)

    return Dag()


def _cycles(dag: DiGraph[str]) -> Iterator[list[tuple[TargetId, TargetId]]]:
    """A cycle, as its edges, of each group of targets that wait for each other."""
    import networkx as nx

    for group in nx.strongly_connected_components(dag):
        if len(group) > 1 or any(dag.has_edge(n, n) for n in group):
            yield list(nx.find_cycle(dag.subgraph(group), source=min(group)))


def _cycle_faults(cycles: Sequence[_Cycle], edges: Iterable[Edge]) -> list[Fault]:
    found: dict[tuple[TargetId, TargetId], list[Edge]] = {pair: [] for cycle in cycles for pair in cycle}
    for edge in edges:
        pair = (edge.producer, edge.target)
        if pair in found:
            found[pair].append(edge)
    told = [cycle for cycle in cycles if len(cycle) > 1 or not _by_order_alone(found[cycle[0]])]
    return [_cycle_fault(cycle, found) for cycle in told]


def _by_order_alone(edges: Sequence[Edge]) -> bool:
    """A step that follows itself because two have its name, which is told elsewhere."""
    return all(edge.kind is EdgeKind.ORDER for edge in edges)


def _cycle_fault(cycle: _Cycle, edges: Mapping[tuple[TargetId, TargetId], Sequence[Edge]]) -> Fault:
    places = {pair: _place(edges[pair]) for pair in cycle}
    facts = [
        (f"{b} after {a}", f"{_kinds(edges[a, b])} edge, {places[a, b] or 'order of the steps'}")
        for a, b in cycle
    ]
    names = [a for a, _ in cycle] + [cycle[0][0]]
    if len(cycle) > _TOLD:
        half, left = _TOLD // 2, len(cycle) - _TOLD
        names[half:-half] = [f"({left:,} more)"]
        facts[half:-half] = [("...", f"{left:,} more")]
    return Fault(
        headline=f"these steps wait for each other: {' -> '.join(names)}",
        location=min((place for place in places.values() if place), key=str, default=None),
        facts=tuple(facts),
        hint="take one of these edges away; steps of a workflow also run in order unless it says "
        "`order: dataflow`",
    )


def _kinds(edges: Iterable[Edge]) -> str:
    return "/".join(sorted({edge.kind.value for edge in edges}))


def _place(edges: Iterable[Edge]) -> Location | None:
    """The place of the last wait explains most; otherwise the first place will do."""
    waits = [edge.location for edge in edges if edge.kind is EdgeKind.WAIT]
    return waits[-1] if waits else next((edge.location for edge in edges if edge.location), None)
