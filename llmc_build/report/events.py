"""What happens in a build, for programs: `--events FILE` (JSON lines) and the object of `--json`.

Owns both forms.  One event a line, written when it happens:

    {"event": "started", "at_s": 0.0, "run_id": "...", "total": 12, "jobs": 2}
    {"event": "prompts", "at_s": 0.0, "total": 3}       where some targets ask models
    {"event": "target", "at_s": 0.1, "target": "demo.facts", "state": "running", "reason": "..."}
    {"event": "progress", "at_s": 0.4, "target": "demo.story", "stats": {"tokens": 17}}
    {"event": "note", "at_s": 0.4, "text": "..."}
    {"event": "finished", "at_s": 1.2, "ok": true, "exit_code": 0, "wall_s": 1.2, "counts": {...}}

`at_s` is seconds since the reporter was made, on a monotonic clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmc_build.errors import UsageError
from llmc_build.model import BuildReport, Digest, Json, State, TargetId, TargetReport
from llmc_build.report import TargetEvent

# States that a build can reach by the thousand within a moment: they need not be seen at once.
_BULK = frozenset({State.CACHED, State.SKIPPED, State.POISONED, State.CANCELLED})
_PIECE = 1000  # targets


class Events:
    """Writes every call as a line of JSON.

    A file that can't be written to any more ends the events, never the build: `warn` is told why.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        try:
            self._file = path.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UsageError(f"--events: can't write {path}: {error.strerror}") from error
        self._start = time.monotonic()
        self._path = path
        self._warn = warn
        self._gone = False

    def started(self, total: int, run_id: str, jobs: int) -> None:
        self._write("started", {"run_id": run_id, "total": total, "jobs": jobs})

    def asks(self, prompts: Collection[TargetId]) -> None:
        self._write("prompts", {"total": len(prompts)})

    def target(self, event: TargetEvent) -> None:
        fields: dict[str, Any] = {"target": event.target, "state": event.state.value, "reason": event.reason}
        if event.state.ended:
            fields["wall_s"] = round(event.wall_s, 6)
        if event.error is not None:
            fields["error"] = event.error
        if event.caused_by is not None:
            fields["caused_by"] = event.caused_by
        if event.location is not None and event.state is State.FAILED:
            fields["location"] = str(event.location)
        if event.stats:
            fields["stats"] = dict(event.stats)
        self._write("target", fields, flush=event.state not in _BULK)

    def progress(self, target: TargetId, stats: Mapping[str, Json]) -> None:
        self._write("progress", {"target": target, "stats": dict(stats)})

    def note(self, text: str) -> None:
        self._write("note", {"text": text})

    def finished(self, report: BuildReport) -> None:
        counts = report.counts
        fields = {"ok": report.ok, "exit_code": report.exit_code, "wall_s": report.wall_s, "counts": counts}
        self._write("finished", fields)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self._give_up(error)

    def _write(self, event: str, fields: Mapping[str, Any], *, flush: bool = True) -> None:
        if self._gone:
            return
        line = {"event": event, "at_s": round(time.monotonic() - self._start, 6), **fields}
        try:
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            if flush:
                self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if not self._gone:
            self._gone = True
            self._warn(f"no more events are written to {self._path}: {error.strerror}")


def report_text(report: BuildReport) -> Iterator[str]:
    """What `llmc build --json` prints: one line, in pieces, since it is long where there are many targets."""
    encode = json.JSONEncoder().encode
    yield encode({**head(report), "targets": []})[:-2]
    for start in range(0, len(report.targets), _PIECE):
        piece = report.targets[start : start + _PIECE]
        yield (", " if start else "") + ", ".join([encode(target_json(target)) for target in piece])
    yield "]}\n"


def head(report: BuildReport) -> dict[str, Any]:
    """What comes before the targets."""
    return {
        "schema": "llmc-build/1",
        "run_id": report.run_id,
        "ok": report.ok,
        "exit_code": report.exit_code,
        "wall_s": report.wall_s,
        "counts": report.counts,
        **({"usage": usage} if (usage := report.usage) else {}),
    }


def target_json(target: TargetReport) -> dict[str, Any]:
    """One entry of `targets`."""
    return {
        "target": target.target,
        "status": target.status.value,
        "reason": target.reason,
        "key": target.key,
        "output": _digest(target.output),
        "wall_s": target.wall_s,
        "error": target.error,
        "caused_by": target.caused_by,
        **({"stats": dict(target.stats)} if target.stats else {}),
    }


def _digest(digest: Digest | None) -> dict[str, Any] | None:
    return {"sha256": digest.hash, "size": digest.size} if digest else None
