"""The graph of all targets of all workflows.  Pure; the only module that uses networkx.

Owns structure: edges of every kind, cycles, closure, order, reachability, how long the way below a target
is.  What the edges mean for a build is `plan`'s business.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import networkx as nx

from llmc_build.errors import Fault, NoSuchTarget, WorkflowError, did_you_mean
from llmc_build.model import Edge, EdgeKind, Location, TargetId


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """All edges between one pair of targets as one."""

    kinds: frozenset[EdgeKind]
    timeout_s: float | None = None  # the shortest of the wait edges
    location: Location | None = None


class ActionGraph:
    """A directed acyclic graph over target ids; an edge goes from producer to consumer."""

    def __init__(self, targets: Sequence[TargetId], edges: Iterable[Edge]) -> None:
        """Raises WorkflowError with every cycle, each printed whole."""
        self._dag: nx.DiGraph[str] = nx.DiGraph()
        self._dag.add_nodes_from(targets)
        for edge in edges:
            self._add(edge)
        self._refuse_cycles()
        self.order: tuple[TargetId, ...] = tuple(nx.topological_sort(self._dag))
        self._ancestors: dict[TargetId, frozenset[TargetId]] = {}

    def _add(self, edge: Edge) -> None:
        pair = (edge.producer, edge.target)
        old: Link | None = self._dag.edges[pair]["link"] if self._dag.has_edge(*pair) else None
        kinds = frozenset((edge.kind,))
        if old is None:
            link = Link(kinds=kinds, timeout_s=edge.timeout_s, location=edge.location)
        else:
            limits = [t for t in (old.timeout_s, edge.timeout_s) if t is not None]
            # the place of the wait explains a timeout; otherwise the first place will do
            place = edge.location if edge.kind is EdgeKind.WAIT else old.location or edge.location
            link = Link(kinds=old.kinds | kinds, timeout_s=min(limits, default=None), location=place)
        self._dag.add_edge(*pair, link=link)

    def _refuse_cycles(self) -> None:
        if nx.is_directed_acyclic_graph(self._dag):
            return
        faults = []
        for group in nx.strongly_connected_components(self._dag):
            if len(group) > 1 or any(self._dag.has_edge(n, n) for n in group):
                start = min(group)
                cycle = nx.find_cycle(self._dag.subgraph(group), source=start)
                faults.append(self._cycle_fault([(a, b) for a, b, *_ in cycle]))
        raise WorkflowError(faults)

    def _cycle_fault(self, cycle: list[tuple[TargetId, TargetId]]) -> Fault:
        links = [self._dag.edges[pair]["link"] for pair in cycle]
        facts = tuple(
            (f"{b} after {a}", f"{_kinds(link)} edge, {link.location or 'order of the steps'}")
            for (a, b), link in zip(cycle, links, strict=True)
        )
        whole = " -> ".join([a for a, _ in cycle] + [cycle[0][0]])
        place = min((link.location for link in links if link.location), key=str, default=None)
        return Fault(
            headline=f"these steps wait for each other: {whole}",
            location=place,
            facts=facts,
            hint="take one of these edges away; steps of a workflow also run in order unless it says "
            "`order: dataflow`",
        )

    def __len__(self) -> int:
        return len(self._dag)

    def __contains__(self, target: object) -> bool:
        return target in self._dag

    def producers(self, target: TargetId) -> Iterable[tuple[TargetId, Link]]:
        """What the target comes after, with the edges to it."""
        return ((p, data["link"]) for p, data in self._dag.pred[target].items())

    def consumers(self, target: TargetId) -> Iterable[TargetId]:
        return iter(self._dag.succ[target])

    def comes_after(self, target: TargetId, other: TargetId) -> bool:
        """Whether a path leads from `other` to `target`."""
        if target not in self._ancestors:
            self._ancestors[target] = frozenset(nx.ancestors(self._dag, target))
        return other in self._ancestors[target]

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
            fresh = [p for p in self._dag.pred[stack.pop()] if p not in wanted]
            wanted.update(fresh)
            stack.extend(fresh)
        part = object.__new__(ActionGraph)
        part._dag = self._dag.subgraph(wanted)
        part.order = tuple(target for target in self.order if target in wanted)
        part._ancestors = self._ancestors
        return part

    def _matches(self, pattern: str) -> list[TargetId]:
        if pattern in self._dag:
            return [pattern]
        glob = pattern if "." in pattern else f"{pattern}.*"
        found = (
            fnmatch.filter(self.order, glob)
            if any(c in pattern for c in "*?[")
            else [target for target in self.order if target.partition(".")[0] == pattern]
        )
        if not found:
            workflows = {target.partition(".")[0] for target in self.order}
            raise NoSuchTarget(
                Fault(
                    headline=f'no target matches "{pattern}"',
                    hint=did_you_mean(pattern, [*sorted(workflows), *self.order])
                    or f"there are {len(self)} targets in: {', '.join(sorted(workflows)[:8])}",
                )
            )
        return found

    def heights(self) -> dict[TargetId, int]:
        """The number of targets on the longest way from each target down to a last one, itself counted.

        It is the critical path with every step costing the same.
        """
        height: dict[TargetId, int] = {}
        for target in reversed(self.order):
            height[target] = 1 + max((height[c] for c in self._dag.succ[target]), default=0)
        return height


def _kinds(link: Link) -> str:
    return "/".join(sorted(kind.value for kind in link.kinds))
