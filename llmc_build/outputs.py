"""What a build puts into the workspace, and takes away again.  World.

Owns the files that steps declare in `outputs`, and the list of what was placed (`.llmc/placed.json`), which
alone says what may be removed (where it is lost, snapshots do): a file that the user has changed since is
the user's, and stays.  Values go to `.llmc/out` by way of `valuefiles`.  The list is not in `.llmc/state/`,
which may be deleted at any time: what is forgotten there must not leave an output of a step that is gone
where a glob finds it.  For the same reason what is about to be placed is first written to a journal beside
the list, since a build may be killed before it saves the list.  Several builds may be at work in one
workspace: each writes down what it changed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from llmc_build.errors import StoreError
from llmc_build.model import ActionResult, Digest, OutputFile, TargetId
from llmc_build.snapshot import keeping
from llmc_build.store import Store, files
from llmc_build.store.state import FileDigests
from llmc_build.valuefiles import ValueFiles, value_path

__all__ = ["Outputs", "PlacingError", "value_path"]

_JOURNAL = "placed.journal"  # each build has one of its own, with its process in its name


class PlacingError(Exception):
    """A result can't be put in place.  One line."""


class Outputs:
    def __init__(
        self,
        workspace: Path,
        home: Path,
        store: Store,
        digests: FileDigests,
        sources: Mapping[TargetId, str] | None = None,
    ) -> None:
        """`sources`: the workflow file of every target of the build, relative to the workspace."""
        self._workspace = workspace
        self._root = os.fspath(workspace)
        self._home = home
        self._store = store
        self._digests = digests
        self._values = ValueFiles(home, store, digests)
        self._list = home / "placed.json"
        self._journal = home / f"{_JOURNAL}{files.temp_name()}"
        self._writing: int | None = None  # the journal, open
        self._left: list[Path] = []  # journals of builds that were killed
        self.sources = dict(sources or {})
        placed = _read_list(self._list)
        self._changed: set[str] = set()  # entries that are not as the list has them
        if placed is None:  # lost, or there was none: the last builds may have left word elsewhere
            placed = _checked(keeping.placed(self._root))
            self._changed.update(placed)
        self._placed = placed  # "file target" -> {path: hash, or several after a kill}
        self._replay()
        self.placed_ctimes = self._values.ctimes  # of the file of a target's value when it was seen in place

    def place(self, target: TargetId, result: ActionResult) -> int | None:
        """Everything of a result into its place; how many files had to be written, or None on a lost blob.

        A file that is there with the right content is left as it is.  Raises PlacingError.
        """
        if not result.outputs and not self._placed:  # nothing to write but the value, nothing to take away
            return self._place_value(target, result.value)
        wanted = {output.path: output.digest.hash for output in result.outputs}
        entry = self._entry(target)
        old = dict(self._placed.get(entry, {}))
        if wanted and wanted != old:
            self._announce(entry, wanted)
            self._expect(entry, wanted)  # should it fail halfway, it is all withdrawn
        written = before = self._place_value(target, result.value)
        for output in result.outputs:
            placed = None if written is None else self._place(output)
            if written is None or placed is None:
                return None
            written += placed
        if written is not None and (old != wanted or written != before):
            # Another build may have removed what is written again, and its entry.
            self._remove({p: h for p, h in old.items() if p not in wanted})
            self._note(entry, wanted)
        return written

    def _place_value(self, target: TargetId, digest: Digest) -> int | None:
        try:
            return self._values.place(target, digest)
        except OSError as error:
            raise PlacingError(_why(f".llmc/out/{target.replace('.', '/', 1)}", error)) from None

    def _place(self, output: OutputFile) -> int | None:
        """One file, through no symbolic link: 1 where it was written, 0 where it was there, None if lost."""
        if self._in_place(f"{self._root}/{output.path}", output.digest, output.executable):
            return 0
        *folders, name = output.path.split("/")
        try:
            with files.open_beneath(self._workspace, folders, create=True, mode=0o777) as folder:
                found = self._store.place_at(output.digest, folder, name, executable=output.executable)
                return 1 if found else None
        except OSError as error:
            raise PlacingError(_why(output.path, error)) from None

    def _in_place(self, path: str, digest: Digest, executable: bool) -> bool:
        try:
            mode = os.lstat(path).st_mode
            # by root a file may be executed that its owner may not execute
            if not stat.S_ISREG(mode) or not (mode & 0o100 if executable else not mode & 0o111):
                return False
            return self._digests.digest(path) == digest
        except OSError:
            return False

    def withdraw(self, target: TargetId) -> None:
        """A target that has no result now: nothing of an older one stays."""
        self._values.withdraw(target)
        entry = self._entry(target)
        if entry in self._placed:
            self._remove(self._placed[entry])
            self._note(entry, {})

    def withdraw_values(self, targets: Iterable[TargetId]) -> None:
        """Targets that are gone, with whole workflows or files perhaps: their values don't stay."""
        gone = set[str]()
        for target in targets:
            self._values.withdraw(target)
            gone.add(target.partition(".")[0])
        self._values.remove_empty(gone.difference(target.partition(".")[0] for target in self.sources))

    def has_placed(self, target: TargetId) -> bool:
        """Whether files of it are in the workspace, as far as is known."""
        return self._entry(target) in self._placed

    def make_way(self, target: TargetId) -> None:
        """Before a step runs in the workspace itself: what it wrote last time goes."""
        self._remove(self._placed.get(self._entry(target), {}), folders=False)  # it may count on them

    def withdraw_gone(
        self,
        declared: Mapping[TargetId, tuple[str, ...]],
        named: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """What no step writes any more goes, before anything looks for inputs.

        `declared`: the outputs of every target of the build.  Gone is a step that its file no longer defines,
        or whose file is gone.  `named`: the files that steps ask for by name.  What was an output and is
        asked for now is the user's.
        """
        here = self.sources
        built = set(here.values())
        source_of = {target.partition(".")[0]: source for target, source in here.items()}
        workflows = source_of.keys() & self._values.workflows()
        self._values.withdraw_all_but(here, workflows | self.note_workflows(source_of))
        if not self._placed:
            return
        current = {self._entry(target): target for target in here}
        wanted: Collection[str] | None = None
        for entry, placed in list(self._placed.items()):
            source, target = entry.rpartition(" ")[0], current.get(entry)
            if target is None:
                if source in built or not (self._workspace / source).is_file():
                    wanted = named() if wanted is None else wanted
                    self._remove({p: h for p, h in placed.items() if p not in wanted})
                    self._note(entry, {})
            elif target in declared and placed.keys() - declared[target]:
                wanted = named() if wanted is None else wanted
                self._remove({p: h for p, h in placed.items() if p not in {*declared[target], *wanted}})
                self._note(entry, {p: h for p, h in placed.items() if p in declared[target]})

    def withdraw_folders(self, here: Mapping[str, str]) -> None:
        """The folders of workflows of which all steps are gone.  `here`: as of `note_workflows`."""
        self._values.remove_empty(self.note_workflows(here))

    def note_beside(self, here: Mapping[str, str]) -> None:
        """As `note_workflows`, where another build may have taken for gone what this one has placed since."""
        self._write_sources({**_read_sources(self._home / "values.json"), **here})

    def _write_sources(self, sources: Mapping[str, str]) -> None:
        with contextlib.suppress(OSError):
            files.write_atomic(self._home / "values.json", json.dumps(sources, sort_keys=True).encode())

    def note_workflows(self, here: Mapping[str, str]) -> set[str]:
        """Workflows with values that their files no longer define.

        `here`: those of this build with their files, which is written down for when `state/` is gone.
        """
        known, built = _read_sources(self._home / "values.json"), set(here.values())
        gone = {
            workflow
            for workflow, source in known.items()
            if workflow not in here and (source in built or not (self._workspace / source).is_file())
        }
        now = {**{w: source for w, source in known.items() if w not in gone}, **here}
        if now != known:
            self._write_sources(now)
        return gone

    def _entry(self, target: TargetId) -> str:
        """What a target is called in the list: two files may define targets of one name."""
        return f"{self.sources.get(target, '')} {target}"

    def remove_all(self) -> list[str]:
        """Every placed file, for `llmc clean`; the paths of those the user has changed, which stay."""
        kept = []
        for target in list(self._placed):
            kept += self._remove(self._placed[target])
            self._note(target, {})
        self._changed.clear()
        for path in (self._list, self._journal, *self._left):
            self._unlink(path)
        return kept

    def save(self) -> None:
        """Writes down what has changed; what other builds have written meanwhile stays."""
        if not self._changed:
            return
        with files.open_folder(self._home) as folder:
            with contextlib.suppress(OSError):  # a file system without locks: one build at a time, then
                fcntl.flock(folder, fcntl.LOCK_EX)
            found = _read_list(self._list) or {}
            for entry in self._changed:
                if entry in self._placed:
                    found[entry] = self._placed[entry]
                else:
                    found.pop(entry, None)
            files.write_atomic(self._list, json.dumps(found, sort_keys=True).encode())
        self._placed = found
        self._changed.clear()
        self._close_journal()
        for path in (self._journal, *self._left):
            self._unlink(path)

    def save_at_once(self) -> None:
        """Before anything is placed: another build may place again what was removed, and write that down."""
        with contextlib.suppress(OSError):
            self.save()

    def settle(self) -> None:
        """All values have their names on return.  To be called before anything runs, and at the end.

        Raises StoreError.
        """
        try:
            self._values.settle()
        except OSError as error:
            raise StoreError(_why(".llmc/out", error)) from None

    def close(self) -> None:
        """Releases the files and folders that were open for placing."""
        self._close_journal()
        self._values.close()

    def _close_journal(self) -> None:
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None

    def _announce(self, target: TargetId, wanted: dict[str, str]) -> None:
        try:
            line = b"\n" + json.dumps([target, wanted]).encode()
            if self._writing is not None:
                files.write_all(self._writing, line)
                if os.fstat(self._writing).st_nlink:
                    return
                self._close_journal()  # somebody removed it: who took this build for dead, perhaps
            self._writing = _open_to_append(self._journal)
            files.write_all(self._writing, line)
        except OSError as error:
            raise PlacingError(f"{self._journal.name} can't be written: {error.strerror}") from None

    def _replay(self) -> None:
        """Takes over what builds that were killed had begun to place."""
        for path in sorted(self._home.glob(f"{_JOURNAL}*")):
            owner = files.temp_owner(path.name.removeprefix(_JOURNAL))
            if owner is not None and files.alive(owner):
                continue  # it places them now
            self._left.append(path)
            for line in (files.read_regular(path) or b"").splitlines():
                try:
                    entry, announced = json.loads(line)
                except (ValueError, TypeError, RecursionError):  # the last line may be cut off
                    continue
                checked = _checked({entry: announced} if isinstance(entry, str) else None)
                for target, placed in checked.items():
                    self._sweep({path.rpartition("/")[0] for path in placed})
                    self._expect(target, placed)

    def _expect(self, entry: str, placed: dict[str, str]) -> None:
        """What is about to be placed, or was perhaps, beside what was."""
        known = self._placed.setdefault(entry, {})
        for path, digest in placed.items():
            if digest not in known.get(path, "").split():
                known[path] = f"{known[path]} {digest}" if path in known else digest
        self._changed.add(entry)

    def _sweep(self, folders: set[str]) -> None:
        """Removes what a build that was killed had half written beside its outputs."""
        for name in folders:
            with (
                contextlib.suppress(OSError),
                files.open_beneath(self._workspace, [part for part in name.split("/") if part]) as folder,
            ):
                for found in os.listdir(folder):
                    owner = files.temp_owner(found)
                    if owner is not None and not files.alive(owner):
                        os.unlink(found, dir_fd=folder)

    def _note(self, target: TargetId, placed: dict[str, str]) -> None:
        if placed:
            self._placed[target] = placed
        else:
            self._placed.pop(target, None)
        self._changed.add(target)

    def _remove(self, placed: dict[str, str], *, folders: bool = True) -> list[str]:
        kept = []
        for name, digest in placed.items():
            path = self._workspace / name
            try:
                found = self._digests.digest(path) if self._is_here(path) else None
            except OSError:
                found = None
            if found is None or found.hash not in digest.split():
                if path.exists():
                    kept.append(name)
                continue
            self._unlink(path)
            for parent in path.parents:  # folders that placing made
                if parent == self._workspace or not folders:
                    break
                try:
                    parent.rmdir()
                except OSError:
                    break
        return kept

    def _is_here(self, path: Path) -> bool:
        """Whether a path of the workspace leads through no symbolic link: what lies elsewhere is not ours."""
        folder = path.parent.relative_to(self._workspace)
        real = os.path.realpath(self._workspace)
        return not path.is_symlink() and os.path.realpath(path.parent) == os.path.normpath(f"{real}/{folder}")

    def _unlink(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()


def _why(path: str, error: OSError) -> str:
    why = error.strerror or str(error)
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        why = "a folder on the way is a file or a symbolic link"
        if path.startswith(".llmc/"):
            why += ": remove it, and llmc makes the folder"
    return f"{path} can't be put in place: {why}"


def _read_list(path: Path) -> dict[TargetId, dict[str, str]] | None:
    """The list of what was placed; None where it is damaged or missing."""
    try:
        found = json.loads(files.read_regular(path) or b"")
    except (ValueError, RecursionError):
        return None
    return _checked(found) if isinstance(found, dict) else None


def _read_sources(path: Path) -> dict[str, str]:
    """Workflow -> file; damaged or missing, it is empty."""
    try:
        found = json.loads(files.read_regular(path) or b"")
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        w: source
        for w, source in found.items()
        if isinstance(source, str) and _inside(w) and "/" not in w and w != "." and _inside(source)
    }


def _open_to_append(path: Path) -> int:
    """Opens a plain file; what stands in its place and is none is removed.  Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            with files.open_folder(path.parent) as folder:
                files.remove_tree(folder, path.name)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _checked(found: object) -> dict[TargetId, dict[str, str]]:
    """Only what could have been placed: whatever else stands in the list must not lead to a removal."""
    if not isinstance(found, dict):
        return {}
    return {
        target: {p: h for p, h in placed.items() if isinstance(h, str) and _inside(p)}
        for target, placed in found.items()
        if isinstance(target, str) and isinstance(placed, dict)
    }


def _inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/") and "\0" not in path and path != ""
