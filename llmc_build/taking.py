"""Taking a snapshot after a build, so that the next one need not look at what did not change. World.

Owns what a snapshot says of the world after a build, and carries over what it said of targets that this
build did not look at. It errs on one side: what can't be told to be as it was when it was used is written
down so that the next build looks at it.
"""

from __future__ import annotations

import json
import os
import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmc_build.model import Action, Json, State, TargetId, TargetReport
from llmc_build.partial import Partial, piece_hash
from llmc_build.reading import read_bytes, shown
from llmc_build.record import ALL_OF, unchanged
from llmc_build.resolve import Program
from llmc_build.snapshot import survey as world
from llmc_build.snapshot.form import (
    CHECK,
    GOOD,
    SKIPPED,
    Facts,
    Snapshot,
    Watched,
    number_bytes,
    pack_key,
    pack_value,
)
from llmc_build.snapshot.stamps import Stamp, is_fresh, look
from llmc_build.snapshot.structure import Structure, of_program
from llmc_build.traces import Traces
from llmc_build.workflow.split import split

_MAGIC = frozenset("*?[")
_NO_FOLDER = -1  # an mtime that no folder has


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a build knows when it is over; its store is closed."""

    workspace: Path
    cache_dir: Path
    config: Path | None  # llmc.yaml
    given: tuple[str, ...]  # the files that it lists, absolute
    files: Sequence[Path]  # the workflow files
    environ: Mapping[str, str]
    read: Mapping[str, str]  # workflow files and prompt files -> SHA-256 of what was read
    program: Program  # all targets, or those of the documents that were read
    part: Partial | None
    reports: Mapping[TargetId, TargetReport]  # of the targets that were looked at
    traces: Traces
    placed_ns: Mapping[TargetId, int]  # when the value of a target was seen in place, unix time
    names: Callable[[Action], set[str]]  # which files an action would be given now
    remembered: Callable[
        [Path], tuple[Stamp, str] | None
    ]  # SHA-256 of a file and the stamp that goes with it
    models: Mapping[str, str]  # model files that were used -> SHA-256
    moving_models: frozenset[str] = frozenset()  # references that may mean another file tomorrow
    left: Collection[int] = ()  # targets that should have been looked at, and were not asked for
    record: Mapping[str, Json] | None = None  # of the run, where every target is asked for and ended well


def take(e: Evidence) -> Snapshot | None:
    """The snapshot of a build; None where the files changed while it ran."""
    return _Taker(e).snapshot()


class _Taker:
    def __init__(self, e: Evidence) -> None:
        self.e = e
        self.old = e.part.survey.snapshot if e.part is not None else None
        self.now_ns = time.time_ns()
        self.not_good: set[TargetId] = set()

    def snapshot(self) -> Snapshot | None:
        e = self.e
        structure = e.part.structure if e.part is not None else self._structure()
        if structure is None:
            return None
        self.structure = structure
        self.looked_at = dict(self._numbered(e.reports))
        folders, words = self._folders()
        readers = self._readers()
        prompts = self._prompts()
        sections = {
            "paths": "\n".join(structure.paths).encode("ascii"),
            "documents": _json(structure.documents),
            "starts": number_bytes(structure.producers[0]),
            "producers": number_bytes(structure.producers[1]),
            "outputs": _json(structure.outputs),
            "readers": _json(readers),
            "prompts": _json(prompts),
            "words": _json(words),
            **self._results(),
            **self._blobs(),
            "record": self._record(),
        }
        facts = Facts(
            who=world.who(),
            workspace=str(e.workspace),
            config=None if e.config is None else self._watch(str(e.config)),
            cache_dir=str(e.cache_dir),
            environ=self._environ(),
            files=self._files(),
            watched=self._watched([*readers, *prompts]),
            folders=folders,
            python=world.packages() if self._has_models() else [],
            store=[self._store_file(name) for name in ("cache.db", "cache.db-wal")],
            given=list(e.given),
        )
        return Snapshot(facts, sections)

    def _record(self) -> bytes:
        """What the record of a run is that finds everything as it is now; nothing for a large build."""
        record = self.e.record
        if record is None or len(self.structure.paths) > ALL_OF:
            return b""
        return _json(unchanged(record))

    # ------------------------------------------------------------ structure

    def _structure(self) -> Structure | None:
        e = self.e
        places: dict[str, tuple[int, list[tuple[int, str]]]] = {}
        for number, file in enumerate(e.files):
            data = read_bytes(file)
            if data is None or world.sha256(data) != e.read.get(os.path.abspath(file)):
                return None
            pieces = split(data) or [
                (1, 0, 0)
            ]  # in one piece that no text has: a change of it is a change of all
            places[shown(file)] = (number, [(line, piece_hash(data[a:b])) for line, a, b in pieces])
        return of_program(e.program, lambda file, line: (places[file][0], *_document(places[file][1], line)))

    def _numbered(self, reports: Mapping[TargetId, TargetReport]) -> Iterator[tuple[int, TargetReport]]:
        for target, report in reports.items():
            number = self.structure.number(target)
            if number is not None:
                yield number, report

    # ------------------------------------------------------------ results

    def _results(self) -> dict[str, bytes]:
        e, structure, count = self.e, self.structure, len(self.structure.paths)
        flags = bytearray(self._carried("flags", 1))
        keys = bytearray(self._carried("keys", 32))
        values = bytearray(self._carried("values", 40))
        ctimes = array("q", [-1]) * count
        fresh: set[int] = set()
        if self.old is not None and e.part is not None:
            for i, was in enumerate(e.part.was):
                if was >= 0:
                    ctimes[i] = self.old.ctimes[was]
            then = set(self.old.fresh)
            fresh = {i for i, was in enumerate(e.part.was) if was in then} if then else set()
            for i in e.left:
                flags[i] = 0
        home = f"{e.workspace}/.llmc/out"
        for i, report in self.looked_at.items():
            fresh.discard(i)
            flag, ctimes[i] = self._one(report, f"{home}/{structure.paths[i]}")
            if ctimes[i] >= 0 and is_fresh(ctimes[i], ctimes[i], self.now_ns):
                fresh.add(i)
            output = report.output
            value = pack_value((output.hash, output.size) if output else None)
            if self.old is not None and (not flag & GOOD or values[i * 40 : i * 40 + 40] != value):
                self._unsettle(i, flags)
            flags[i] = flag
            keys[i * 32 : i * 32 + 32] = pack_key(report.key)
            values[i * 40 : i * 40 + 40] = value
        return {
            "flags": bytes(flags),
            "keys": bytes(keys),
            "values": bytes(values),
            "ctimes": number_bytes(ctimes),
            "fresh": number_bytes(array("I", sorted(fresh))),
        }

    def _carried(self, section: str, width: int) -> bytes:
        """What the old snapshot has for each target, zeros for new ones."""
        part = self.e.part
        if self.old is None or part is None:
            return bytes(len(self.structure.paths) * width)
        data = self.old.section(section)
        return b"".join(
            bytes(count * width) if first < 0 else data[first * width : (first + count) * width]
            for first, count in _runs(part.was)
        )

    def _one(self, report: TargetReport, path: str) -> tuple[int, int]:
        """Flags of a target, and the ctime of the file that holds its value."""
        e, target = self.e, report.target
        if not report.status.good or target in e.traces.not_kept or target in self.not_good:
            return 0, -1
        flag = GOOD | (CHECK if self._may_age(target) else 0)
        if report.status is State.SKIPPED:
            return flag | SKIPPED, -1
        try:
            ctime = os.lstat(path).st_ctime_ns
        except OSError:
            return 0, -1
        placed = e.placed_ns.get(target, 0)
        return (flag, ctime) if ctime <= placed + _PLACING_NS else (0, ctime)

    def _may_age(self, target: TargetId) -> bool:
        """Whether a result may have to be made again though nothing changed here."""
        action = self.e.program.targets[target].action
        model = action.params.get("model")
        return action.cache.ttl_s is not None or (isinstance(model, str) and model in self.e.moving_models)

    def _unsettle(self, i: int, flags: bytearray) -> None:
        """What reads a target that is not as it was is to be looked at, where it was not yet."""
        starts, ends = self.structure.consumers
        for consumer in ends[starts[i] : starts[i + 1]]:
            if consumer not in self.looked_at:
                flags[consumer] = 0

    def _blobs(self) -> dict[str, bytes]:
        paths = set(self.old.blobs[0]) if self.old is not None else set()
        paths.update(f"cas/{name[:2]}/{name}" for name in self.e.traces.blobs)
        listed = sorted(paths)
        times = [look(f"{self.e.cache_dir}/{path}") for path in listed]
        return {
            "blobs": "\n".join(listed).encode("ascii"),
            "blob_ctimes": number_bytes(array("q", [stamp[4] if stamp else -2 for stamp in times])),
        }

    # ------------------------------------------------------------ what was read

    def _readers(self) -> dict[str, list[int]]:
        """Input file -> targets that read it; a target that would be given other files now is not good."""
        e = self.e
        found: dict[str, set[int]] = {}
        if self.old is not None and e.part is not None and self.old.readers:
            now = {was: i for i, was in enumerate(e.part.was) if was >= 0}
            for path, numbers in self.old.readers.items():
                left = {now[was] for was in numbers if was in now} - self.looked_at.keys()
                if left:
                    found[path] = left
        for i, report in self.looked_at.items():
            target = report.target
            action = e.program.targets[target].action
            if not (action.inputs or action.words) or not report.status.good:
                continue
            given = e.traces.files.get(target, {})
            if e.names(action) != set(given):
                self.not_good.add(target)
            for path in given:
                found.setdefault(f"{e.workspace}/{path}", set()).add(i)
        return {path: sorted(numbers) for path, numbers in found.items()}

    def _prompts(self) -> dict[str, list[int]]:
        """Prompt file -> documents that hold its text."""
        e = self.e
        read = {target.step.workflow for target in e.program.targets.values()}
        found: dict[str, set[int]] = {}
        if self.old is not None:
            names = [document[3] for document in self.old.documents]
            for path, numbers in self.old.prompts.items():
                for name in {names[number] for number in numbers} - read:
                    if name in self.structure.by_workflow:
                        found.setdefault(path, set()).add(self.structure.by_workflow[name])
        for target in e.program.targets.values():
            if target.step.prompt_file is not None:
                path = os.path.abspath(e.workspace / target.step.prompt_file)
                found.setdefault(path, set()).add(self.structure.by_workflow[target.step.workflow])
        return {path: sorted(numbers) for path, numbers in found.items()}

    def _watched(self, paths: Iterable[str]) -> list[Watched]:
        """Every file that was read, and every file that a step declares as its output."""
        e = self.e
        known = {entry[0]: entry for entry in self.old.facts["watched"]} if self.old is not None else {}
        for gone in e.part.survey.changed if e.part is not None else ():
            known.pop(gone, None)
        sha = dict(e.models)
        for given in e.traces.files.values():
            sha.update({f"{e.workspace}/{path}": text for path, text in given.items()})
        sha.update({path: text for path, text in e.read.items() if path not in self._workflow_files})
        sha.update({f"{e.workspace}/{path}": text for path, text in e.traces.outputs.items()})
        wanted = {*paths, *e.models, *(f"{e.workspace}/{path}" for path in self.structure.outputs)}
        wanted.update(known.keys() - self._mine(known))
        return [
            self._entry(path, sha[path]) if path in sha else known.get(path, (path, [0] * 5, "?", True))
            for path in sorted(wanted)
        ]

    def _mine(self, known: Mapping[str, Watched]) -> set[str]:
        """Entries of the old snapshot that are for what this one has lists of, and may go."""
        assert self.old is not None or not known
        if self.old is None:
            return set()
        inside = f"{self.e.workspace}/"
        return {*self.old.readers, *self.old.prompts, *(inside + path for path in self.old.outputs)}

    def _entry(self, path: str, sha256: str) -> Watched:
        remembered = self.e.remembered(Path(path))
        stamp = remembered[0] if remembered is not None and remembered[1] == sha256 else None
        return world.watch(path, sha256, stamp, self.now_ns)

    @property
    def _workflow_files(self) -> set[str]:
        return {os.path.abspath(file) for file in self.e.files}

    def _files(self) -> list[Watched]:
        """The workflow files: as they were read, with the stamp that they have now if they still are."""
        e, found = self.e, []
        known = {entry[0]: entry for entry in self.old.facts["files"]} if self.old is not None else {}
        texts = e.part.survey.texts if e.part is not None else {}
        for number, file in enumerate(e.files):
            path = os.path.abspath(file)
            if path in known and number not in texts:
                found.append(known[path])
                continue
            sha256 = world.sha256(texts[number]) if number in texts else e.read[path]
            found.append(self._watch(path, sha256))
        return found

    def _watch(self, path: str, sha256: str | None = None) -> Watched:
        """A file as it is now, or, where it has another content than it should, in a way that tells so."""
        before = look(path)
        now = world.hash_file(path)
        stamp = before if before == look(path) and sha256 in (None, now) else None
        return world.watch(path, now if sha256 is None else sha256, stamp, self.now_ns)

    def _folders(self) -> tuple[list[tuple[str, int]], dict[str, list[list[str]]]]:
        """Folders whose listing matters to inputs, with their mtimes, and the words that matter in them.

        The mtimes are taken first: what comes later than that is seen by `names`, or next time.
        """
        e = self.e
        candidates: dict[str, set[str]] = {}
        listed: dict[str, int] = {}
        changed: set[str] = set()
        if self.old is not None:
            candidates = {folder: set(names[0]) for folder, names in self.old.words.items()}
            for folder, mtime in self.old.facts["folders"]:
                if folder not in candidates:
                    listed[folder] = mtime
                elif world.here(folder, self.old.words[folder][0]) != set(self.old.words[folder][1]):
                    changed.add(folder)
        patterns: set[str] = set()
        for report in self.looked_at.values():
            action = e.program.targets[report.target].action
            patterns.update(action.inputs)
            for word in action.words:
                folder, _, name = f"{e.workspace}/{word}".rpartition("/")
                candidates.setdefault(os.path.normpath(folder), set()).add(name)
        for pattern in patterns:
            listed.update((folder, _mtime(folder)) for folder in folders_of(str(e.workspace), pattern))
        times = {folder: _NO_FOLDER if folder in changed else _mtime(folder) for folder in candidates}
        words = {f: [sorted(names), sorted(world.here(f, list(names)))] for f, names in candidates.items()}
        for folder in words.keys() & listed.keys():  # a glob looks there: every name matters
            words.pop(folder)
            times.pop(folder)
        return sorted({**times, **listed}.items()), words

    # ------------------------------------------------------------ everything else

    def _environ(self) -> dict[str, str | None]:
        names = {
            name for t in self.e.program.targets.values() for name, value in t.action.env if value is None
        }
        if self.old is not None:
            names.update(self.old.facts["environ"])
        return {name: world.hashed(self.e.environ.get(name)) for name in sorted({*names, *world.CONSULTED})}

    def _has_models(self) -> bool:
        if self.old is not None and self.old.facts["python"]:
            return True
        return any(target.action.rule != "shell" for target in self.e.program.targets.values())

    def _store_file(self, name: str) -> tuple[str, list[int] | None]:
        path = f"{self.e.cache_dir}/index/{name}"
        stamp = look(path)
        return path, list(stamp) if stamp else None


_PLACING_NS = 1_000_000_000  # from the moment before a file is placed until it is there, at most


def folders_of(workspace: str, pattern: str) -> set[str]:
    """The folders that are listed to find the files of an input: what comes or goes there may be one."""
    found: set[str] = set()
    level, is_glob = {workspace}, False
    for part in pattern.split("/"):
        if _MAGIC.isdisjoint(part):
            level = {f"{folder}/{part}" for folder in level}
            continue
        is_glob = True
        below = {place for folder in level for place in _below(folder, deep=part == "**")}
        found |= level | (below if part == "**" else set())
        level = level | below if part == "**" else below
    for place in level:
        if is_glob:
            found.add(os.path.dirname(place))
        elif os.path.isdir(place):
            found |= {place, *_below(place, deep=True)}
    return found


def _below(folder: str, *, deep: bool) -> set[str]:
    if deep:
        return {place for place, _, _ in os.walk(folder)} - {folder}
    try:
        with os.scandir(folder) as entries:
            return {entry.path for entry in entries if entry.is_dir()}
    except OSError:
        return set()


def _mtime(folder: str) -> int:
    """0 where there is no folder, and never one that may stay though the listing changes."""
    stamp = look(folder)
    if stamp is None:
        return 0
    return _NO_FOLDER if is_fresh(stamp[3], stamp[4], time.time_ns()) else stamp[3]


def _document(pieces: Sequence[tuple[int, str]], line: int) -> tuple[int, str]:
    """First line and hash of the document that holds a line."""
    from bisect import bisect_right

    return pieces[bisect_right(pieces, line, key=lambda piece: piece[0]) - 1]


def _runs(was: array[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of numbers that follow each other; a first of -1 stands for new targets."""
    begin, count = -1, 0
    for old in was:
        if count and (old == begin + count if begin >= 0 else old < 0):
            count += 1
            continue
        if count:
            yield begin, count
        begin, count = old, 1
    if count:
        yield begin, count


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")
