"""Which files steps write, and who reads them.  Pure.

Owns what must hold between the `inputs` and `outputs` of all steps; what a path may be is `workflow`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from llmc_build.errors import Fault
from llmc_build.model import TargetId
from llmc_build.workflow.compound import folded

if TYPE_CHECKING:
    from llmc_build.resolve import Program, Target


def unordered_inputs(program: Program, comes_after: Callable[[TargetId, TargetId], bool]) -> list[Fault]:
    """A fault for each step that does not come after the step that writes one of its inputs."""
    writers = {path: target for target in program.targets.values() for path in target.action.outputs}
    faults: list[Fault] = []
    if not writers:
        return faults
    for target in program.targets.values():
        for path in target.action.inputs:
            writer = writers.get(path)
            if writer is not None and not comes_after(target.id, writer.id):
                headline = f'step "{target.step.name}" reads {path}, which step "{writer.id}" writes'
                hint = f"let it come after that step: needs: {writer.id}"
                if writer is target:
                    headline = f'step "{target.step.name}" reads {path}, which it writes itself'
                    hint = "a step's output can't be its input: write to another file"
                faults.append(Fault(headline=headline, location=target.step.place("inputs"), hint=hint))
    return faults


def refuse_shared_outputs(targets: Iterable[Target], faults: list[Fault]) -> None:
    """Two steps must not write one file, nor a file where another writes a folder."""
    writers: dict[str, tuple[Target, str]] = {}
    folders: dict[str, tuple[Target, str]] = {}
    for target in targets:
        for path in target.action.outputs:
            name = folded(path)
            other, other_path = writers.setdefault(name, (target, path))
            if other is not target:
                faults.append(_conflict(target, path, other, other_path))
            parts = name.split("/")
            for i in range(1, len(parts)):
                folders.setdefault("/".join(parts[:i]), (target, path))
    for name, (target, path) in writers.items():
        if name in folders:
            faults.append(_conflict(*folders[name], target, path))


def outputs_below(targets: Iterable[Target], folder: str, what: str) -> list[Fault]:
    """A fault for each output in a folder of the workspace that is not for steps to write into."""
    faults = []
    for target in targets:
        for path in target.action.outputs:
            if folded(path).startswith(f"{folded(folder)}/") or folded(path) == folded(folder):
                headline = f'step "{target.step.name}" writes {path}, which lies in {what}'
                faults.append(Fault(headline=headline, location=target.step.place("outputs")))
    return faults


def outputs_that_are_read(targets: Iterable[Target], read: Mapping[str, str]) -> list[Fault]:
    """A fault for each output that is read before anything runs.  `read`: path -> what it is."""
    kinds = {folded(path): kind for path, kind in read.items()}
    faults = []
    for target in targets:
        for path in target.action.outputs:
            kind = kinds.get(folded(path))
            if kind is not None:
                headline = f'step "{target.step.name}" writes {path}, which is {kind}'
                hint = "that is read before anything runs: write to another file"
                faults.append(Fault(headline=headline, location=target.step.place("outputs"), hint=hint))
    return faults


def _conflict(target: Target, path: str, other: Target, other_path: str) -> Fault:
    return Fault(
        headline=f'step "{target.step.name}" writes {path}, but step "{other.id}" writes {other_path}',
        location=target.step.place("outputs"),
        facts=(("other", str(other.step.place("outputs"))),),
        hint="a file has one step that writes it",
    )
