"""The structure of all documents, of those that were read and those that were left alone.  Pure.

Owns the new numbers of targets, and what of the old structure stays.  What is read is `partial`'s.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmc_build.model import TargetId
from llmc_build.resolve import Program
from llmc_build.snapshot.cuts import Edit
from llmc_build.snapshot.form import Document
from llmc_build.snapshot.structure import Structure, by_workflow, declared, names, producers_of

Piece = tuple[int, int, str]  # number of the file, first line, hash


def piece_of(document: Document) -> Piece:
    """What a document was when the snapshot was taken."""
    return document[0], document[1], document[2]


@dataclass(frozen=True, slots=True)
class Place:
    """A document where it stands now."""

    piece: Piece
    number: int | None  # of the document of the snapshot whose names it has; None: it is read as a whole
    edit: Edit | None = None  # what of it changed, and is read


class LostProducerError(Exception):
    """A target that was left alone came after one that is gone."""


@dataclass(frozen=True, slots=True)
class Joined:
    structure: Structure
    was: array[int]  # the number that each target had; -1: it is new
    changed: frozenset[int]  # targets whose text is not as it was


def join(old: Structure, order: Iterable[Place], workflows: Mapping[Piece, str], program: Program) -> Joined:
    """`workflows`: the names of those that were read as a whole; an empty document has none.

    Raises LostProducerError.
    """
    documents: list[Document] = []
    paths: list[str] = []
    was = array("i")
    changed: set[int] = set()
    read = by_workflow(program)
    into = producers_of(program)
    for place in order:
        here = len(paths)
        if place.number is None:
            workflow = workflows.get(place.piece)
            if workflow is None:
                continue
            targets = read[workflow]
            own = (workflow, here, len(targets), *names(program, targets, into))
            paths += [target.replace(".", "/", 1) for target in targets]
            known = old.by_workflow.get(workflow)
            was.extend(-1 if known is None else _or_none(old.number(target)) for target in targets)
            changed.update(range(here, len(paths)))
        elif place.edit is None:
            workflow, first, count, variables, speaks, schemas = old.documents[place.number][3:]
            paths += old.paths[first : first + count]
            was.extend(range(first, first + count))
            own = (workflow, here, count, variables, speaks, schemas)
        else:
            workflow, first, count, variables, speaks, schemas = old.documents[place.number][3:]
            edit = place.edit
            begin, end = first + edit.begin, first + edit.old_end
            before = {path: begin + i for i, path in enumerate(old.paths[begin:end])}
            new = [f"{workflow}/{name}" for name in edit.names]
            paths += [*old.paths[first:begin], *new, *old.paths[end : first + count]]
            was.extend([*range(first, begin), *(before.get(p, -1) for p in new), *range(end, first + count)])
            if edit.read:
                targets = [paths[here + i].replace("/", ".", 1) for i in edit.read]
                _, spoken, given = names(program, targets, into)
                speaks = sorted({*speaks, *spoken})
                lost = {path.partition("/")[2] for path in before.keys() - new}
                schemas = {**{step: one for step, one in schemas.items() if step not in lost}, **given}
                changed.update(here + i for i in edit.read)
            own = (workflow, here, len(paths) - here, variables, speaks, schemas)
        documents.append((*place.piece, *own))
    found = Structure(paths, documents, _NONE, {})
    found.producers = _renumbered(old, found, was, changed, into)
    outputs = {path: target for path, target in old.outputs.items() if found.number(target) is not None}
    mine = {path: target for path, target in outputs.items() if target not in program.targets}
    found.outputs = {**mine, **declared(program)}
    return Joined(found, was, frozenset(changed))


_NONE = (array("I", [0]), array("I"))


def _renumbered(
    old: Structure,
    found: Structure,
    was: array[int],
    changed: Collection[int],
    into: Mapping[TargetId, Sequence[TargetId]],
) -> tuple[array[int], array[int]]:
    """The producers of every target, those of targets that were left alone by their new numbers."""
    now = array("i", [-1]) * len(old.paths)
    for i, number in enumerate(was):
        if number >= 0:
            now[number] = i
    starts, ends = array("I", [0]), array("I")
    try:
        for first, count in _runs(was, sorted(changed)):
            if count:
                _take_over(old.producers, was[first], count, now, starts, ends)
            else:
                producers = set(map(found.number, into.get(found.target(first), ())))
                ends.extend(sorted(number for number in producers if number is not None))
                starts.append(len(ends))
    except OverflowError:
        raise LostProducerError from None
    return starts, ends


def _take_over(
    old: tuple[array[int], array[int]],
    first: int,
    count: int,
    now: array[int],
    starts: array[int],
    ends: array[int],
) -> None:
    """The producers of targets that stood one after another and still do."""
    shift = len(ends) - old[0][first]
    ends.extend(map(now.__getitem__, old[1][old[0][first] : old[0][first + count]]))
    starts.extend([start + shift for start in old[0][first + 1 : first + count + 1]])


def _runs(was: array[int], changed: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of targets that were left alone and stood in a row; a count of 0: one that was read."""
    begin = 0
    for end in (*changed, len(was)):
        first = begin
        if first < end and was[first:end] != array("i", range(was[first], was[first] + end - first)):
            for i in range(begin + 1, end):
                if was[i] != was[i - 1] + 1:
                    yield first, i - first
                    first = i
        if first < end:
            yield first, end - first
        if end < len(was):
            yield end, 0
        begin = end + 1


def _or_none(number: int | None) -> int:
    return -1 if number is None else number
