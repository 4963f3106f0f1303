"""The run of a build that had nothing to do. World; imports little.

Owns how such a run is recorded: a folder like that of every run, with `run.json` and without logs. It is
marked by a file `up-to-date`, so that the runs in which something happened are not pushed out by those in
which nothing did.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection

from llmc_build.snapshot.form import SKIPPED, Damaged, Snapshot

MARK = "up-to-date"
KEPT = 50


def record(home: str, snapshot: Snapshot, wanted: Collection[int] | None, wall_s: float) -> None:
    """Records a run in which every target asked for was up to date.  Raises OSError, ValueError."""
    runs = f"{home}/runs"
    total = len(snapshot.paths) if wanted is None else len(wanted)
    skipped = sum(1 for i in _numbers(snapshot, wanted) if snapshot.flags[i] & SKIPPED)
    counts = {"total": total, "ran": 0, "cached": total - skipped, "failed": 0, "poisoned": 0}
    rest = _rest(snapshot, wanted, total)  # before anything is written: it may turn out to be damaged
    run_id = _new(runs)
    head = {
        "schema": "llmc-build/1",
        "run_id": run_id,
        "ok": True,
        "exit_code": 0,
        "wall_s": round(wall_s, 6),
        "counts": {**counts, "skipped": skipped, "cancelled": 0},
    }
    with open(f"{runs}/{run_id}/run.json", "xb", opener=_private) as file:
        file.write(json.dumps(head)[:-1].encode("ascii") + b", " + rest + b"\n")
    os.close(_private(f"{runs}/{run_id}/{MARK}", os.O_WRONLY | os.O_CREAT))
    link = f"{runs}/.llmc-{os.getpid()}-{time.time_ns():x}"
    os.symlink(run_id, link)
    os.rename(link, f"{runs}/latest")
    _prune(runs)


def _new(runs: str) -> str:
    """A new run's folder, named like every run's (`store.runs`)."""
    if os.path.islink(runs) or os.path.islink(os.path.dirname(runs)):
        raise OSError(f"{runs} is a symbolic link")
    now = time.time_ns() // 1_000_000
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 1000))
    first = f"{moment}.{now % 1000:03}Z-{os.getpid()}"
    for run_id in (first, *(f"{first}-{count}" for count in range(2, 100))):
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{runs}/{run_id}", 0o700)
            return run_id
    raise FileExistsError(first)


def _numbers(snapshot: Snapshot, wanted: Collection[int] | None) -> Collection[int]:
    if not any(flag & SKIPPED for flag in set(snapshot.flags)):
        return ()
    return range(len(snapshot.flags)) if wanted is None else wanted


def _rest(snapshot: Snapshot, wanted: Collection[int] | None, total: int) -> bytes:
    """The record from `targets` on: of every target, where that was prepared."""
    try:
        prepared = snapshot.section("record")
    except Damaged:
        prepared = b""
    if not prepared:
        return b'"targets": [], "unchanged": %d, "notes": [], "contexts": {}, "channels": {}}' % total
    if wanted is None:
        return prepared[1:]
    names = {snapshot.target(i) for i in wanted}
    found = json.loads(prepared)
    found["targets"] = [target for target in found["targets"] if target["target"] in names]
    found["channels"] = {name: channel for name, channel in found["channels"].items() if name in names}
    found["contexts"] = _contexts(snapshot, names, found["contexts"])
    return json.dumps(found)[1:].encode("ascii")


def _contexts(
    snapshot: Snapshot, names: Collection[str], contexts: dict[str, dict[str, object]]
) -> dict[str, dict[str, object]]:
    kept: dict[str, dict[str, object]] = {}
    for document in snapshot.documents:
        workflow, variables = document[3], document[6]
        for variable, step in variables.items():
            if f"{workflow}.{step}" in names and variable in contexts.get(workflow, {}):
                kept.setdefault(workflow, {})[variable] = contexts[workflow][variable]
    return kept


def _prune(runs: str) -> None:
    marked = [name for name in sorted(os.listdir(runs)) if os.path.lexists(f"{runs}/{name}/{MARK}")]
    for name in marked[:-KEPT]:
        if os.path.islink(f"{runs}/{name}"):  # what it leads to is not ours
            continue
        with contextlib.suppress(OSError):
            for file in ("run.json", MARK):
                os.unlink(f"{runs}/{name}/{file}")
            os.rmdir(f"{runs}/{name}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
