"""The record of a run, `run.json`.  World.

Owns its form: the object of `--json` with what the original program writes beside it:
`contexts` (workflow -> variable -> value) and `channels` (target -> {val, err}).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmc_build.model import BuildReport, Json, State, TargetId
from llmc_build.report.events import report_json

if TYPE_CHECKING:
    from llmc_build.binder import Binder
    from llmc_build.resolve import Program

WHOLE_VALUE_BYTES = 65536  # larger values are named by digest; they lie in .llmc/out as they are


def run_record(report: BuildReport, program: Program, binder: Binder) -> dict[str, Json]:
    """The content of run.json."""
    record = report_json(report)
    contexts: dict[str, Json] = {}
    channels: dict[str, Json] = {}
    for target in report.targets:
        value = _value(target.target, target.status, binder)
        channels[target.target] = {"val": value, "err": target.error or _poison(target.caused_by)}
        step = program.targets[target.target].step
        if step.output and target.status.good:
            variables = contexts.setdefault(step.workflow, {})
            assert isinstance(variables, dict)
            variables[step.output] = value
    return {**record, "notes": list(report.notes), "contexts": contexts, "channels": channels}


def _value(target: TargetId, status: State, binder: Binder) -> Json:
    if not status.good:
        return None
    digest = binder.values.get(target)
    if digest is None:
        return ""  # skipped
    if digest.size > WHOLE_VALUE_BYTES:
        return {"sha256": digest.hash, "size": digest.size}
    return (binder.value(target) or b"").decode("utf-8", "replace")


def _poison(cause: TargetId | None) -> str | None:
    return f"{cause} failed" if cause else None
