"""What becomes of a worker's answer: a result in its place, and the record that is kept of it.  World.

Owns the end of a target that ran: whether its result may be kept, what its error says.  What the parts of an
answer mean is `replies`; when the record is written is the loop's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field

from llmc_build import replies
from llmc_build.binding import Pending
from llmc_build.execute.protocol import Done, Status
from llmc_build.frozen import frozen
from llmc_build.inputs import Inputs
from llmc_build.lanes import has_changed
from llmc_build.model import NO_STATS, ActionResult, Json, TargetId
from llmc_build.outputs import Outputs, PlacingError
from llmc_build.reads import Reads
from llmc_build.resolve import Program
from llmc_build.rules import rule
from llmc_build.store import Record, Store
from llmc_build.traces import Traces

_NO_FOLDER = re.compile("no such file or directory|directory nonexistent", re.IGNORECASE)


def _missing_folder(tail: str, outputs: Sequence[str]) -> str | None:
    """The folder of an output that could not be written, by what was said of it."""
    for line in filter(_NO_FOLDER.search, tail.splitlines()):
        for word in replies.paths_in(line):
            if word in outputs and "/" in word:
                return word.rpartition("/")[0]
    return None


@frozen(kw_only=True)
class Verified:
    """What became of a worker's answer."""

    error: str | None = None
    result: ActionResult | None = None
    record: Record | None = None  # to be committed before the target is reported
    warnings: tuple[str, ...] = ()
    stderr_tail: str = ""
    stats: Mapping[str, Json] = field(default_factory=lambda: NO_STATS)


class Answers:
    def __init__(
        self,
        *,
        program: Program,
        store: Store,
        inputs: Inputs,
        outputs: Outputs,
        reads: Reads,
        traces: Traces,
        warnings: Mapping[TargetId, tuple[str, ...]],
        dry_run: bool,
        clock: Callable[[], float],
    ) -> None:
        """`warnings`: of what targets declared and what was not found."""
        self._program = program
        self._store = store
        self._inputs = inputs
        self._outputs = outputs
        self._reads = reads
        self._traces = traces
        self._warnings = warnings
        self._dry_run = dry_run
        self._clock = clock

    def finish(self, target: TargetId, pending: Pending, done: Done) -> Verified:
        """What a worker's answer comes to.  The outputs of a good result are in place on return."""
        warnings = [*self._warnings.get(target, ()), *replies.texts(done.reply.get("warnings"))]
        undeclared = replies.texts(done.reply.get("undeclared"))
        if undeclared:
            warnings.append(f"wrote {', '.join(undeclared)}: declare what is to be kept in `outputs`")
        tail = str(done.reply.get("stderr_tail", ""))
        found = done.reply.get("stats")
        stats = found if isinstance(found, dict) else NO_STATS
        if done.status is not Status.OK:
            error = self._explain(target, pending, done, tail)
            return Verified(error=error, warnings=tuple(warnings), stderr_tail=tail, stats=stats)
        changed = self._inputs.changed(pending.files, pending.stamps)
        if changed:
            warnings.append(f"{', '.join(changed)} changed while the step ran: its result is not kept")
        result = replies.result(done, self._store)
        return self.placed(
            target, pending, result, warnings=warnings, stats=stats, keep=not changed, stderr_tail=tail
        )

    def placed(
        self,
        target: TargetId,
        pending: Pending,
        result: ActionResult,
        *,
        warnings: Sequence[str] = (),
        stats: Mapping[str, Json],
        keep: bool = True,
        stderr_tail: str = "",
    ) -> Verified:
        """A good result in its place, with the record that is to be kept of it."""
        if self._dry_run:
            self._reads.values[target] = result.value
            return Verified(result=result)
        try:
            if self._outputs.place(target, result) is None:
                return Verified(error="its result was lost from the store while it was put in place")
        except PlacingError as error:
            return Verified(error=str(error), warnings=tuple(warnings))
        self._reads.values[target] = result.value
        now_s = self._clock()
        self._traces.gave(self._program.targets[target].action, result, now_s)
        model = pending.bound.model
        if keep and model is not None and has_changed(model):
            warnings = [*warnings, f"{model.path} changed while the step ran: its result is not kept"]
            keep = False
        kept = None
        if pending.cached and keep:
            kept = Record(
                key=pending.key.hash,
                components=pending.key.components,
                result=result,
                created=now_s,
                text=pending.key.text,
            )
        else:
            self._traces.not_kept.add(target)
        return Verified(
            result=result, record=kept, warnings=tuple(warnings), stderr_tail=stderr_tail, stats=stats
        )

    def _explain(self, target: TargetId, pending: Pending, done: Done, tail: str) -> str:
        action = self._program.targets[target].action
        error = done.error or done.status.value
        if action.sandbox and rule(action.rule).lane == "shell":
            given = pending.files
            for word in replies.paths_in(tail):
                known = word in action.outputs or any(p == word or p.startswith(f"{word}/") for p in given)
                if not known and self._inputs.offers(target, word):
                    hint = f"the step was not given {word} of the workspace: declare it in `inputs`"
                    return f"{error}\nhint: {hint}"
            folder = _missing_folder(tail, action.outputs)
            if folder is not None and "mkdir" not in str(action.params["script"]):
                hint = f"the step begins in a folder with nothing but its inputs: `mkdir -p {folder}` first"
                return f"{error}\nhint: {hint}"
        return error
