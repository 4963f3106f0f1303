"""The record of a run: `run.json` and each target's `action.json`.  World.

Owns their form.  `run.json` is the object of `--json` with what the original program writes beside it:
`contexts` (workflow -> variable -> value) and `channels` (target -> {val, err}).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llmc_build.model import BuildReport, Json, State, TargetId
from llmc_build.report.events import report_json
from llmc_build.store.files import write_atomic

if TYPE_CHECKING:
    from llmc_build.binder import Binder
    from llmc_build.resolve import Program
    from llmc_build.store.runs import Run

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
    result = binder.results.get(target)
    if result is None:
        return ""  # skipped
    if result.value.size > WHOLE_VALUE_BYTES:
        return {"sha256": result.value.hash, "size": result.value.size}
    return (binder.value(target) or b"").decode("utf-8", "replace")


def _poison(cause: TargetId | None) -> str | None:
    return f"{cause} failed" if cause else None


def write_actions(run: Run, report: BuildReport, binder: Binder) -> None:
    """`action.json`, the components of the key, beside the logs of every target that ran."""
    for target in report.targets:
        components = binder.components.pop(target.target, None)
        if components is not None:
            text = json.dumps(components, indent=1, sort_keys=True, ensure_ascii=False)
            data = text.encode("utf-8", "surrogatepass")
            write_atomic(run.step_folder(target.target) / "action.json", data, durable=False)
