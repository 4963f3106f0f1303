"""The record of a run, `run.json`.  World.

Owns its form: the object of `--json` with what the original program writes beside it:
`contexts` (workflow -> variable -> value) and `channels` (target -> {val, err}).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

from llmc_build.model import BuildReport, Json, State, TargetReport
from llmc_build.report.events import head, target_json
from llmc_build.store.runs import Listed, Mapped

if TYPE_CHECKING:
    from llmc_build.binder import Binder
    from llmc_build.resolve import Program
    from llmc_build.snapshot.structure import Structure

WHOLE_VALUE_BYTES = 65536  # larger values are named by digest; they lie in .llmc/out as they are
ALL_OF = (
    1000  # targets: in a larger build, those not looked at, or cancelled before they began, are only counted
)


Record: TypeAlias = dict[str, Any]  # JSON, with Listed and Mapped in it


def run_record(report: BuildReport, program: Program, binder: Binder, structure: Structure | None) -> Record:
    """The content of run.json.  `structure`: of all targets, where `program` has some of them only."""
    is_small = len(report.targets) <= ALL_OF
    listed = report.targets if is_small else report.news
    unchanged = len(report.targets) - len(listed)
    if not is_small:
        listed = [one for one in listed if one.status is not State.CANCELLED or one.wall_s]
    reports = {one.target: one for one in listed}
    record: Record = {
        **head(report),
        "targets": Listed(map(target_json, listed)),
        **({"unchanged": unchanged} if unchanged else {}),
        "notes": list(report.notes),
        "contexts": Mapped(_contexts(reports, binder, program, structure)),
        "channels": Mapped((one.target, _channel(one, binder)) for one in listed),
    }
    return _made(record) if is_small else record


def _made(record: Record) -> Record:
    """A record with all entries in memory."""
    found: Record = {}
    for name, value in record.items():
        if isinstance(value, Listed):
            found[name] = list(value.items)
        else:
            found[name] = dict(value.members) if isinstance(value, Mapped) else value
    return found


def _contexts(
    reports: Mapping[str, TargetReport], binder: Binder, program: Program, structure: Structure | None
) -> Iterator[tuple[str, Json]]:
    """Workflow -> variable -> value."""
    told = {target.partition(".")[0] for target in reports}
    for workflow, group in groupby(_variables(program, structure, told), key=lambda variable: variable[0]):
        good = [(v, reports[t]) for _, v, t in group if t in reports and reports[t].status.good]
        if good:
            yield workflow, {variable: _value(report, binder) for variable, report in good}


def _channel(report: TargetReport, binder: Binder) -> Json:
    return {"val": _value(report, binder), "err": report.error or _poison(report.caused_by)}


def unchanged(record: Record) -> dict[str, Json]:
    """What is the same in the record of a run that finds everything as a run left it, from `targets` on."""
    targets = record["targets"]
    assert isinstance(targets, list)
    same: list[Json] = []
    for target in targets:
        assert isinstance(target, dict)
        status = "skipped" if target["status"] == "skipped" else "cached"
        same.append({**target, "status": status, "reason": "up to date", "wall_s": 0.0})
    return {"targets": same, "notes": [], "contexts": record["contexts"], "channels": record["channels"]}


def _variables(
    program: Program, structure: Structure | None, workflows: Container[str]
) -> Iterator[tuple[str, str, str]]:
    """(workflow, variable, the target that sets it), the last one last, of these workflows at least."""
    read = set()
    for target in program.targets.values():
        read.add(target.step.workflow)
        if target.step.output:
            yield target.step.workflow, target.step.output, target.id
    for document in structure.documents if structure is not None else ():
        workflow, variables = document[3], document[6]
        if workflow not in read and workflow in workflows:
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
