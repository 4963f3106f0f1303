"""Reading only what a change can reach. World: it reads workflow files again.

Owns the structure and the program of a build of some targets, given a survey of what is no longer as the
last build left it. Which targets those are is `cone`'s. Where a part can't be read safely on its own there
is no partial build (`TooMuch`), and everything is read; so is whatever has a fault, so that errors are told
as ever.

Theory of operation. Documents are the unit. A document whose text is as it was, and that speaks of no
workflow whose names changed, means what it meant: its targets have the numbers and producers of the
snapshot. The others are read, and resolved against the names of those left alone.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from llmc_build import reading
from llmc_build.model import Edge, TargetId, Workflow
from llmc_build.names import Unread, schema_of_value
from llmc_build.resolve import Program, Target, resolve_all
from llmc_build.snapshot.form import Document
from llmc_build.snapshot.structure import (
    Structure,
    by_workflow,
    declared,
    names,
    of_snapshot,
    producers_of,
    schema_hash,
)
from llmc_build.snapshot.survey import Survey
from llmc_build.workflow.split import split

Piece = tuple[int, int, str]  # number of the file, first line, hash
_FEW = 50  # documents; from here on, and from a quarter of all, everything is read
Order = list[tuple[Piece, int | None]]  # documents, with their number in the snapshot; None: to be read


class TooMuch(Exception):
    """Why what changed is not to be built in part."""


class Partial:
    """Some documents of the workflow files, read, and the structure of all.  Raises TooMuch."""

    def __init__(self, survey: Survey, files: Sequence[Path], workspace: Path) -> None:
        self.survey = survey
        self.read: dict[str, str] = {}  # every file that was read -> SHA-256 of its content
        self.files, self._workspace = files, workspace
        self._old = of_snapshot(survey.snapshot)
        self._texts: dict[int, bytes] = dict(survey.texts)
        self._workflows: dict[Piece, Workflow] = {}  # those that were read because of a change
        self._targets: dict[TargetId, Target] = {}
        self._edges: list[Edge] = []
        self._order = self._in_order()
        self._read_missing()
        self._reread_speakers()
        if self._workflows or len(self._order) != len(self._old.documents):
            stay = {self._old.documents[number][3] for _, number in self._order if number is not None}
            self._resolve(self._workflows.values(), self._old, stay)
            self.structure, self.was = self._joined()
            self._refuse_doubts()
        else:
            self.structure, self.was = self._old, array("i", range(len(self._old.paths)))
        self.changed = {workflow.name for workflow in self._workflows.values()}
        self.gone = [p.replace("/", ".") for p in set(self._old.paths).difference(self.structure.paths)]

    @property
    def program(self) -> Program:
        """What was read by now."""
        return Program(targets=self._targets, edges=tuple(self._edges))

    def read_also(self, targets: Iterable[int]) -> None:
        """Reads the documents of some more targets."""
        all_of = self.structure.by_workflow
        there = by_workflow(self.program).keys()
        wanted = {self.structure.paths[i].partition("/")[0] for i in targets} - there
        if wanted:
            documents = [self.structure.documents[all_of[name]] for name in wanted]
            found = self._parsed([(d[0], d[1], d[2]) for d in documents])
            self._resolve(found.values(), self.structure, all_of.keys() - wanted)

    def targets_of_changed(self) -> list[TargetId]:
        """The targets of all workflows that were read because of a change."""
        return [target.id for target in self._targets.values() if target.step.workflow in self.changed]

    def file_of(self, target: TargetId) -> int:
        """The number of the file that defines a target, or did."""
        workflow = target.partition(".")[0]
        for structure in (self.structure, self._old):
            if workflow in structure.by_workflow:
                return structure.documents[structure.by_workflow[workflow]][0]
        raise KeyError(target)

    def was_at(self, i: int) -> int | None:
        """The number that a target had in the snapshot; None: it is new."""
        return self.was[i] if self.was[i] >= 0 else None

    # ------------------------------------------------------------ which documents are to be read

    def _in_order(self) -> Order:
        survey, snapshot = self.survey, self.survey.snapshot
        stale = {number for path in survey.changed for number in snapshot.prompts.get(path, ())}
        there = {(d[0], d[2]): number for number, d in enumerate(self._old.documents)}
        found: Order = []
        for file in survey.files:
            text = self._text(file)
            for line, start, end in self._split(file):
                sha256 = piece_hash(text[start:end])
                number = there.get((file, sha256))
                found.append(((file, line, sha256), None if number in stale else number))
        if len(survey.files) == len(self.files):
            return found
        for number, document in enumerate(self._old.documents):
            if document[0] not in survey.files:
                piece = (document[0], document[1], document[2])
                found.append((piece, None if number in stale else number))
        return sorted(found, key=lambda entry: entry[0][:2])

    def _read_missing(self) -> None:
        missing = [p for p, number in self._order if number is None and p not in self._workflows]
        if len(missing) > max(_FEW, len(self._order) // 4):
            raise TooMuch("most of it")
        self._workflows.update(self._parsed(missing))

    def _reread_speakers(self) -> None:
        """Reads the documents that speak of a workflow whose names changed, came or went."""
        stay = {self._old.documents[number][3] for _, number in self._order if number is not None}
        given = {workflow.name: _offer(workflow) for workflow in self._workflows.values()}
        gone = self._old.by_workflow.keys() - stay
        other = {
            name for name in gone | given.keys() if name not in gone or given.get(name) != self._offered(name)
        }
        if not other.isdisjoint(stay):
            raise TooMuch("a workflow of that name is there")
        if other:
            documents = self._old.documents
            self._order = [
                (piece, None if number is None or not other.isdisjoint(documents[number][7]) else number)
                for piece, number in self._order
            ]
            self._read_missing()

    def _offered(self, workflow: str) -> _Offer:
        """What a workflow offered to others."""
        document = self._old.documents[self._old.by_workflow[workflow]]
        paths = self._old.paths[document[4] : document[4] + document[5]]
        return [path.partition("/")[2] for path in paths], document[6], document[8]

    def _parsed(self, pieces: Collection[Piece]) -> dict[Piece, Workflow]:
        found: dict[Piece, Workflow] = {}
        for file in sorted({piece[0] for piece in pieces}):
            wanted = {piece[1]: piece for piece in pieces if piece[0] == file}
            text, shown = self._text(file), reading.shown(self.files[file])
            for line, start, end in self._split(file):
                if line in wanted:
                    draft = reading.read_piece(text[start:end], shown, line, self._workspace, self.read)
                    if draft.faults or len(draft.workflows) > 1:
                        raise TooMuch("a fault")
                    if draft.workflows:
                        found[wanted[line]] = draft.workflows[0]
        return found

    def _text(self, file: int) -> bytes:
        """The text of a workflow file as it was surveyed."""
        if file not in self._texts:
            path, _, sha256, _ = self.survey.snapshot.facts["files"][file]
            data = reading.read_bytes(Path(path))
            if data is None or hashlib.sha256(data).hexdigest() != sha256:
                raise TooMuch(f"{path} is being changed")
            self._texts[file] = data
        return self._texts[file]

    def _split(self, file: int) -> list[tuple[int, int, int]]:
        found = split(self._text(file))
        if found is None:
            raise TooMuch("a file that can't be split")
        return found

    # ------------------------------------------------------------ what they mean

    def _resolve(
        self, workflows: Collection[Workflow], structure: Structure, others: Collection[str]
    ) -> None:
        """Resolves workflows against each other and some others."""
        try:
            program, faults = resolve_all(list(workflows), _Others(structure, others))
        except Unread as target:
            raise TooMuch(f"a field of {target}") from None
        if faults:
            raise TooMuch("a fault")
        self._targets.update(program.targets)
        self._edges += program.edges

    def _joined(self) -> tuple[Structure, array[int]]:
        """The structure of all documents, and the number that each target had, -1: it is new."""
        old, program = self._old, self.program
        documents: list[Document] = []
        paths: list[str] = []
        was = array("i")
        read = by_workflow(program)
        into = producers_of(program)
        for piece, number in self._order:
            if number is None:
                workflow = self._workflows.get(piece)
                if workflow is None:
                    continue  # an empty document
                targets = read[workflow.name]
                own = (workflow.name, len(paths), len(targets), *names(program, targets, into))
                paths += [target.replace(".", "/", 1) for target in targets]
                known = old.by_workflow.get(workflow.name)
                was.extend(-1 if known is None else _or_none(old.number(target)) for target in targets)
            else:
                document = old.documents[number]
                first, count = document[4], document[5]
                own = (document[3], len(paths), count, document[6], document[7], document[8])
                paths += old.paths[first : first + count]
                was.extend(range(first, first + count))
            documents.append((*piece, *own))
        found = Structure(paths, documents, ([], []), {})  # type: ignore[arg-type]
        found.producers = self._renumbered(found, was, into)
        outputs = {path: target for path, target in old.outputs.items() if found.number(target) is not None}
        mine = {path: t for path, t in outputs.items() if t.partition(".")[0] not in read}
        found.outputs = {**mine, **declared(program)}
        return found, was

    def _renumbered(
        self, found: Structure, was: array[int], into: Mapping[str, set[str]]
    ) -> tuple[array[int], array[int]]:
        """The producers of every target, those of targets that were left alone by their new numbers."""
        now = array("i", [-1]) * len(self._old.paths)
        for i, old in enumerate(was):
            if old >= 0:
                now[old] = i
        starts, ends = array("I", [0]), array("I")
        read = by_workflow(self.program).keys()
        try:
            for first, count, names_read in _runs(found.documents, read, was):
                if names_read:
                    for target in map(found.target, range(first, first + count)):
                        numbers = [found.number(producer) for producer in into.get(target, ())]
                        ends.extend(sorted(number for number in numbers if number is not None))
                        starts.append(len(ends))
                else:
                    self._renumber_run(was[first], count, now, starts, ends)
        except OverflowError:
            raise TooMuch("a producer went") from None
        return starts, ends

    def _renumber_run(
        self, first: int, count: int, now: array[int], starts: array[int], ends: array[int]
    ) -> None:
        """Takes over the producers of targets that stood one after another and still do."""
        old_starts, old_ends = self._old.producers
        shift = len(ends) - old_starts[first]
        begin, end = old_starts[first], old_starts[first + count]
        ends.extend(map(now.__getitem__, old_ends[begin:end]))
        starts.extend([start + shift for start in old_starts[first + 1 : first + count + 1]])

    def _refuse_doubts(self) -> None:
        """What involves more than the documents that were read is left to a build of everything."""
        old, new = self._old, self.structure
        edges_changed = not self._same_edges()
        if edges_changed:
            read = [number for target in self._targets if (number := new.number(target)) is not None]
            if new.has_cycle_through(read):
                raise TooMuch("a cycle")
        if (old.outputs or new.outputs) and (edges_changed or old.outputs != new.outputs):
            raise TooMuch("outputs, or the order of what writes and reads them, changed")
        if new.outputs and any(t.action.inputs for t in self._targets.values()):
            writers = new.outputs
            for target in self._targets.values():
                for path in target.action.inputs:
                    if path in writers and not new.comes_after(target.id, writers[path]):
                        raise TooMuch("a fault")

    def _same_edges(self) -> bool:
        old, new = self._old, self.structure
        return old.paths == new.paths and old.producers == new.producers


class _Others:
    """`resolve.Known`: workflows that are not read."""

    def __init__(self, structure: Structure, names: Collection[str]) -> None:
        self._structure, self._names = structure, names
        self._folded = {name.casefold() for name in names}

    def has(self, workflow: str) -> bool:
        return workflow.casefold() in self._folded

    def find(self, workflow: str, name: str) -> TargetId | None:
        return self._structure.find(workflow, name) if workflow in self._names else None

    def lacks_schema(self, target: TargetId) -> bool:
        return self._structure.lacks_schema(target)


def _runs(
    documents: Sequence[Document], read: Collection[str], was: array[int]
) -> Iterator[tuple[int, int, bool]]:
    """(first target, targets, whether it was read) of documents, those left alone in long runs."""
    begin = end = 0
    for document in documents:
        first, count, is_read = document[4], document[5], document[3] in read
        follows = end > begin and was[end - 1] + 1 == was[first]
        if begin < end and (is_read or not follows):
            yield begin, end - begin, False
            begin = end
        if is_read:
            yield first, count, True
            begin = first + count
        end = first + count
    if begin < end:
        yield begin, end - begin, False


def piece_hash(piece: bytes) -> str:
    """What identifies the text of a document."""
    return hashlib.sha256(piece).hexdigest()[:32]


_Offer: TypeAlias = tuple[list[str], dict[str, str], dict[str, str]]  # steps, variables, hashes of schemas


def _offer(workflow: Workflow) -> _Offer:
    schemas = {s.name: schema_of_value(s) for s in workflow.steps if s.rule != "shell"}
    return (
        [s.name for s in workflow.steps],
        {s.output: s.name for s in workflow.steps if s.output},
        {name: schema_hash(schema) for name, schema in schemas.items() if schema is not None},
    )


def _or_none(number: int | None) -> int:
    return -1 if number is None else number
