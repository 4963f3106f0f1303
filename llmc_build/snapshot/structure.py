"""The structure of all targets as numbers: which there are, in which documents, and what comes after what.
World.

Owns how a structure is made from a program, or from the last one and the documents that changed. Targets
are numbered in the order of the files; names are made only when they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from llmc_build.snapshot.form import Document, Snapshot, closure, turned

if TYPE_CHECKING:
    from llmc_build.model import Json
    from llmc_build.resolve import Program


_FEW = 30  # targets whose consumers are searched for among all edges
_MANY = 30  # steps, from where on a search through all of them takes longer than a table


class Structure:
    """All targets of some files."""

    def __init__(
        self,
        paths: list[str],
        documents: list[Document],
        producers: tuple[array[int], array[int]],
        outputs: Mapping[str, str],
    ) -> None:
        self.paths = paths  # workflow/step
        self.documents = documents
        self.producers = producers  # as Snapshot.producers
        self.outputs = outputs  # declared output -> target
        self._numbers_of: dict[int, dict[str, int]] = {}
        self._searched = 0  # targets whose consumers were asked for

    @cached_property
    def consumers(self) -> tuple[array[int], array[int]]:
        return turned(*self.producers)

    @cached_property
    def _ends(self) -> bytes:
        return self.producers[1].tobytes()

    def consumers_of(self, i: int) -> Sequence[int]:
        """The targets that come right after one: the first few are searched for, lists of all cost more."""
        self._searched += 1
        if self._searched > _FEW:
            starts, ends = self.consumers
            return ends[starts[i] : starts[i + 1]]
        wanted, size = i.to_bytes(4, sys.byteorder), 4
        found: list[int] = []
        at = self._ends.find(wanted)
        while at >= 0:
            if at % size:
                at -= at % size  # it lies across two numbers
            else:
                found.append(bisect_right(self.producers[0], at // size) - 1)
            at = self._ends.find(wanted, at + size)
        return found

    def followed_by(self, roots: Iterable[int]) -> set[int]:
        """Targets, and all that come after them."""
        found = set(roots)
        stack = list(found)
        while stack:
            for other in self.consumers_of(stack.pop()):
                if other not in found:
                    found.add(other)
                    stack.append(other)
        return found

    @cached_property
    def by_workflow(self) -> dict[str, int]:
        """Workflow -> the number of its document."""
        return {document[3]: number for number, document in enumerate(self.documents)}

    def number(self, target: str) -> int | None:
        """The number of a target."""
        workflow, _, step = target.partition(".")
        document = self.by_workflow.get(workflow)
        if document is None:
            return None
        first, count = self.documents[document][4:6]
        if count > _MANY:
            return self._numbers(document).get(f"{workflow}/{step}")
        try:
            return self.paths.index(f"{workflow}/{step}", first, first + count)
        except ValueError:
            return None

    def _numbers(self, document: int) -> dict[str, int]:
        """The targets of a large document by their paths."""
        known = self._numbers_of.get(document)
        if known is None:
            first, count = self.documents[document][4:6]
            known = dict(zip(self.paths[first : first + count], range(first, first + count), strict=True))
            self._numbers_of[document] = known
        return known

    def target(self, i: int) -> str:
        return self.paths[i].replace("/", ".")

    def comes_after(self, target: str, other: str) -> bool:
        """Whether a path leads from `other` to `target`."""
        start, goal = self.number(target), self.number(other)
        return start is not None and start != goal and goal in closure(*self.producers, [start])

    def find(self, workflow: str, name: str) -> str | None:
        """The step of that name, else the last step of the workflow that sets the variable of that name."""
        document = self.by_workflow.get(workflow)
        if document is None:
            return None
        if self.number(f"{workflow}.{name}") is not None:
            return f"{workflow}.{name}"
        step = self.documents[document][6].get(name)
        return None if step is None else f"{workflow}.{step}"

    def lacks_schema(self, target: str) -> bool:
        """Whether nothing is known of the value of a target that is there."""
        workflow, _, step = target.partition(".")
        return step not in self.documents[self.by_workflow[workflow]][8]

    def in_order(self) -> list[int]:
        """All targets, each after those that it comes after."""
        starts = self.producers[0]
        down_starts, down = self.consumers
        waiting = [starts[i + 1] - starts[i] for i in range(len(self.paths))]
        found = [i for i, count in enumerate(waiting) if not count]
        for i in found:  # it grows
            for other in down[down_starts[i] : down_starts[i + 1]]:
                waiting[other] -= 1
                if not waiting[other]:
                    found.append(other)
        return found

    def has_cycle_through(self, roots: Iterable[int]) -> bool:
        """Whether a walk against the edges from one of the targets comes back to where it was."""
        starts, ends = self.producers
        done: set[int] = set()
        for root in roots:
            if root in done:
                continue
            path, stack = {root}, [(root, iter(ends[starts[root] : starts[root + 1]]))]
            while stack:
                i, rest = stack[-1]
                other = next(rest, None)
                if other is None:
                    stack.pop()
                    path.discard(i)
                    done.add(i)
                elif other in path:
                    return True
                elif other not in done:
                    path.add(other)
                    stack.append((other, iter(ends[starts[other] : starts[other + 1]])))
        return False


def of_snapshot(snapshot: Snapshot) -> Structure:
    """The structure that a snapshot has."""
    return Structure(snapshot.paths, snapshot.documents, snapshot.producers, snapshot.outputs)


def of_program(program: Program, hash_of: Callable[[str, int], tuple[int, int, str]]) -> Structure:
    """`hash_of`: file and line of a step -> (number of the file, first line and hash of its document)."""
    index = {target: i for i, target in enumerate(program.targets)}
    paths = [target.replace(".", "/", 1) for target in index]
    into = producers_of(program)
    documents: list[Document] = []
    for workflow, targets in by_workflow(program).items():
        step = program.targets[targets[0]].step
        file, line, sha256 = hash_of(step.location.file, step.location.line)
        documents.append(
            (file, line, sha256, workflow, index[targets[0]], len(targets), *names(program, targets, into))
        )
    lists = (sorted({index[p] for p in into.get(target, ())}) for target in index)
    return Structure(paths, documents, lists_of(lists), declared(program))


def by_workflow(program: Program) -> dict[str, list[str]]:
    """Workflow -> its targets, in order."""
    found: dict[str, list[str]] = {}
    for target, entry in program.targets.items():
        found.setdefault(entry.step.workflow, []).append(target)
    return found


def producers_of(program: Program) -> dict[str, list[str]]:
    """Target -> all that it comes after, some of it more than once."""
    found: dict[str, list[str]] = {}
    for edge in program.edges:
        found.setdefault(edge.target, []).append(edge.producer)
    return found


def names(
    program: Program, targets: Sequence[str], into: Mapping[str, Sequence[str]]
) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """Which variables the steps of a workflow set, of which other workflows they speak, whether these are
    there or not, and which steps have a schema for their values.
    """
    found = [program.targets[target] for target in targets]
    steps = [target.step for target in found]
    speaks = {p.partition(".")[0] for target in targets for p in into.get(target, ())}
    speaks.update(*(target.absent for target in found if target.absent))
    schemas = {s.name: schema_hash(s.schema) for s in steps if s.schema is not None}
    return {s.output: s.name for s in steps if s.output}, sorted(speaks - {steps[0].workflow}), schemas


def schema_hash(schema: Json) -> str:
    """What identifies the schema of a step's value."""
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:32]


def declared(program: Program) -> dict[str, str]:
    return {path: target.id for target in program.targets.values() for path in target.action.outputs}


def lists_of(lists: Iterable[Sequence[int]]) -> tuple[array[int], array[int]]:
    """Lists of numbers as two arrays: where each begins, and all of them."""
    ends = array("I")
    sizes = []
    for one in lists:
        ends.extend(one)
        sizes.append(len(one))
    return array("I", accumulate(sizes, initial=0)), ends
