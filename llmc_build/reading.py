"""Workflow files and prompt files from disk.  World.

Owns reading: what the text means is `workflow`.  Faults of all files are raised together.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import stat
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmc_build import workflow
from llmc_build.claims import outputs_below, outputs_that_are_read, unordered_inputs
from llmc_build.collecting import loading
from llmc_build.errors import Fault, WorkflowError, did_you_mean
from llmc_build.model import Step, Workflow
from llmc_build.resolve import Program, resolve_and_release
from llmc_build.workflow import Draft, grammar_faults, schema_of_file, taken_in

if TYPE_CHECKING:
    from llmc_build.graph import ActionGraph

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_FAULTS = 1_000  # told of one set of files
Seen = MutableMapping[str, str]  # absolute path of a file that was read -> SHA-256 of what was read


def load_files(files: Sequence[Path], workspace: Path) -> tuple[Workflow, ...]:
    """Every workflow of the files, with the texts of prompt files in place.  Raises WorkflowError."""
    draft = _read_all(files, workspace)
    if draft.faults:
        raise WorkflowError(draft.faults)
    return draft.workflows


@loading()
def load_program(
    files: Sequence[Path], workspace: Path, seen: Seen | None = None, *, store: Path | None = None
) -> tuple[Program, ActionGraph]:
    """The targets and edges of the files; `seen` is told what was read.  No step may write into `store`.

    Raises WorkflowError with the faults of every kind together: those of the fields, of the names and of the
    graph.  Names are not checked where a fault may hide one that is defined.
    """
    try:
        return _load(files, workspace, seen, store, places=False)
    except WorkflowError:
        return _load(files, workspace, seen, store, places=True)  # told with every place


def _load(
    files: Sequence[Path], workspace: Path, seen: Seen | None, store: Path | None, *, places: bool
) -> tuple[Program, ActionGraph]:
    from llmc_build.graph import ActionGraph

    draft = _read_all(files, workspace, seen, places=places)
    found, names_known = list(draft.faults), draft.names_known
    workflows = list(draft.workflows)
    del draft
    taken = {source for one in workflows for step in one.steps for source in step.sources}
    program, faults = resolve_and_release(workflows, places=places)
    found += faults if names_known else ()
    read = dict.fromkeys(taken, "part of a step")
    read.update(dict.fromkeys((os.path.relpath(file, workspace) for file in files), "a workflow file"))
    found += outputs_that_are_read(program.targets.values(), read)
    if store is not None and store.is_relative_to(workspace):
        found += outputs_below(program.targets.values(), str(store.relative_to(workspace)), "the store")
    try:
        graph = ActionGraph(tuple(program.targets), program.edges)
    except WorkflowError as error:
        raise WorkflowError(_first([*found, *error.faults])) from None
    found += unordered_inputs(program, graph.comes_after)
    if found:
        raise WorkflowError(_first(found))
    return program, graph


def _first(found: Sequence[Fault]) -> list[Fault]:
    """As many faults as anybody may read."""
    faults = list(dict.fromkeys(found))
    if len(faults) > MAX_FAULTS:
        faults = [
            *faults[:MAX_FAULTS],
            Fault(
                headline=f"{len(faults) - MAX_FAULTS:,} more mistakes are not told",
                location=faults[MAX_FAULTS].location,
            ),
        ]
    return faults


def read_piece(
    data: bytes, name: str, first_line: int, workspace: Path, seen: Seen, left_out: int | None = None
) -> Draft:
    """A document of a file that is called `name` in messages, with the texts of prompt files in place.

    `left_out`: see `workflow.read`.
    """
    draft = workflow.read(data, name, first_line, left_out=left_out)
    faults = list(draft.faults)
    workflows = tuple(_with_texts(one, workspace, faults, seen) for one in draft.workflows)
    return dataclasses.replace(draft, workflows=workflows, faults=tuple(faults))


def _read_all(
    files: Sequence[Path], workspace: Path, seen: Seen | None = None, *, places: bool = True
) -> Draft:
    faults: list[Fault] = []
    workflows: list[Workflow] = []
    names_known = True
    for file in files:
        name = shown(file)
        try:
            draft = workflow.read(_read(file, seen), name, places=places)
        except _Unreadable as error:
            faults.append(Fault(headline=f"{name}: {error}", hint=_near(file)))
            names_known = False
            continue
        if not draft.workflows and not draft.faults:
            hint = "a workflow is a YAML document with `name` and `steps`"
            faults.append(Fault(headline=f"{name}: holds no workflow", hint=hint))
        faults += draft.faults
        names_known &= draft.names_known
        workflows += [_with_texts(one, workspace, faults, seen) for one in draft.workflows]
    return Draft(workflows=tuple(workflows), faults=tuple(faults), names_known=names_known)


class _Unreadable(Exception):
    """Why a file can't be read.  One line."""


def read_bytes(file: Path) -> bytes | None:
    """The bytes of a workflow file, or None where it can't be read."""
    try:
        return _read(file, None)
    except _Unreadable:
        return None


def _read(file: Path, seen: Seen | None) -> bytes:
    """The bytes of a regular file; never blocks on a device or a pipe."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _Unreadable(_why(error)) from None
    try:
        data = _read_open(descriptor)
    except OSError as error:  # what is a file by its status and none by its nature, as in /proc
        raise _Unreadable(_why(error)) from None
    finally:
        os.close(descriptor)
    if seen is not None:
        seen[os.path.abspath(file)] = hashlib.sha256(data).hexdigest()
    return data


def _read_open(descriptor: int) -> bytes:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise _Unreadable("is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise _Unreadable("is not a regular file")
    large = f"is larger than {MAX_FILE_BYTES // 1024**2} MiB"
    if status.st_size > MAX_FILE_BYTES:
        raise _Unreadable(large)
    with open(descriptor, "rb", buffering=0, closefd=False) as stream:
        found = bytearray()
        while len(found) <= MAX_FILE_BYTES and (piece := stream.read(status.st_size + 1)):
            found += piece
    if len(found) > MAX_FILE_BYTES:  # it grew
        raise _Unreadable(large)
    return bytes(found)


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.errno == errno.ENXIO:  # a socket, or a device without a driver
        return "is not a regular file"
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)


def _near(file: Path) -> str | None:
    """What may have been meant by a file that can't be read."""
    if file.is_dir():
        any_there = any((file / name).is_file() for name in ("llmc.yaml", "workflow.yaml"))
        return f"to build what is there: llmc build -C {file}" if any_there else None
    try:
        others = [entry.name for entry in os.scandir(file.parent) if entry.name.endswith((".yaml", ".yml"))]
    except OSError:
        return None
    return did_you_mean(file.name, others) if file.name not in others else None


def shown(file: Path) -> str:
    """The path as the user would write it: relative to the current folder where it lies below it."""
    try:
        return str(file.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError, RuntimeError):  # elsewhere, or a circle of links
        return str(file)


def _with_texts(found: Workflow, workspace: Path, faults: list[Fault], seen: Seen | None) -> Workflow:
    """A workflow with the texts of the files that its steps take in."""
    if not any(map(taken_in, found.steps)):
        return found
    steps = tuple(_with_files(step, workspace, faults, seen) for step in found.steps)
    return dataclasses.replace(found, steps=steps)


def _with_files(step: Step, workspace: Path, faults: list[Fault], seen: Seen | None) -> Step:
    for field, name in taken_in(step):
        place = step.place(field)
        try:
            data = _read(workspace / name, seen)
            text = data.decode("utf-8")
        except _Unreadable as error:
            hint = None if field != "grammar" else 'a grammar itself has a rule: root ::= "yes" | "no"'
            faults.append(Fault(headline=f"{field} {name}: {error}", location=place, hint=hint))
            continue
        except UnicodeDecodeError as error:
            headline = f"{field} {name}: not UTF-8 at byte {error.start}"
            faults.append(Fault(headline=headline, location=place))
            continue
        step = _with_text(step, field, text, shown(workspace / name), faults)
        step = dataclasses.replace(step, sources=(*step.sources, name))
    return step


def _with_text(step: Step, field: str, text: str, name: str, faults: list[Fault]) -> Step:
    if field == "prompt_file":
        # faults in the text are shown at their place in the prompt file itself
        start = dataclasses.replace(step.place(field), file=name, line=1, column=1)
        places = {**step.places, "prompt": start}
        return dataclasses.replace(step, prompt=text, places=places, blocks={**step.blocks, "prompt": (1, 0)})
    if field == "grammar":
        faults += grammar_faults(text, name)
        return dataclasses.replace(step, grammar=text)
    schema, problems = schema_of_file(text, name)
    faults += problems
    return dataclasses.replace(step, schema=schema)
