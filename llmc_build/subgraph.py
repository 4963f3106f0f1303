"""The graph of a build that looks at few targets. Pure.

Owns the same questions as `graph.ActionGraph`, which knows all targets and is networkx's; what `plan` asks
of either is `Graph`. A few targets need no library, whose import takes longer than their build.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from llmc_build.frozen import frozen
from llmc_build.model import Edge, EdgeKind, Location, TargetId


@frozen(kw_only=True)
class Limit:
    """How long a target waits for a producer at most."""

    timeout_s: float  # the shortest, where there are several wait edges
    location: Location | None = None  # of the last of them


class Graph(Protocol):
    """What a plan has to know of the targets of a build."""

    order: tuple[TargetId, ...]  # each after all that it comes after
    limits: Mapping[TargetId, Mapping[TargetId, Limit]]  # target -> producer

    def __len__(self) -> int: ...

    def consumers(self, target: TargetId) -> Iterator[TargetId]: ...

    def producer_counts(self) -> dict[TargetId, int]:
        """How many producers each target has; the caller's own."""
        ...

    def heights(self) -> dict[TargetId, int]:
        """The number of targets on the longest way from each target down to a last one, itself counted."""
        ...


class SubGraph:
    """Some targets of an acyclic graph, with the edges among them."""

    def __init__(self, targets: Sequence[TargetId], edges: Iterable[Edge]) -> None:
        """`edges` may lead to and from other targets, too: those are passed over."""
        here = set(targets)
        among = [edge for edge in edges if edge.producer in here and edge.target in here]
        self._consumers: dict[TargetId, dict[TargetId, None]] = {target: {} for target in targets}
        for edge in among:
            self._consumers[edge.producer][edge.target] = None
        self.limits: Mapping[TargetId, Mapping[TargetId, Limit]] = limits_of(among)
        self.order = self._sorted()

    def _sorted(self) -> tuple[TargetId, ...]:
        waiting = self.producer_counts()
        found = [target for target, count in waiting.items() if not count]
        for target in found:  # it grows
            for consumer in self._consumers[target]:
                waiting[consumer] -= 1
                if not waiting[consumer]:
                    found.append(consumer)
        return tuple(found)

    def __len__(self) -> int:
        return len(self._consumers)

    def consumers(self, target: TargetId) -> Iterator[TargetId]:
        return iter(self._consumers[target])

    def producer_counts(self) -> dict[TargetId, int]:
        found = dict.fromkeys(self._consumers, 0)
        for consumers in self._consumers.values():
            for consumer in consumers:
                found[consumer] += 1
        return found

    def heights(self) -> dict[TargetId, int]:
        return heights_of(self)


def heights_of(graph: Graph) -> dict[TargetId, int]:
    """`Graph.heights`: the critical path with every step costing the same."""
    height: dict[TargetId, int] = {}
    below = height.__getitem__
    for target in reversed(graph.order):
        height[target] = 1 + max(map(below, graph.consumers(target)), default=0)
    return height


def limits_of(edges: Iterable[Edge]) -> dict[TargetId, dict[TargetId, Limit]]:
    """The wait edges that run out, those between the same two targets as one."""
    found: dict[TargetId, dict[TargetId, Limit]] = {}
    for edge in edges:
        if edge.timeout_s is not None and edge.kind is EdgeKind.WAIT:
            limits = found.setdefault(edge.target, {})
            old = limits.get(edge.producer)
            shortest = edge.timeout_s if old is None else min(old.timeout_s, edge.timeout_s)
            limits[edge.producer] = Limit(timeout_s=shortest, location=edge.location)
    return found
