"""Whether a path leads from one target to another.  Pure.

Theory of operation.  To keep what comes before each target would be quadratic, so the graph is walked once,
depth first, and each target gets numbers by which most questions are answered at once.  `_enter` and `_leave`
count the targets as the walk comes to them and is done with them: what lies below a target in the walk's tree
has numbers between its own, so a path is known to exist.  `_low` is the least `_leave` of all that a path
leads to: a target whose number is outside `_low .. _leave` is certainly not below.  What remains is a search
from the later target back, which goes on only where these numbers and the order leave the answer open.  Where
many questions are asked of one target, all that comes before it is found once, and kept until another target
is asked about.

The numbers are those of GRAIL: Yildirim, Chaoji, Zaki, "GRAIL: scalable reachability index for large graphs",
PVLDB 3 (2010).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping

from llmc_build.model import TargetId

Neighbours = Callable[[TargetId], Iterable[TargetId]]


class Reach:
    """Answers for one graph that does not change."""

    def __init__(self, place: Mapping[TargetId, int], producers: Neighbours, consumers: Neighbours) -> None:
        """`place`: target -> its place in a topological order, in that order."""
        self._producers = producers
        self._place = place
        self._enter = array("q", [-1]) * len(place)
        self._leave = array("q", [-1]) * len(place)
        self._low = array("q", [-1]) * len(place)
        self._asked: TargetId = ""  # the target that was asked about last,
        self._before: frozenset[TargetId] | None = None  # all that comes before it, once that paid
        self._spent = 0  # and how many targets were looked at for it
        self._number(consumers)

    def comes_after(self, target: TargetId, other: TargetId) -> bool:
        """Whether a path leads from `other` to `target`; nothing comes after what is not in the graph."""
        place = self._place
        if other not in place or place[target] <= place[other] or not self._may_lead(other, target):
            return False
        if self._leads(other, target):
            return True
        if target != self._asked:
            self._asked, self._before, self._spent = target, None, 0
        if self._before is None and self._spent > len(place):
            self._before = frozenset(self._all_before(target))
        return self._found(target, other) if self._before is None else other in self._before

    def _number(self, consumers: Neighbours) -> None:
        place, enter, leave, low = self._place, self._enter, self._leave, self._low
        entered = left = 0
        for root in place:
            if enter[place[root]] >= 0:
                continue
            enter[place[root]], entered = entered, entered + 1
            way = [(place[root], iter(consumers(root)))]
            least = [len(place)]  # of the ways from each target on the way, as far as they are walked
            while way:
                here, rest = way[-1]
                for consumer in rest:
                    there = place[consumer]
                    if enter[there] < 0:
                        enter[there], entered = entered, entered + 1
                        way.append((there, iter(consumers(consumer))))
                        least.append(len(place))
                        break
                    least[-1] = min(least[-1], low[there])
                else:
                    way.pop()
                    leave[here], low[here], left = left, min(least.pop(), left), left + 1
                    if least:
                        least[-1] = min(least[-1], low[here])

    def _leads(self, other: TargetId, target: TargetId) -> bool:
        """Whether the walk's tree has a path; False says nothing."""
        a, b = self._place[other], self._place[target]
        return self._enter[a] < self._enter[b] and self._leave[b] < self._leave[a]

    def _may_lead(self, other: TargetId, target: TargetId) -> bool:
        """False: there is no path."""
        a, b = self._place[other], self._place[target]
        return a < b and self._low[a] <= self._low[b] and self._leave[b] < self._leave[a]

    def _found(self, target: TargetId, other: TargetId) -> bool:
        seen = {target}
        stack = [target]
        while stack:
            for producer in self._producers(stack.pop()):
                self._spent += 1
                if producer == other:
                    return True
                if producer in seen or not self._may_lead(other, producer):
                    continue
                if self._leads(other, producer):
                    return True
                seen.add(producer)
                stack.append(producer)
        return False

    def _all_before(self, target: TargetId) -> set[TargetId]:
        seen: set[TargetId] = set()
        stack = [target]
        while stack:
            for producer in self._producers(stack.pop()):
                if producer not in seen:
                    seen.add(producer)
                    stack.append(producer)
        return seen
