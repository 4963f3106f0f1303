"""What is done to one folder, in which order, and the checks that the tool did it.

A tool that did less than it had to must never be timed as fast.  So after every load: all outputs are there;
those that the load reaches have the values that the graph says; no others were written; and where the tool
tells how many steps ran (llmc's run.json), it is as many as the load reaches.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.graphs import Edit, Graph
from bench.measure import Failed, Sample, run
from bench.tools import Tool

COLD = "cold"
NOTHING = "nothing to do"
TARGET = "nothing to do, -t"
ONE = "one edit"
WHOLE = "one workflow edited"
CACHED = "all cached, no state"
LOADS = [COLD, NOTHING, TARGET, ONE, WHOLE, CACHED]


@dataclass(frozen=True)
class Limits:
    seconds: float  # of one command
    repeats: int  # of what can be done again in the same folder
    build_up_to: int  # in larger graphs, tools that can be set up without a build are


@dataclass
class Folder:
    """One tool's copy of one graph, and what was done to it."""

    tool: Tool
    graph: Graph
    path: Path
    limits: Limits
    edit: Edit = field(default_factory=Edit)
    edits: int = 0
    set_up: bool = False  # what a build leaves was written, without a build

    def loads(self) -> Iterator[tuple[str, Sample]]:
        """Every load in its natural order; raises Failed, which ends this folder's row of loads."""
        self.tool.write(self.path, self.graph, self.edit)
        if self.graph.targets > self.limits.build_up_to and self.tool.settle is not None:
            self.set_up = self.tool.settle(self.path, self.graph)
        if not self.set_up:
            yield COLD, self._timed(self._all(), ran=self._all())
        self._timed(set(), ran=set())  # not counted: what a first build leaves to the second one to do
        for _ in range(self.limits.repeats):
            yield NOTHING, self._timed(set(), ran=set())
        goal = self.tool.goal(min(self.graph.one))
        for _ in range(self.limits.repeats):
            yield TARGET, self._timed(set(), goal, ran=set())
        for load, steps in ((ONE, self.graph.one), (WHOLE, self.graph.whole)):
            for _ in range(self.limits.repeats if steps else 0):
                self._change(steps)
                reached = self.graph.reached(steps)
                yield load, self._timed(reached, ran=reached)
        if self.tool.name == "llmc":
            for number, name in enumerate(
                [".llmc/out", ".llmc/state", *(["out"] if self.graph.files else [])]
            ):
                # moved and not removed: ext4 is slow for seconds after many files were removed
                (self.path / name).rename(self.path.with_name(f"{self.path.name}.{number}"))
            yield CACHED, self._timed(self._all(), ran=set())

    # ------------------------------------------------------------ doing

    def _change(self, steps: frozenset[str]) -> None:
        self.edits += 1
        self.edit = Edit(f"changed{self.edits}", steps)
        self.tool.write(self.path, self.graph, self.edit)

    def _timed(self, written: set[str], more: list[str] | None = None, *, ran: set[str]) -> Sample:
        """One command, then the checks.  `written`: what may be newer than before; `ran`: what must run."""
        before = self._last_run()
        time.sleep(0.02)  # longer than the clock of the file system takes to move on
        mark = self.path.with_name(f"{self.path.name}.began")
        mark.write_text("")
        since = mark.stat().st_mtime_ns
        time.sleep(0.02)
        sample = run([*self.tool.command, *(more or [])], self.path, self.limits.seconds)
        self._check_outputs(written, since)
        self._check_values(written)
        self._check_count(before, len(ran))
        return sample

    # ------------------------------------------------------------ checking

    def _all(self) -> set[str]:
        return {step.id for step in self.graph.steps()}

    def _check_outputs(self, written: set[str], since: int) -> None:
        there, newer = 0, []
        flat = self.tool.is_flat(self.graph)
        base = self.path / ("out" if flat else ".llmc/out")
        if not base.is_dir():
            raise Failed("there are no outputs")
        for id_, entry in _entries(base, flat=flat):
            there += 1
            if entry.stat().st_mtime_ns > since:
                newer.append(id_)
        if there != self.graph.targets:
            raise Failed(f"{there:,} outputs instead of {self.graph.targets:,}")
        if surplus := sorted(set(newer) - written):
            raise Failed(f"{len(surplus):,} outputs were written needlessly, such as {surplus[0]}")

    def _check_values(self, written: set[str]) -> None:
        wanted = self.graph.samples | (written if len(written) < self.graph.targets else set(self.graph.one))
        for id_, value in self.graph.values(self.edit, wanted, passes=self.tool.passes).items():
            said = self.tool.output(self.path, self.graph, id_).read_text()
            if said != value + "\n":
                raise Failed(f"{id_} says {said!r} instead of {value!r}")

    def _last_run(self) -> str:
        latest = self.path / ".llmc" / "runs" / "latest"
        return os.readlink(latest) if latest.is_symlink() else ""

    def _check_count(self, before: str, ran: int) -> None:
        latest = self._last_run()
        if latest == before:
            return  # the tool does not tell, or did nothing that it records
        with (self.path / ".llmc" / "runs" / "latest" / "run.json").open() as file:
            told = re.search(r'"ran": *(\d+)', file.read(65_536))
        if told and int(told[1]) != ran:
            raise Failed(f"{told[1]} steps ran instead of {ran:,}")


def _entries(base: Path, *, flat: bool) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(base) as entries:
        for entry in entries:
            if flat:
                yield entry.name, entry
                continue
            with os.scandir(entry.path) as steps:
                for step in steps:
                    yield f"{entry.name}.{step.name}", step
