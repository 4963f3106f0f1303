"""Reading only what a change can reach. World: it reads workflow files again.

Owns which texts are read, and the program of what they say, given a survey of what is no longer as the last
build left it. Which targets that concerns is `cone`'s. Where a part can't be read safely on its own there
is no partial build (`TooMuch`), and everything is read; so is whatever has a fault, so that errors are told
as ever.

Theory of operation. Documents are the unit. A document whose text is as it was, and that speaks of no
workflow whose names changed, means what it meant: its targets have the numbers and producers of the
snapshot. The others are read, and resolved against the names of those left alone.

In a large document that can be cut (`snapshot.cuts`) the steps are the unit. A step that has another text,
and the name, the variable and the kind of value that it had, changes what no other step means: the document
is read with the steps alone that changed, and stays what it was for everybody else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from llmc_build import reading
from llmc_build.incremental.joining import LostProducerError, Piece, Place, join, numbers_of, piece_of
from llmc_build.model import Edge, TargetId, Workflow
from llmc_build.names import Siblings, Unread, schema_of_value
from llmc_build.resolve import Program, Target, resolve_all
from llmc_build.snapshot.cuts import Cut, Cuts, Edit
from llmc_build.snapshot.structure import Structure, of_snapshot, schema_hash
from llmc_build.snapshot.survey import Survey
from llmc_build.workflow.cut import Steps, cut
from llmc_build.workflow.split import split

_FEW = 50  # documents, or steps of one; from here on, and from a quarter of all, everything is read


class TooMuch(Exception):
    """Why what changed is not to be built in part."""


class Partial:
    """Some documents of the workflow files, read, and the structure of all.  Raises TooMuch."""

    def __init__(self, survey: Survey, files: Sequence[Path], workspace: Path) -> None:
        self.survey = survey
        self.read: dict[str, str] = {}  # every file that was read -> SHA-256 of its content
        self.files, self._workspace = files, workspace
        self._old = of_snapshot(survey.snapshot)
        self._cuts = Cuts(survey.snapshot)
        self._texts: dict[int, bytes] = dict(survey.texts)
        self._pieces: dict[int, list[tuple[int, int, int]]] = {}
        self._steps_of: dict[Piece, Steps | None] = {}
        self._workflows: dict[Piece, Workflow] = {}  # those that were read as a whole because of a change
        self._edits: dict[Piece, tuple[Workflow, Cut]] = {}  # those of which some steps were
        self._targets: dict[TargetId, Target] = {}
        self._edges: list[Edge] = []
        self._unsure: set[str] = set()  # workflows that can't be cut any more
        self._order = self._in_order()
        self._read_edits()
        self._read_missing()
        self._reread_speakers()
        here = [p for p in self._order if p.number is not None or p.piece in self._workflows]
        if {place.piece[0] for place in here} != set(range(len(self.files))):
            raise TooMuch("a file without a workflow")
        before = [(number, piece_of(document)) for number, document in enumerate(self._old.documents)]
        if self._workflows or self._edits or [(p.number, p.piece) for p in here] != before:
            parts = {workflow.name: known for workflow, known in self._edits.values()}
            read = [*self._workflows.values(), *(workflow for workflow, _ in self._edits.values())]
            self._resolve(read, self._old, self._staying(), parts)
            names = {piece: workflow.name for piece, workflow in self._workflows.items()}
            try:
                joined = join(self._old, self._order, names, self.program)
            except LostProducerError:
                raise TooMuch("a producer went") from None
            self.structure, self.runs, self.changed = joined.structure, joined.runs, joined.changed
            self._refuse_doubts()
        else:
            self.structure, self.runs = self._old, [(0, len(self._old.paths))]
            self.changed = frozenset()
        self.was = numbers_of(self.runs)  # the number that each target had; -1: it is new
        self.whole = {workflow.name for workflow in self._workflows.values()}  # read as a whole
        old, new = self._old.paths, self.structure.paths
        self.gone = [path.replace("/", ".") for path in ({*old}.difference(new) if old != new else ())]

    @property
    def program(self) -> Program:
        """What was read by now."""
        return Program(targets=self._targets, edges=tuple(self._edges))

    @property
    def reshaped(self) -> bool:
        """Whether targets or outputs are others than the snapshot's."""
        return self._old.paths != self.structure.paths or self._old.outputs != self.structure.outputs

    def read_also(self, targets: Iterable[int]) -> None:
        """Reads some more targets, or their documents."""
        structure = self.structure
        wanted: dict[int, list[int]] = {}  # document -> steps of it
        for i in targets:
            if structure.target(i) not in self._targets:
                number = structure.by_workflow[structure.paths[i].partition("/")[0]]
                wanted.setdefault(number, []).append(i - structure.documents[number][4])
        if not wanted:
            return
        cuts = {number: one for number in wanted if (one := self.cuts.get(number)) is not None}
        found = [*self._parsed([piece_of(structure.documents[n]) for n in wanted if n not in cuts]).values()]
        names = {workflow.name for workflow in found}
        self.whole |= names
        for number, known in cuts.items():
            steps = sorted(wanted[number])
            workflow = self._steps(piece_of(structure.documents[number]), steps)
            if workflow is None or _pairs(workflow) != [(known.names[i], known.variables[i]) for i in steps]:
                raise TooMuch("a fault")
            found.append(workflow)
        parts = {structure.documents[number][3]: one for number, one in cuts.items()}
        self._resolve(found, structure, structure.by_workflow.keys() - names, parts)

    @cached_property
    def cuts(self) -> dict[int, Cut]:
        """The cuts of documents that were not read as a whole because of a change, by their new numbers."""
        found: dict[int, Cut] = {}
        if not self._cuts and not self._edits:
            return found
        documents, numbers = self._old.documents, self.structure.by_workflow
        for place in self._order:
            if place.number is not None:
                known = self._edits[place.piece][1] if place.edit else self._cuts.get(place.number)
                workflow = documents[place.number][3]
                if known is not None and workflow not in self._unsure:
                    found[numbers[workflow]] = known
        return found

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

    def text_of(self, piece: Piece) -> bytes | None:
        """The text of a document as it was surveyed; None: its file can't be split, or is being changed."""
        with contextlib.suppress(TooMuch):
            text = self._text(piece[0])
            for line, start, end in self._split(piece[0]):
                if line == piece[1]:
                    return text[start:end]
        return None

    # ------------------------------------------------------------ which documents are to be read

    def _in_order(self) -> list[Place]:
        survey, snapshot = self.survey, self.survey.snapshot
        stale = {number for path in survey.changed for number in snapshot.prompts.get(path, ())}
        there = {(d[0], d[2]): number for number, d in enumerate(self._old.documents)}
        around = {
            (self._old.documents[number][0], self._cuts.around(number)): number for number in self._cuts
        }
        found: list[Place] = []
        for file in survey.files:
            text = self._text(file)
            for line, start, end in self._split(file):
                sha256 = piece_hash(text[start:end])
                number = there.get((file, sha256))
                edit: Edit | None = None
                piece = (file, line, sha256)
                if number is None and around:
                    number, edit = self._edited(piece, around)
                found.append(Place(piece, None) if number in stale else Place(piece, number, edit))
        if len(survey.files) != len(self.files):
            for number, document in enumerate(self._old.documents):
                if document[0] not in survey.files:
                    found.append(Place(piece_of(document), None if number in stale else number))
            found.sort(key=lambda place: place.piece[:2])
        numbers = [place.number for place in found if place.number is not None]
        if len(numbers) != len(set(numbers)):
            raise TooMuch("a document stands twice")
        return found

    def _edited(self, piece: Piece, around: Mapping[tuple[int, str], int]) -> tuple[int | None, Edit | None]:
        """The document of the snapshot that this one is but for some steps, and what happened to these."""
        steps = self._cut(piece)
        number = None if steps is None else around.get((piece[0], steps.around.hex()))
        known = None if number is None else self._cuts.get(number)
        edit = None if known is None or steps is None else known.compared(steps)
        return (None, None) if edit is None else (number, edit)

    def _read_edits(self) -> None:
        """Reads the steps that changed; a document for which they mean more is read as a whole."""
        for i, place in enumerate(self._order):
            if place.edit is not None and place.number is not None:
                known = self._cuts.get(place.number)
                found = None if known is None else self._read_edit(place.piece, known, place.edit)
                if known is not None and found is None and place.edit.keeps_names:
                    found = self._read_edit(place.piece, known, known.widened(place.edit))
                if found is not None and self._offers_the_same(found[1], place.number):
                    edit, workflow, now = found
                    self._edits[place.piece] = (workflow, now)
                    self._order[i] = Place(place.piece, place.number, edit)
                else:
                    self._order[i] = Place(place.piece, None)

    def _read_edit(self, piece: Piece, known: Cut, edit: Edit) -> tuple[Edit, Workflow, Cut] | None:
        """What a document is after an edit; None where that means something to steps that are not read."""
        steps = self._cut(piece)
        if steps is None or len(edit.read) > max(_FEW, len(known.names) // 4):
            return None
        workflow = self._steps(piece, edit.read)
        now = known.edited(edit, _pairs(workflow), steps.hashes) if workflow is not None else None
        if workflow is None or now is None:
            return None
        return dataclasses.replace(edit, names=now.names[edit.begin : edit.end]), workflow, now

    def _offers_the_same(self, workflow: Workflow, number: int) -> bool:
        """Whether the values of steps that were there are of the kind that they were."""
        schemas = self._old.documents[number][8]
        given = _offer(workflow)[2]
        return all(
            given.get(step.name) == schemas.get(step.name)
            for step in workflow.steps
            if self._old.number(step.id) is not None
        )

    def _steps(self, piece: Piece, wanted: Sequence[int]) -> Workflow | None:
        """Some steps of a document, read; None where that can't be."""
        steps = self._cut(piece)
        if steps is None:
            return None
        file, line = piece[:2]
        (text, left_out), shown = steps.only(wanted), reading.shown(self.files[file])
        draft = reading.read_piece(text, shown, line, self._workspace, self.read, left_out)
        is_read = (
            not draft.faults and len(draft.workflows) == 1 and len(draft.workflows[0].steps) == len(wanted)
        )
        return draft.workflows[0] if is_read else None

    def _read_missing(self) -> None:
        missing = [p.piece for p in self._order if p.number is None and p.piece not in self._workflows]
        if len(missing) > max(_FEW, len(self._order) // 4):
            raise TooMuch("most of it")
        self._workflows.update(self._parsed(missing))

    def _staying(self) -> set[str]:
        """The workflows of which others see what they saw."""
        return {self._old.documents[place.number][3] for place in self._order if place.number is not None}

    def _reread_speakers(self) -> None:
        """Reads the documents that speak of a workflow whose names changed, came or went."""
        stay = self._staying()
        given = {workflow.name: _offer(workflow) for workflow in self._workflows.values()}
        gone = self._old.by_workflow.keys() - stay
        other = {
            name for name in gone | given.keys() if name not in gone or given.get(name) != self._offered(name)
        }
        if not other.isdisjoint(stay):
            raise TooMuch("a workflow of that name is there")
        edits = [place.edit for place in self._order]
        other |= {
            self._old.documents[place.number][3]
            for place, edit in zip(self._order, edits, strict=True)
            if edit is not None and place.number is not None and not edit.keeps_names
        }
        if other:
            documents = self._old.documents
            for i, place in enumerate(self._order):
                if place.number is not None and not other.isdisjoint(documents[place.number][7]):
                    self._order[i] = Place(place.piece, None)
                    self._edits.pop(place.piece, None)
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

    def _cut(self, piece: Piece) -> Steps | None:
        if piece not in self._steps_of:
            text = self.text_of(piece)
            self._steps_of[piece] = None if text is None else cut(text)
        return self._steps_of[piece]

    def _split(self, file: int) -> list[tuple[int, int, int]]:
        if file not in self._pieces:
            found = split(self._text(file))
            if found is None:
                raise TooMuch("a file that can't be split")
            self._pieces[file] = found
        return self._pieces[file]

    # ------------------------------------------------------------ what they mean

    def _resolve(
        self,
        workflows: Collection[Workflow],
        structure: Structure,
        others: Collection[str],
        parts: Mapping[str, Siblings],
    ) -> None:
        """Resolves workflows against each other and some others; `parts`: those that are given in part."""
        try:
            program, faults = resolve_all(list(workflows), _Others(structure, others, parts))
        except Unread as target:
            raise TooMuch(f"a field of {target}") from None
        if faults:
            raise TooMuch("a fault")
        self._targets.update(program.targets)
        self._edges += program.edges
        self._unsure.update(t.step.workflow for t in program.targets.values() if t.may_mean_another)

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
        if any(source in new.outputs for t in self._targets.values() for source in t.step.sources):
            raise TooMuch("an output is part of a step")
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
    """`names.Known`: workflows that are not read, or not as a whole."""

    def __init__(self, structure: Structure, names: Collection[str], parts: Mapping[str, Siblings]) -> None:
        self._structure, self._names, self._parts = structure, names, parts
        self._folded = {name.casefold() for name in names}

    def siblings(self, workflow: str) -> Siblings | None:
        return self._parts.get(workflow)

    def has(self, workflow: str) -> bool:
        return workflow.casefold() in self._folded

    def find(self, workflow: str, name: str) -> TargetId | None:
        part = self._parts.get(workflow)
        if part is None:
            return self._structure.find(workflow, name) if workflow in self._names else None
        step = name if part.has(name) else next(reversed(part.setters(name)), None)
        return None if step is None else f"{workflow}.{step}"

    def lacks_schema(self, target: TargetId) -> bool:
        return self._structure.lacks_schema(target)


def piece_hash(piece: bytes) -> str:
    """What identifies the text of a document."""
    return hashlib.sha256(piece).hexdigest()[:32]


def _pairs(workflow: Workflow) -> list[tuple[str, str | None]]:
    """Names and variables of steps."""
    return [(step.name, step.output) for step in workflow.steps]


_Offer: TypeAlias = tuple[list[str], dict[str, str], dict[str, str]]  # steps, variables, hashes of schemas


def _offer(workflow: Workflow) -> _Offer:
    schemas = {s.name: schema_of_value(s) for s in workflow.steps if s.rule != "shell"}
    return (
        [s.name for s in workflow.steps],
        {s.output: s.name for s in workflow.steps if s.output},
        {name: schema_hash(schema) for name, schema in schemas.items() if schema is not None},
    )
