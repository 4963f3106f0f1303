"""A snapshot that travels with the store, to a checkout in which nothing was built yet. World.

Owns its form: a snapshot (`form`) below `CACHE_DIR/snapshots/`, named by the workflow files and by what
llmc is, with paths relative to the workspace and without stamps.  Whoever restores a store has one for the
workflow files that were built with it; the survey then compares contents, so documents that changed are
read and all others are not.

It is believed as far as a record is: whoever can write to the store can name a wrong result, and nothing
more.  It is checked for being a snapshot at all; no path in it is written to, and no command is in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from array import array
from collections.abc import Mapping, Sequence
from operator import le
from pathlib import Path
from typing import Any

from llmc_build.snapshot import survey as world
from llmc_build.snapshot.form import (
    GOOD,
    SENSELESS,
    SKIPPED,
    UNKNOWN,
    Facts,
    Snapshot,
    Watched,
    number_bytes,
)

FOLDER = "snapshots"
FROM = 500  # targets: below, reading everything costs next to nothing
_KEPT = 8
_TAKEN = (
    "paths",
    "documents",
    "starts",
    "producers",
    "flags",
    "keys",
    "values",
    "outputs",
    "blobs",
    "cuts",
    "steps",
)
_NAME = r"[A-Za-z0-9_-]{1,200}"
_PATHS = re.compile(rf"{_NAME}/{_NAME}(?:\n{_NAME}/{_NAME})*")


def carry(snapshot: Snapshot, hidden: Sequence[str]) -> None:
    """Leaves a snapshot with the store, where it is worth it.  Raises OSError.

    `hidden`: folders in which no inputs are looked for.
    """
    facts = snapshot.facts
    files = _within(facts["workspace"], [entry[0] for entry in facts["files"]])
    settled = snapshot.all_good and not snapshot.windows
    if len(snapshot.flags) < FROM or not settled or files is None or facts["python"]:
        return
    folders = _listings(snapshot, hidden)
    if folders is None:
        return
    from llmc_build.store import files as disk

    names = _Names(facts["workspace"])
    sections = {name: snapshot.section(name) for name in _TAKEN}
    sections["blob_ctimes"] = bytes(len(snapshot.section("blob_ctimes")))
    for name in ("readers", "prompts", "words"):
        sections[name] = _json({names.out(path): v for path, v in getattr(snapshot, name).items()})
    config = facts["config"]
    left: Mapping[str, object] = {
        **facts,
        "who": [],
        "workspace": "",
        "config": names.watched_out(config) if config else None,
        "cache_dir": "",
        "own_cache_dir": "",
        "files": [names.watched_out(entry) for entry in facts["files"]],
        "watched": [names.watched_out(entry) for entry in facts["watched"]],
        "folders": [(names.out(path), listing) for path, listing in folders],
        "store": [],
        "given": [names.out(path) for path in facts["given"]],
        "out": [],
        "placed": None,
    }
    parts = Snapshot(left, sections).encoded()  # type: ignore[arg-type]
    with disk.open_beneath(Path(facts["cache_dir"]), (FOLDER,), create=True) as folder:
        with disk.new_file(folder, _name(files), mode=0o600) as fd:
            for data in parts:
                disk.write_all(fd, data)
        _prune(folder)


def arrived(
    workspace: str,
    files: Sequence[str],
    *,
    config: str | None,
    cache_dir: str,
    own_cache_dir: str,
    hidden: Sequence[str],
) -> Snapshot | None:
    """The snapshot that came with the store, as if it had been taken here; None where there is none.

    Nor is there one for a workspace in which a build left something, which only a look at everything can
    tell from what belongs there now.  Its stamps are of nothing, so that a survey compares contents.
    """
    within = _within(workspace, files)
    if within is None or _was_built(workspace) or not os.path.isdir(f"{cache_dir}/{FOLDER}"):
        return None
    found = Snapshot.read(f"{cache_dir}/{FOLDER}/{_name(within)}")
    try:
        if found is None:
            return None
        found.check()
        _check(found)
        return _here(found, workspace, config, cache_dir, own_cache_dir, hidden)
    except SENSELESS:
        return None


def _here(
    found: Snapshot,
    workspace: str,
    config: str | None,
    cache_dir: str,
    own_cache_dir: str,
    hidden: Sequence[str],
) -> Snapshot:
    names, facts = _Names(workspace), found.facts
    sections = {name: found.section(name) for name in _TAKEN}
    for name in ("readers", "prompts", "words"):
        sections[name] = _json({names.into(path): v for path, v in getattr(found, name).items()})
    sections["ctimes"] = number_bytes(array("q", [-1 if flags & SKIPPED else 0 for flags in found.flags]))
    sections["fresh"] = b""
    sections["blob_ctimes"] = bytes(8 * len(found.blobs[0]))
    sections["record"] = b""
    outputs = {names.into(path) for path in found.outputs}
    here = Facts(
        who=world.who(),
        workspace=workspace,
        config=names.watched_into(facts["config"]) if facts["config"] else None,
        cache_dir=cache_dir,
        own_cache_dir=own_cache_dir,
        environ=facts["environ"],
        files=[names.watched_into(entry) for entry in facts["files"]],
        watched=[names.watched_into(entry) for entry in facts["watched"]],
        folders=[],
        python=[],
        store=[(f"{cache_dir}/index", None)],  # it was made here by somebody else: all records are looked up
        given=[names.into(path) for path in facts["given"]],
        out=[],
        placed=None,
    )
    listings: Sequence[tuple[str, Any]] = facts["folders"]
    for path, listing in listings:
        folder, stamp = names.into(path), world.folder_stamp(names.into(path))
        holds = _listing(folder, hidden, outputs) == listing
        here["folders"].append((folder, stamp if holds and stamp == world.folder_stamp(folder) else UNKNOWN))
    for path, (asked, there) in found.words.items():
        folder, stamp = names.into(path), world.folder_stamp(names.into(path))
        holds = world.here(folder, asked) | _written(folder, outputs).intersection(there) == set(there)
        here["folders"].append((folder, stamp if holds and stamp == world.folder_stamp(folder) else UNKNOWN))
    return Snapshot(here, sections)


def _written(folder: str, outputs: set[str]) -> set[str]:
    """The names in a folder that steps write: they come back."""
    return {path.rpartition("/")[2] for path in outputs if path.rpartition("/")[0] == folder}


def _was_built(workspace: str) -> bool:
    try:
        names = os.listdir(f"{workspace}/.llmc")
    except OSError:
        return False
    return any(name in ("out", "placed.json") or name.startswith("placed.journal") for name in names)


# ---------------------------------------------------------------- names


class _Names:
    """Paths below a workspace and below none."""

    def __init__(self, workspace: str) -> None:
        self._workspace = workspace

    def out(self, path: str) -> str:
        if path == self._workspace:
            return "."
        return path.removeprefix(f"{self._workspace}/")

    def into(self, path: str) -> str:
        if path == ".":
            return self._workspace
        return path if path.startswith("/") else f"{self._workspace}/{path}"

    def watched_out(self, entry: Watched) -> Watched:
        return (self.out(entry[0]), [0] * 5, entry[2], True)

    def watched_into(self, entry: Watched) -> Watched:
        path, _, content, _ = entry
        if not isinstance(content, str):
            raise ValueError(path)
        return (self.into(path), [0] * 5, content, True)


def _within(workspace: str, files: Sequence[str]) -> list[str] | None:
    """The files relative to the workspace; None where one is not below it."""
    inside = f"{workspace}/"
    if not all(path.startswith(inside) for path in files):
        return None
    return [path.removeprefix(inside) for path in files]


def _name(files: Sequence[str]) -> str:
    """What a snapshot of these files by this llmc is called."""
    hasher = hashlib.sha256(json.dumps([sys.version, sys.platform, os.uname().machine, *files]).encode())
    for folder, below, names in os.walk(world.PACKAGE):
        below[:] = sorted(name for name in below if name != "__pycache__")
        for name in sorted(names):
            hasher.update(f"{folder.removeprefix(world.PACKAGE)}/{name}".encode())
            hasher.update(bytes.fromhex(world.hash_file(f"{folder}/{name}")))
    return hasher.hexdigest()


# ---------------------------------------------------------------- folders in which globs looked


def _listings(snapshot: Snapshot, hidden: Sequence[str]) -> list[tuple[str, str]] | None:
    """The folders whose every name matters, with what they list; None where one changes just now."""
    facts, found = snapshot.facts, []
    outputs = {f"{facts['workspace']}/{path}" for path in snapshot.outputs}
    for path, stamp in facts["folders"]:
        if path not in snapshot.words:
            listing = _listing(path, hidden, outputs)
            if world.folder_stamp(path) != stamp:
                return None
            found.append((path, listing))
    return found


def _listing(folder: str, hidden: Sequence[str], outputs: set[str]) -> str:
    """A hash of what a folder lists, but for what is not looked at and what steps write; empty: no folder."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                (entry.name, entry.is_dir(), entry.is_symlink())  # no pattern leads through a link
                for entry in entries
                if entry.path not in hidden and entry.path not in outputs
            )
    except OSError:
        return ""
    return world.sha256(json.dumps(names).encode())


# ---------------------------------------------------------------- checks


def _check(found: Snapshot) -> None:
    """Raises ValueError where its parts don't fit together, so that nothing behind it has to ask."""
    environ = found.facts["environ"]
    _insist(all(type(value) in (str, type(None)) for value in environ.values()))
    text, count = found.section("paths").decode("ascii"), len(found.flags)
    starts, ends = found.producers
    _insist(count > 0 and _PATHS.fullmatch(text) is not None and len(found.paths) == count)
    _insist(len(found.section("keys")) == 32 * count and len(found.section("values")) == 40 * count)
    _insist(not set(found.flags) - set(range((GOOD | SKIPPED) + 1)))
    _insist(len(starts) == count + 1 and starts[0] == 0 and starts[-1] == len(ends))
    _insist(all(map(le, starts, starts[1:])) and (not ends or max(ends) < count))
    _check_documents(found, count)
    for name in ("readers", "prompts"):
        most = count if name == "readers" else len(found.documents)
        for numbers in getattr(found, name).values():
            _insist(all(type(i) is int and 0 <= i < most for i in numbers))
    _insist(all(found.index.get(target) is not None for target in found.outputs.values()))
    for known, there in found.words.values():
        _insist(all(type(name) is str for name in [*known, *there]))
    _insist(all(re.fullmatch(r"cas/[0-9a-f]{2}/[0-9a-f]{64}", path) for path in found.blobs[0]))


def _check_documents(found: Snapshot, count: int) -> None:
    end = 0
    workflows = set()
    for file, line, content, workflow, first, length, variables, others, schemas in found.documents:
        _insist(0 <= file < len(found.facts["files"]) and line > 0 and len(content) == 32 and length > 0)
        _insist(first == end and workflow not in workflows)
        prefix = f"{workflow}/"
        end += length
        _insist(end <= count and all(path.startswith(prefix) for path in found.paths[first:end]))
        steps = {path.removeprefix(prefix) for path in found.paths[first:end]}
        _insist(steps.issuperset(variables.values()) and steps.issuperset(schemas))
        _insist(all(type(name) is str for name in [*others, *schemas.values()]))
        workflows.add(workflow)
    _insist(end == count)


def _insist(holds: bool) -> None:
    if not holds:
        raise ValueError("not a snapshot")


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _prune(folder: int) -> None:
    """Keeps the newest, and none that a killed build was writing."""
    with contextlib.suppress(OSError):
        times = {
            name: os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns
            for name in os.listdir(folder)
        }
        for name in sorted(times, key=times.__getitem__)[:-_KEPT]:
            os.unlink(name, dir_fd=folder)
