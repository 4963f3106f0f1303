"""The record of a run, `run.json`.  World.

Owns its form: the object of `--json` with what the original program writes beside it:
`contexts` (workflow -> variable -> value) and `channels` (target -> {val, err}).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from llmc_build.model import BuildReport, Json, State, TargetReport
from llmc_build.report.events import report_json

if TYPE_CHECKING:
    from llmc_build.binder import Binder
    from llmc_build.resolve import Program
    from llmc_build.snapshot.structure import Structure

WHOLE_VALUE_BYTES = 65536  # larger values are named by digest; they lie in .llmc/out as they are
ALL_OF = 1000  # targets: in a larger build, those that were not looked at are only counted


def run_record(
    report: BuildReport, program: Program, binder: Binder, structure: Structure | None
) -> dict[str, Json]:
    """The content of run.json.  `structure`: of all targets, where `program` has some of them only."""
    listed = report.targets if len(report.targets) <= ALL_OF else report.news
    record = report_json(report, listed)
    reports = {one.target: one for one in listed}
    values = {one.target: _value(one, binder) for one in listed}
    contexts: dict[str, Json] = {}
    for workflow, variable, target in _variables(program, structure):
        if target in reports and reports[target].status.good:
            variables = contexts.setdefault(workflow, {})
            assert isinstance(variables, dict)
            variables[variable] = values[target]
    channels: dict[str, Json] = {
        one.target: {"val": values[one.target], "err": one.error or _poison(one.caused_by)} for one in listed
    }
    unchanged = len(report.targets) - len(listed)
    more: dict[str, Json] = {"unchanged": unchanged} if unchanged else {}
    return {**record, **more, "notes": list(report.notes), "contexts": contexts, "channels": channels}


def unchanged(record: Mapping[str, Json]) -> dict[str, Json]:
    """What is the same in the record of a run that finds everything as a run left it, from `targets` on."""
    targets = record["targets"]
    assert isinstance(targets, list)
    same: list[Json] = []
    for target in targets:
        assert isinstance(target, dict)
        status = "skipped" if target["status"] == "skipped" else "cached"
        same.append({**target, "status": status, "reason": "up to date", "wall_s": 0.0})
    return {"targets": same, "notes": [], "contexts": record["contexts"], "channels": record["channels"]}


def _variables(program: Program, structure: Structure | None) -> Iterator[tuple[str, str, str]]:
    """(workflow, variable, the target that sets it), the last one last."""
    read = set()
    for target in program.targets.values():
        read.add(target.step.workflow)
        if target.step.output:
            yield target.step.workflow, target.step.output, target.id
    for document in structure.documents if structure is not None else ():
        workflow, variables = document[3], document[6]
        if workflow not in read:
            for variable, step in variables.items():
                yield workflow, variable, f"{workflow}.{step}"


def _value(report: TargetReport, binder: Binder) -> Json:
    if not report.status.good:
        return None
    if report.output is None or report.status is State.SKIPPED:
        return ""
    if report.output.size > WHOLE_VALUE_BYTES:
        return {"sha256": report.output.hash, "size": report.output.size}
    return (binder.value(report.target) or b"").decode("utf-8", "replace")


def _poison(cause: str | None) -> str | None:
    return f"{cause} failed" if cause else None
