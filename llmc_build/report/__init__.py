"""What a build tells while it runs: the `Reporter` interface, and the events it carries.

Owns the interface only.  `console` shows it to a person, `events` writes it as JSON lines, `words`
has the texts.  A build never asks a reporter anything, and a reporter never changes a build.
A reporter is called from the thread that runs the build, once or twice for each target: it must cost
almost nothing there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from llmc_build.frozen import frozen

if TYPE_CHECKING:
    from llmc_build.model import BuildReport, Json, Location, State, TargetId

__all__ = ["Reporter", "Silent", "TargetEvent", "Tee"]


@frozen(kw_only=True)
class TargetEvent:
    """A target began to run, or came to its end."""

    target: TargetId
    state: State  # RUNNING or a state that has ended
    reason: str = ""  # why it runs, was served, or was not run
    wall_s: float = 0.0  # of an ended one
    error: str | None = None  # of a failed one
    caused_by: TargetId | None = None  # of a poisoned one: the failure at the root
    location: Location | None = None  # where the step is written
    stats: Mapping[str, Json] = field(default_factory=dict)  # of an ended model step


class Reporter(Protocol):
    """What a build calls.  `started` comes first and `finished` last, each at most once."""

    def started(self, total: int, run_id: str, jobs: int) -> None:
        """`total` targets are wanted; at most `jobs` of them run at a time."""

    def asks(self, prompts: Collection[TargetId]) -> None:
        """These of the targets ask models.  Called after `started`, and not where there are none."""

    def target(self, event: TargetEvent) -> None:
        """A target came to RUNNING or to its end.  Those up to date, or that never began, may be left out."""

    def progress(self, target: TargetId, stats: Mapping[str, Json]) -> None:
        """What a running target has done so far: `{"tokens": 17}`."""

    def note(self, text: str) -> None:
        """A remark on the build as a whole, at the time it is true."""

    def finished(self, report: BuildReport) -> None:
        """The build is over."""


class Silent:
    """A reporter that says nothing; a base for those that care for some of the calls only."""

    def started(self, total: int, run_id: str, jobs: int) -> None: ...

    def asks(self, prompts: Collection[TargetId]) -> None: ...

    def target(self, event: TargetEvent) -> None: ...

    def progress(self, target: TargetId, stats: Mapping[str, Json]) -> None: ...

    def note(self, text: str) -> None: ...

    def finished(self, report: BuildReport) -> None: ...


class Tee:
    """Several reporters as one, called in the order given."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = tuple(reporters)

    def started(self, total: int, run_id: str, jobs: int) -> None:
        for reporter in self._reporters:
            reporter.started(total, run_id, jobs)

    def asks(self, prompts: Collection[TargetId]) -> None:
        for reporter in self._reporters:
            reporter.asks(prompts)

    def target(self, event: TargetEvent) -> None:
        for reporter in self._reporters:
            reporter.target(event)

    def progress(self, target: TargetId, stats: Mapping[str, Json]) -> None:
        for reporter in self._reporters:
            reporter.progress(target, stats)

    def note(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.note(text)

    def finished(self, report: BuildReport) -> None:
        for reporter in self._reporters:
            reporter.finished(report)
