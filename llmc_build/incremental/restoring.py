"""Putting results back into place by what the last build knew, without reading a workflow. World.

Owns the walk over the store that comes before anything is looked at target by target.  A target whose
document, inputs and result are as they were, and whose value or outputs are gone (a folder was removed, a
checkout is fresh), has the key that the snapshot says: its record is looked up, verified and placed.  What
the store has lost, and what is doubtful for any other reason, is left to `cone`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from llmc_build.errors import Interrupted
from llmc_build.incremental.partial import Partial
from llmc_build.model import ActionResult, TargetId
from llmc_build.outputs import Outputs, PlacingError
from llmc_build.snapshot.form import GOOD, SKIPPED, marked
from llmc_build.snapshot.survey import same
from llmc_build.stopping import Stop
from llmc_build.store import Store

_LOOKUP = 1000  # records looked up at a time


class Restoring:
    """Numbers of targets are the snapshot's, but for `wanted` and `back`."""

    def __init__(
        self,
        part: Partial,
        store: Store,
        outputs: Outputs,
        source_of: Callable[[TargetId], str],
        stop: Stop,
    ) -> None:
        """`source_of`: the workflow file of a target, relative to the workspace."""
        self._part, self._store, self._outputs, self._source_of = part, store, outputs, source_of
        self._stop = stop
        self._old = part.survey.snapshot
        self._declared: dict[TargetId, dict[str, str]] = {}  # outputs and what they hold
        old = self._old
        held = {entry[0]: entry[2] for entry in old.facts["watched"]} if old.outputs else {}
        for path, target in old.outputs.items():
            content = held.get(f"{old.facts['workspace']}/{path}", "")
            self._declared.setdefault(target, {})[path] = content
        self.lost: set[int] = set()  # targets whose results the store has no more
        self.back: set[int] = set()  # targets of which everything is in place again
        self.written = 0  # files

    def find_lost(self) -> None:
        """Looks for the results of all targets that ended well."""
        self._walk(self._good(), {})

    def put_back(self, wanted: Collection[int] | None) -> None:
        """Places what is missing, as far as nothing else is wrong with it, and takes it off the survey.

        A file that one target writes and another reads has to come back before the other's result can be
        believed: so it goes in rounds, each of which heals some files.
        """
        survey = self._part.survey
        todo = self._missing(wanted)
        self._walk(self._good() if survey.store_changed else list(todo), todo)
        while self._healed() and (todo := self._missing(wanted)):
            self._walk(list(todo), todo)
        placed = {self._part.was[i] for i in self.back}
        survey.moved = [i for i in survey.moved if i not in placed]

    def _good(self) -> list[int]:
        return [i for i, flags in enumerate(self._old.flags) if flags & GOOD and not flags & SKIPPED]

    def _missing(self, wanted: Collection[int] | None) -> dict[int, int]:
        """Targets to be placed -> their new numbers."""
        part, old = self._part, self._old
        inside = f"{old.facts['workspace']}/"
        missing, spoilt = {*part.survey.moved}, {*part.survey.aged, *self.lost}
        for path in part.survey.changed:
            writer = old.outputs.get(path.removeprefix(inside))
            if writer is not None:
                missing.add(old.index[writer])
            spoilt.update(old.readers.get(path, ()))
        return {
            was: i
            for i, was in enumerate(part.was)
            if was in missing
            and was not in spoilt
            and i not in self.back
            and old.flags[was] & (GOOD | SKIPPED) == GOOD
            and (wanted is None or i in wanted)
            and i not in part.changed
        }

    def _healed(self) -> bool:
        """Whether some files that had changed are as they were; these are taken off the survey."""
        survey = self._part.survey
        if not self.back or not survey.changed:
            return False
        entries = {entry[0]: entry for entry in self._old.facts["watched"]}
        left = [path for path in survey.changed if path not in entries or not same(entries[path])]
        healed, survey.changed = len(left) < len(survey.changed), left
        return healed

    def _walk(self, numbers: Sequence[int], todo: dict[int, int]) -> None:
        """Looks up and verifies the results of targets, and places those of `todo`."""
        old = self._old
        for start in range(0, len(numbers), _LOOKUP):
            if self._stop.exit_code is not None:
                raise Interrupted(self._stop.exit_code)
            keys = {i: old.key(i) or "" for i in numbers[start : start + _LOOKUP]}
            there = self._store.lookup_many(keys.values())
            for i, key in keys.items():
                record = there.get(key)
                if record is None or not self._is_it(i, record.result):
                    self.lost.add(i)
                elif i in todo:
                    self._place(i, todo[i], record.result)

    def _is_it(self, i: int, result: ActionResult) -> bool:
        """Whether a result is the one that the snapshot speaks of."""
        if (result.value.hash, result.value.size) != self._old.value(i):
            return False
        if not result.outputs and not self._declared:
            return True
        found = {output.path: marked(output.digest.hash, output.executable) for output in result.outputs}
        return found == self._declared.get(self._old.target(i), {})

    def _place(self, was: int, i: int, result: ActionResult) -> None:
        target = self._part.structure.target(i)
        self._outputs.sources[target] = self._source_of(target)
        try:
            written = self._outputs.place(target, result)
        except PlacingError:  # it is told when the target is looked at
            return
        if written is None:
            self.lost.add(was)
        else:
            self.back.add(i)
            self.written += written
