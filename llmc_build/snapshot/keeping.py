"""Where snapshots are kept: one for each set of workflow files that is built here.  World.

Owns their names, how many there are, and which files were built last.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence

from llmc_build.snapshot.doubt import marks
from llmc_build.snapshot.form import GOOD, SENSELESS, SKIPPED, Snapshot
from llmc_build.snapshot.seen import Seen
from llmc_build.snapshot.stamps import read_plain
from llmc_build.snapshot.survey import Survey, seen_path, snapshot_path, take_survey

KEPT = 4
_handed: dict[tuple[str, ...], Survey] = {}


def absolute(path: str) -> str:
    """What a workflow file is known by.  A `..` leads on from where a link before it leads to."""
    parts = path.split("/")
    if ".." not in parts:
        return os.path.abspath(path)
    end = len(parts) - parts[::-1].index("..")
    return os.path.abspath("/".join([os.path.realpath("/".join(parts[:end])), *parts[end:]]))


def keep(snapshot: Snapshot | None, workspace: str, files: Sequence[str]) -> None:
    """Makes it the snapshot of these files, or removes the one there is.  Raises OSError."""
    path = snapshot_path(workspace, files)
    folder = os.path.dirname(path)
    os.makedirs(folder, 0o700, exist_ok=True)
    if snapshot is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    else:
        write(path, snapshot.encoded())
    write(f"{folder}/last", [json.dumps(list(files)).encode("ascii")])
    _prune(folder)


def survey(
    workspace: str,
    files: Sequence[str],
    *,
    config: str | None,
    cache_dir: str | None,
    environ: Mapping[str, str],
) -> Survey | None:
    """What changed since these files were last built; None where they were not, or nothing is known of it."""
    handed = _handed.pop((workspace, *files), None)
    if handed is not None and cache_dir == handed.snapshot.facts["cache_dir"]:
        return handed
    found = Snapshot.read(snapshot_path(workspace, files))
    if found is None:
        return None
    if marks(snapshot_path(workspace, files)):
        survey = Survey(found, Seen(seen_path(workspace, files)))
        survey.whole = "another build is at work, or left what is not known here"
        return survey
    return take_survey(
        found, workspace=workspace, files=files, config=config, cache_dir=cache_dir, environ=environ
    )


def hand_over(survey: Survey) -> None:
    """Keeps a survey for whoever asks next, in this process, for the same."""
    facts = survey.snapshot.facts
    _handed[(facts["workspace"], *(entry[0] for entry in facts["files"]))] = survey


def last(workspace: str, files: Sequence[str]) -> Snapshot | None:
    """The snapshot of these files, whether it still holds or not."""
    handed = _handed.get((workspace, *files))
    return handed.snapshot if handed is not None else Snapshot.read(snapshot_path(workspace, files))


def placed(workspace: str) -> dict[str, dict[str, str]]:
    """The outputs that are in place by what snapshots say: "file target" -> {path: hash, or several}."""
    found: dict[str, dict[str, str]] = {}
    folder = f"{workspace}/.llmc/state"
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            snapshot = Snapshot.read(f"{folder}/{name}") if name.startswith("snapshot-") else None
            if snapshot is not None:
                with contextlib.suppress(*SENSELESS):
                    _add_placed(found, snapshot)
    return found


def _add_placed(found: dict[str, dict[str, str]], snapshot: Snapshot) -> None:
    if not snapshot.outputs:
        return
    facts, there = snapshot.facts, snapshot.facts["workspace"]
    held = {entry[0]: entry[2] for entry in facts["watched"]}
    file_of = {document[3]: facts["files"][document[0]][0] for document in snapshot.documents}
    for path, target in snapshot.outputs.items():
        sha256 = held.get(f"{there}/{path}", "")[:64]
        if snapshot.flags[snapshot.index[target]] & (GOOD | SKIPPED) == GOOD and len(sha256) == 64:
            source = os.path.relpath(os.path.realpath(file_of[target.partition(".")[0]]), there)
            known = found.setdefault(f"{source} {target}", {})
            known[path] = f"{known[path]} {sha256}" if path in known else sha256


def default_files(workspace: str) -> list[str]:
    """The files that are built where none is named, if they were built before."""
    last = last_files(workspace)
    found = Snapshot.read(snapshot_path(workspace, last))
    return last if found is None else found.facts["given"] or last


class Last:
    """What is known of the last build of some files; as much as nothing where that is damaged."""

    def __init__(self, workspace: str, files: Sequence[str]) -> None:
        self._found = Snapshot.read(snapshot_path(workspace, files))

    def key(self, target: str) -> str | None:
        """The key that a target had."""
        with contextlib.suppress(*SENSELESS):
            number = None if self._found is None else self._found.index.get(target)
            return None if self._found is None or number is None else self._found.key(number)
        return None

    def targets(self) -> list[str]:
        with contextlib.suppress(*SENSELESS):
            return [] if self._found is None else [*self._found.index]
        return []


def last_files(workspace: str) -> list[str]:
    """The workflow files of the last build here; empty where that isn't known."""
    try:
        found = json.loads(read_plain(f"{workspace}/.llmc/state/last") or b"")
    except (ValueError, RecursionError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def write(path: str, parts: Sequence[bytes]) -> None:
    """Gives a file a new content in one step.  Raises OSError."""
    temp = f"{path}.{os.getpid()}"
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.writelines(parts)
        os.rename(temp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise


def _prune(folder: str) -> None:
    with contextlib.suppress(OSError):
        with os.scandir(folder) as entries:
            found = [(e.stat().st_mtime_ns, e.name) for e in entries if e.name.startswith("snapshot-")]
        for _, name in sorted(found)[:-KEPT]:
            for path in (f"{folder}/{name}", f"{folder}/seen-{name}"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
