"""The structure of all documents, of those that were read and those that were left alone.  Pure.

Owns the new numbers of targets, and what of the old structure stays.  What is read is `partial`'s.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from llmc_build.frozen import frozen
from llmc_build.model import TargetId
from llmc_build.resolve import Program
from llmc_build.snapshot.cuts import Edit
from llmc_build.snapshot.form import Document
from llmc_build.snapshot.structure import Structure, by_workflow, declared, names, producers_of

Piece = tuple[int, int, str]  # number of the file, first line, hash


def piece_of(document: Document) -> Piece:
    """What a document was when the snapshot was taken."""
    return document[0], document[1], document[2]


class Place(NamedTuple):
    """A document where it stands now."""

    piece: Piece
    number: int | None  # of the document of the snapshot whose names it has; None: it is read as a whole
    edit: Edit | None = None  # what of it changed, and is read


Runs = list[
    tuple[int, int]
]  # (first, count) of old numbers that follow each other; a first of -1: new targets


class LostProducerError(Exception):
    """A target that was left alone came after one that is gone."""


@frozen
class Joined:
    structure: Structure
    runs: Runs  # the numbers that the targets had
    changed: frozenset[int]  # targets whose text is not as it was


def join(old: Structure, order: Sequence[Place], workflows: Mapping[Piece, str], program: Program) -> Joined:
    """`workflows`: the names of those that were read as a whole; an empty document has none.

    Raises LostProducerError.
    """
    documents: list[Document] = []
    paths: list[str] = []
    runs: Runs = []
    changed: set[int] = set()
    read = by_workflow(program)
    into = producers_of(program)
    end = 0
    while end < len(order):
        at, end = end, _stretch(order, end)
        place, here = order[at], len(paths)
        if place.number is None:
            workflow = workflows.get(place.piece)
            if workflow is None:
                continue
            targets = read[workflow]
            own = (workflow, here, len(targets), *names(program, targets, into))
            paths += [target.replace(".", "/", 1) for target in targets]
            known = old.by_workflow.get(workflow)
            _extend(runs, [-1 if known is None else _or_none(old.number(target)) for target in targets])
            changed.update(range(here, len(paths)))
        elif place.edit is None:
            kept = old.documents[place.number : place.number + end - at]
            first, stop = kept[0][4], kept[-1][4] + kept[-1][5]
            paths += old.paths[first:stop]
            _append(runs, first, stop - first)
            documents += _moved(kept, order[at:end], here - first)
            continue
        else:
            workflow, first, count, variables, speaks, schemas = old.documents[place.number][3:]
            edit = place.edit
            begin, stop = first + edit.begin, first + edit.old_end
            before = {path: begin + i for i, path in enumerate(old.paths[begin:stop])}
            new = [f"{workflow}/{name}" for name in edit.names]
            paths += [*old.paths[first:begin], *new, *old.paths[stop : first + count]]
            _append(runs, first, edit.begin)
            _extend(runs, [before.get(path, -1) for path in new])
            _append(runs, stop, first + count - stop)
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
    found.producers = _renumbered(old, found, runs, changed, into)
    outputs = {path: target for path, target in old.outputs.items() if found.number(target) is not None}
    mine = {path: target for path, target in outputs.items() if target not in program.targets}
    found.outputs = {**mine, **declared(program)}
    return Joined(found, runs, frozenset(changed))


_NONE = (array("I", [0]), array("I"))


def _stretch(order: Sequence[Place], at: int) -> int:
    """Where a row of documents ends that were left alone, and stood in that row; others are one each."""
    piece, number, edit = order[at]
    end = at + 1
    if number is not None and edit is None:
        while end < len(order):
            place = order[end]
            if place.number != number + end - at or place.edit is not None or place.piece[0] != piece[0]:
                break
            end += 1
    return end


def _moved(kept: list[Document], places: Sequence[Place], shift: int) -> Iterable[Document]:
    """The documents of a row, where they stand now, with the numbers that their targets have now.

    What changes their lines within the row is what is gone from between them: they only move up, and where
    the last one did not, none did.
    """
    if not shift and places[0].piece == piece_of(kept[0]) and places[-1].piece == piece_of(kept[-1]):
        return kept
    return [(*p.piece, d[3], d[4] + shift, *d[5:]) for p, d in zip(places, kept, strict=True)]


def _append(runs: Runs, first: int, count: int) -> None:
    """More targets that had numbers in a row; a first of -1: that had none."""
    if runs and (runs[-1][0] < 0 if first < 0 else runs[-1][0] >= 0 and sum(runs[-1]) == first):
        first, count = runs[-1][0], runs.pop()[1] + count
    if count:
        runs.append((first, count))


def _extend(runs: Runs, numbers: Iterable[int]) -> None:
    for number in numbers:
        _append(runs, number, 1)


def numbers_of(runs: Runs) -> array[int]:
    """The number that each target had; -1: it is new."""
    found = array("i")
    for first, count in runs:
        found.extend(range(first, first + count) if first >= 0 else [-1] * count)
    return found


def _renumbered(
    old: Structure,
    found: Structure,
    runs: Runs,
    changed: Collection[int],
    into: Mapping[TargetId, Sequence[TargetId]],
) -> tuple[array[int], array[int]]:
    """The producers of every target, those of targets that were left alone by their new numbers."""
    now = array("i", [-1]) * len(old.paths)
    here = 0
    for first, count in runs:
        if first >= 0:
            now[first : first + count] = array("i", range(here, here + count))
        here += count
    have_moved = now != array("i", range(len(now)))
    old_starts, old_ends = old.producers
    starts, ends = array("I", [0]), array("I")
    try:
        for first, count in _left_alone(runs, sorted(changed)):
            if count:
                begin = old_starts[first]
                more = old_ends[begin : old_starts[first + count]]
                shift = len(ends) - begin
                ends.extend(map(now.__getitem__, more) if have_moved else more)
                where = old_starts[first + 1 : first + count + 1]
                starts.extend([start + shift for start in where] if shift else where)
            else:
                producers = set(map(found.number, into.get(found.target(first), ())))
                ends.extend(sorted(number for number in producers if number is not None))
                starts.append(len(ends))
    except OverflowError:
        raise LostProducerError from None
    return starts, ends


def _left_alone(runs: Runs, changed: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of targets that were left alone, by their old numbers; (new number, 0): it was read."""
    here = at = 0
    for first, count in runs:
        end = here + count
        begin = here
        while at < len(changed) and changed[at] < end:
            if begin < changed[at]:
                yield first + begin - here, changed[at] - begin
            yield changed[at], 0
            begin = changed[at] + 1
            at += 1
        if begin < end:
            yield first + begin - here, end - begin
        here = end


def _or_none(number: int | None) -> int:
    return -1 if number is None else number
