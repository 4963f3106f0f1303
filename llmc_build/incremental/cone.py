"""Which targets of a partial build have to be looked at. Pure but for what it asks.

Owns the choice. *Suspects* are targets of documents that changed, readers of files that changed, targets
whose value is not in place, whose record was lost, or that did not end well last time. A suspect that would
come to the value it has is only put back into place, and what comes after it is left alone. Every other
suspect is looked at with all that comes after it: what came before has the value that the snapshot says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from llmc_build.binder import Finding
from llmc_build.incremental.partial import Partial, TooMuch
from llmc_build.model import TargetId
from llmc_build.snapshot.form import GOOD, SKIPPED

Probe = Callable[[Sequence[TargetId]], Sequence[Finding | None]]  # None: it can't be told without trying


def suspects(part: Partial, wanted: Collection[int] | None, lost: Iterable[int]) -> list[int]:
    """Targets to be looked at, for what happened to themselves; `lost`: by their numbers in the snapshot."""
    survey, old = part.survey, part.survey.snapshot
    found = set(part.changed)
    then = {*survey.moved, *survey.aged, *lost}
    inside = f"{old.facts['workspace']}/"
    for path in survey.changed:
        writer = old.outputs.get(path.removeprefix(inside))
        if path not in old.readers and path not in old.prompts and writer is None:
            raise TooMuch(f"{path} changed")
        then.update(old.readers.get(path, ()))
        if writer is not None:
            then.add(old.index[writer])
    if not old.all_good:
        then.update(i for i, flags in enumerate(old.flags) if not flags & GOOD)
    if then:
        found.update(i for i, was in enumerate(part.was) if was in then)
    return sorted(found if wanted is None else found.intersection(wanted))


def choose(
    part: Partial,
    doubtful: Iterable[int],
    wanted: Collection[int] | None,
    probe: Probe,
    lost: Collection[int] = (),
) -> set[int]:
    """The targets of the build.  The documents of those that `doubtful` names have been read."""
    old, structure = part.survey.snapshot, part.structure
    writers = set(structure.outputs.values())
    missing = {*part.survey.moved, *part.survey.aged}  # the latter have a new time, if they are taken
    inside = f"{old.facts['workspace']}/"
    spoilt = {structure.outputs.get(path.removeprefix(inside)) for path in part.survey.changed}
    must: list[int] = []
    restored: set[int] = set()
    gone = {-1, *lost}
    known = [i for i in doubtful if part.was[i] not in gone and _producers_are_known(part, i)]
    findings = dict(zip(known, probe([structure.target(i) for i in known]), strict=True))
    for i in doubtful:
        target, was, found = structure.target(i), part.was_at(i), findings.get(i)
        if found is None or was is None or not _is_as_it_was(part, was, found):
            must.append(i)
        elif target in spoilt or (target in writers and found.key != old.key(was)):
            must.append(i)  # its value does not speak for the files that it wrote
        elif was in missing or target in spoilt or found.key != old.key(was):
            restored.add(i)
    chosen = structure.followed_by(must) | restored
    return chosen if wanted is None else chosen.intersection(wanted)


def _producers_are_known(part: Partial, i: int) -> bool:
    """Whether all producers ended well, so that the snapshot has their values."""
    starts, ends = part.structure.producers
    flags = part.survey.snapshot.flags
    return all(part.was[p] >= 0 and flags[part.was[p]] & GOOD for p in ends[starts[i] : starts[i + 1]])


def _is_as_it_was(part: Partial, was: int, found: Finding) -> bool:
    """Whether what is found is what the last build left, as far as others can see."""
    old = part.survey.snapshot
    flags = old.flags[was]
    if not flags & GOOD:
        return False
    if found.key is None or flags & SKIPPED:
        return found.key is None and bool(flags & SKIPPED)
    return found.value is not None and found.value == old.value(was)[0]
