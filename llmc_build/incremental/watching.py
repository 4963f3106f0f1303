"""What a build read, as the next survey looks at it. World.

Owns, for a snapshot that is taken, everything but targets and results: workflow files, inputs, prompt
files, models, folders in which globs looked, words that could name files, variables. What an older snapshot
says of targets that were not looked at is carried over.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from llmc_build.frozen import frozen
from llmc_build.incremental.partial import Partial
from llmc_build.model import Action, State, TargetId, TargetReport
from llmc_build.record import Record
from llmc_build.resolve import Program
from llmc_build.snapshot import survey as world
from llmc_build.snapshot.form import UNKNOWN, Snapshot, Watched
from llmc_build.snapshot.stamps import Stamp, is_fresh, look
from llmc_build.snapshot.structure import Structure
from llmc_build.traces import Traces

_MAGIC = frozenset("*?[")


@frozen(kw_only=True)
class Evidence:
    """What a build knows when it is over; its store is closed."""

    workspace: Path
    cache_dir: Path
    own_cache_dir: Path
    config: Path | None  # llmc.yaml
    config_hash: str | None  # SHA-256 of what was read of it
    given: tuple[str, ...]  # the files that it lists, absolute
    files: Sequence[Path]  # the workflow files
    environ: Mapping[str, str]
    read: Mapping[str, str]  # workflow files and prompt files -> SHA-256 of what was read
    program: Program  # all targets, or those of the documents that were read
    part: Partial | None
    reports: Sequence[TargetReport]  # of the targets that were looked at
    traces: Traces
    placed_ctimes: Mapping[
        TargetId, int
    ]  # the ctime of the file of a target's value when it was seen in place
    names: Callable[[Action], set[str]]  # which files an action would be given now
    remembered: Callable[
        [Path], tuple[Stamp, str] | None
    ]  # SHA-256 of a file and the stamp that goes with it
    models: Mapping[str, str]  # model files that were used -> SHA-256
    moving_models: frozenset[str] = frozenset()  # references that may mean another file tomorrow
    left: Collection[int] = ()  # targets that should have been looked at, and were not asked for
    put_back: Collection[int] = ()  # targets of which everything was put back, and nothing else looked at
    record: Record | None = None  # of the run, where every target is asked for and ended well


class Watching:
    """`looked_at`: reports of the targets of this build, by their numbers."""

    def __init__(
        self, e: Evidence, old: Snapshot | None, structure: Structure, looked_at: Mapping[int, TargetReport]
    ) -> None:
        self.e, self.old, self.structure, self.looked_at = e, old, structure, looked_at
        self.now_ns = time.time_ns()
        self.not_good: set[TargetId] = set()  # targets that would be given other files now
        self.stale: set[int] = set()  # targets not looked at, of which a file has changed since
        self.dangling: set[str] = set()  # links to nothing where files are looked for

    def readers(self) -> dict[str, list[int]]:
        """Input file -> targets that read it; a target that would be given other files now is not good."""
        e = self.e
        found: dict[str, set[int]] = {}
        if self.old is not None and e.part is not None and self.old.readers:
            now = {was: i for i, was in enumerate(e.part.was) if was >= 0}
            for path, numbers in self.old.readers.items():
                left = {now[was] for was in numbers if was in now} - self.looked_at.keys()
                if left:
                    found[path] = left
        latest = {path: text for given in e.traces.files.values() for path, text in given.items()}
        for path, _, known, _ in self.old.facts["watched"] if self.old is not None else ():
            if latest.get(path.removeprefix(f"{e.workspace}/"), known) != known:
                self.stale |= found.get(path, set())
        for i, report in self.looked_at.items():
            target = report.target
            action = e.program.targets[target].action
            if not (action.inputs or action.words) or not report.status.good:
                continue
            if report.status is State.SKIPPED:
                continue
            given = e.traces.files.get(target, {})
            # A file that changed during the build was one thing to one step and another to the next.
            if e.names(action) != set(given) or any(latest[path] != text for path, text in given.items()):
                self.not_good.add(target)
            for path in given:
                found.setdefault(f"{e.workspace}/{path}", set()).add(i)
        return {path: sorted(numbers) for path, numbers in found.items()}

    def prompts(self) -> dict[str, list[int]]:
        """Prompt file, or another whose text is part of a step -> documents that hold its text."""
        e = self.e
        read = e.part.whole if e.part is not None else {t.step.workflow for t in e.program.targets.values()}
        found: dict[str, set[int]] = {}
        if self.old is not None:
            names = [document[3] for document in self.old.documents]
            for path, numbers in self.old.prompts.items():
                for name in {names[number] for number in numbers} - read:
                    if name in self.structure.by_workflow:
                        found.setdefault(path, set()).add(self.structure.by_workflow[name])
        for target in e.program.targets.values():
            for source in target.step.sources:
                path = os.path.abspath(e.workspace / source)
                found.setdefault(path, set()).add(self.structure.by_workflow[target.step.workflow])
        return {path: sorted(numbers) for path, numbers in found.items()}

    def watched(self, paths: Iterable[str]) -> list[Watched]:
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
        missing: list[Watched] = [(path, [0] * 5, "", False) for path in sorted(self.dangling)]
        return missing + [
            self._entry(path, sha[path]) if path in sha else self._again(known.get(path), path)
            for path in sorted(wanted - self.dangling)
        ]

    def _again(self, entry: Watched | None, path: str) -> Watched:
        """An entry that is carried over; what the survey had to hash gets a stamp for the next one."""
        if entry is None:
            return (path, [0] * 5, "?", True)
        return self.watch(path, entry[2]) if entry[3] and entry[2] not in ("", "?") else entry

    def _mine(self, known: Mapping[str, Watched]) -> set[str]:
        """Entries of the old snapshot that are for what this one has lists of, and may go."""
        assert self.old is not None or not known
        if self.old is None:
            return set()
        inside = f"{self.e.workspace}/"
        return {*self.old.readers, *self.old.prompts, *(inside + path for path in self.old.outputs)}

    def _entry(self, path: str, sha256: str) -> Watched:
        remembered = self.e.remembered(Path(path))
        stamp = remembered[0] if remembered is not None and sha256.startswith(remembered[1]) else None
        return world.watch(path, sha256, stamp, self.now_ns)

    @property
    def _workflow_files(self) -> set[str]:
        return {os.path.abspath(file) for file in self.e.files}

    def files(self) -> list[Watched]:
        """The workflow files: as they were read, with the stamp that they have now if they still are."""
        e, found = self.e, []
        known = {entry[0]: entry for entry in self.old.facts["files"]} if self.old is not None else {}
        texts = e.part.survey.texts if e.part is not None else {}
        for number, file in enumerate(e.files):
            path = os.path.abspath(file)
            if path in known and number not in texts:
                entry = known[path]
                found.append(self.watch(path, entry[2]) if entry[3] else entry)
                continue
            sha256 = world.sha256(texts[number]) if number in texts else e.read[path]
            found.append(self.watch(path, sha256))
        return found

    def watch(self, path: str, sha256: str | None = None) -> Watched:
        """A file as it is now, or, where it has another content than it should, in a way that tells so."""
        before = look(path)
        now = world.content(path, sha256 or "")
        stamp = before if before == look(path) and sha256 in (None, now) else None
        return world.watch(path, now if sha256 is None else sha256, stamp, self.now_ns)

    def folders(self) -> tuple[list[tuple[str, list[int]]], dict[str, list[list[str]]]]:
        """Folders whose listing matters to inputs, with their stamps, and the words that matter in them.

        The stamps are taken first: what comes later than that is seen by `names`, or next time.
        """
        e = self.e
        candidates: dict[str, set[str]] = {}
        listed: dict[str, list[int]] = {}
        changed: set[str] = set()
        if self.old is not None:
            candidates = {folder: set(names[0]) for folder, names in self.old.words.items()}
            for folder, stamp in self.old.facts["folders"]:
                if folder not in candidates:
                    listed[folder] = stamp
                elif world.here(folder, self.old.words[folder][0]) != set(self.old.words[folder][1]):
                    changed.add(folder)
        was = dict(self.old.facts["folders"]) if self.old is not None else {}
        patterns: set[str] = set()
        words: set[str] = set()
        for report in self.looked_at.values():
            action = e.program.targets[report.target].action
            patterns.update(action.inputs)
            words.update(action.words)
        named: dict[str, set[str]] = {}
        for word in words:
            folder, _, name = word.rpartition("/")
            named.setdefault(folder, set()).add(name)
        for folder, names in named.items():
            candidates.setdefault(os.path.normpath(f"{e.workspace}/{folder}"), set()).update(names)
        for pattern in patterns:
            for folder in folders_of(str(e.workspace), pattern):
                # What came or went since the survey is still news to those that were not looked at.
                if folder not in was or was[folder] == world.folder_stamp(folder):
                    listed[folder] = _stamp(folder)
                else:
                    listed.setdefault(folder, UNKNOWN)
        for folder in {*listed, *candidates}:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                self.dangling.update(
                    entry.path
                    for entry in entries
                    if (folder in listed or entry.name in candidates[folder])
                    and entry.is_symlink()
                    and not os.path.exists(entry.path)
                )
        times = {folder: UNKNOWN if folder in changed else _stamp(folder) for folder in candidates}
        here = {f: [sorted(names), sorted(world.here(f, list(names)))] for f, names in candidates.items()}
        if self.old is not None:
            for folder in changed & here.keys():  # nobody saw what came meanwhile: it is news next time
                here[folder][1] = list(self.old.words[folder][1])
        for folder in here.keys() & listed.keys():  # a glob looks there: every name matters
            here.pop(folder)
            times.pop(folder)
        return sorted({**times, **listed}.items()), here

    # ------------------------------------------------------------ everything else

    def environ(self) -> dict[str, str | None]:
        names = {
            name for t in self.e.program.targets.values() for name, value in t.action.env if value is None
        }
        if self.old is not None:
            names.update(self.old.facts["environ"])
        return {name: world.hashed(self.e.environ.get(name)) for name in sorted({*names, *world.CONSULTED})}

    def has_models(self) -> bool:
        if self.old is not None and self.old.facts["python"]:
            return True
        return any(target.action.rule != "shell" for target in self.e.program.targets.values())

    def store_file(self, name: str) -> tuple[str, list[int] | None]:
        path = f"{self.e.cache_dir}/index/{name}"
        stamp = look(path)
        return path, list(stamp) if stamp else None


def folders_of(workspace: str, pattern: str) -> set[str]:
    """The folders that are listed to find the files of an input: what comes or goes there may be one."""
    found: set[str] = set()
    level, is_glob = {workspace}, False
    parts = pattern.split("/")
    for number, part in enumerate(parts):
        if _MAGIC.isdisjoint(part):
            level = {f"{folder}/{part}" for folder in level}
            continue
        is_glob = True
        links = "**" not in parts[number:]  # as `inputs.matching`
        below = {
            place
            for folder in level
            for place in _below(folder, deep=part == "**", links=links, hidden=part[0] == ".")
        }
        found |= level | (below if part == "**" else set())
        level = level | below if part == "**" else below
    for place in level:
        if is_glob:
            found.add(os.path.dirname(place))
        elif os.path.isdir(place):
            found |= {place, *_below(place, deep=True, links=False, hidden=True)}
    return found


def _below(folder: str, *, deep: bool, links: bool, hidden: bool) -> set[str]:
    """`hidden`: those too whose names begin with a dot."""
    found: set[str] = set()
    rest = [folder]
    while rest:
        with contextlib.suppress(OSError), os.scandir(rest.pop()) as entries:
            new = [
                entry.path
                for entry in entries
                if (hidden or entry.name[0] != ".") and entry.is_dir(follow_symlinks=links and not deep)
            ]
            found.update(new)
            rest += new if deep else ()
    return found


def _stamp(folder: str) -> list[int]:
    """As `survey.folder_stamp`, and never one that may stay though the listing changes."""
    stamp = world.folder_stamp(folder)
    return UNKNOWN if stamp and is_fresh(stamp[3], stamp[4], time.time_ns()) else stamp
