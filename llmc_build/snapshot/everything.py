"""What a report says of every target, made when somebody asks for it.  World only by its neighbours.

Owns nothing: targets that a build looked at have their reports, and all others are as the snapshot says.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import overload

from llmc_build.model import Digest, State, TargetId, TargetReport
from llmc_build.snapshot.form import SKIPPED, Snapshot
from llmc_build.snapshot.structure import Structure

UNCHANGED = "up to date"


class Everything(Sequence[TargetReport]):
    """The reports of all targets, in topological order."""

    def __init__(
        self,
        structure: Structure,
        was: array[int],
        snapshot: Snapshot,
        looked_at: Mapping[TargetId, TargetReport],
        wanted: Collection[int] | None,
    ) -> None:
        """`was`: the number that a target has in the snapshot; `wanted`: those asked for, None: all."""
        self._structure, self._was, self._snapshot = structure, was, snapshot
        self._looked_at, self._wanted = looked_at, wanted

    @cached_property
    def _order(self) -> list[int]:
        found = self._structure.in_order()
        return found if self._wanted is None else [i for i in found if i in self._wanted]

    def __len__(self) -> int:
        return len(self._structure.paths) if self._wanted is None else len(self._wanted)

    def __iter__(self) -> Iterator[TargetReport]:
        return map(self._report, self._order)

    @overload
    def __getitem__(self, index: int) -> TargetReport: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TargetReport]: ...
    def __getitem__(self, index: int | slice) -> TargetReport | Sequence[TargetReport]:
        if isinstance(index, slice):
            return [self._report(i) for i in self._order[index]]
        return self._report(self._order[index])

    def _report(self, i: int) -> TargetReport:
        target = self._structure.target(i)
        report = self._looked_at.get(target)
        if report is not None:
            return report
        was, old = self._was[i], self._snapshot
        if old.flags[was] & SKIPPED:
            return TargetReport(target=target, status=State.SKIPPED, reason=UNCHANGED)
        value, size = old.value(was)
        output = Digest(hash=value, size=size)
        return TargetReport(
            target=target, status=State.CACHED, reason=UNCHANGED, key=old.key(was), output=output
        )

    @property
    def skipped(self) -> int:
        """How many of those that were not looked at were skipped."""
        flags = self._snapshot.flags
        if not any(flag & SKIPPED for flag in set(flags)):
            return 0
        numbers = range(len(self._was)) if self._wanted is None else self._wanted
        return sum(
            1
            for i in numbers
            if self._was[i] >= 0
            and flags[self._was[i]] & SKIPPED
            and self._structure.target(i) not in self._looked_at
        )
