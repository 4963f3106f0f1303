"""What a build puts into the workspace, and takes away again.  World.

Owns `.llmc/out/WORKFLOW/STEP`, the files that steps declare in `outputs`, and the list of what was placed
(`.llmc/state/placed.json`), which alone says what may be removed: a file that the user has changed since is
the user's, and stays.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from llmc_build.model import ActionResult, Digest, TargetId
from llmc_build.store import Store, files
from llmc_build.store.state import FileDigests


def value_path(home: Path, target: TargetId) -> Path:
    """Where the value of a target lies; `home` is the folder `.llmc`."""
    workflow, _, step = target.partition(".")
    return home / "out" / workflow / step


class PlacingError(Exception):
    """A result can't be put in place.  One line."""


class Outputs:
    def __init__(self, workspace: Path, home: Path, store: Store, digests: FileDigests) -> None:
        self._workspace = workspace
        self._home = home
        self._store = store
        self._digests = digests
        self._list = home / "state" / "placed.json"
        self._placed = _read_list(self._list)  # target -> {path: hash}
        self._dirty = False

    def place(self, target: TargetId, result: ActionResult) -> int | None:
        """Everything of a result into its place; how many files had to be written, or None on a lost blob.

        A file that is there with the right content is left as it is.  Raises PlacingError.
        """
        written = 0
        workflow, _, step = target.partition(".")
        found = self._place(self._home, ["out", workflow, step], result.value, False, 0o700)
        for output in result.outputs:
            if found is None:
                return None
            written += found
            parts = output.path.split("/")
            found = self._place(self._workspace, parts, output.digest, output.executable, 0o777)
        if found is None:
            return None
        wanted = {output.path: output.digest.hash for output in result.outputs}
        old = self._placed.get(target, {})
        if old != wanted:
            self._remove({p: h for p, h in old.items() if p not in wanted})
            self._note(target, wanted)
        return written + found

    def _place(self, root: Path, parts: list[str], digest: Digest, executable: bool, mode: int) -> int | None:
        """One file, through no symbolic link: 1 where it was written, 0 where it was there, None if lost."""
        path = root.joinpath(*parts)
        if self._in_place(path, digest, executable):
            return 0
        try:
            with files.open_beneath(root, parts[:-1], create=True, mode=mode) as folder:
                return 1 if self._store.place_at(digest, folder, parts[-1], executable=executable) else None
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                why = "a folder on the way is a file or a symbolic link"
            raise PlacingError(f"{'/'.join(parts)} can't be put in place: {why}") from None

    def _in_place(self, path: Path, digest: Digest, executable: bool) -> bool:
        try:
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode) or bool(mode & 0o100) != executable:
                return False
            return self._digests.digest(path) == digest
        except OSError:
            return False

    def withdraw(self, target: TargetId) -> None:
        """A target that has no result now: nothing of an older one stays."""
        self._unlink(value_path(self._home, target))
        if target in self._placed:
            self._remove(self._placed[target])
            self._note(target, {})

    def withdraw_all_but(self, known: Iterable[TargetId]) -> None:
        """Outputs of steps that were renamed or removed, of workflows that are still here, go."""
        here = set(known)
        workflows = {target.partition(".")[0] for target in here}
        for workflow in workflows:
            folder = self._home / "out" / workflow
            with contextlib.suppress(OSError):
                for path in folder.iterdir():
                    if f"{workflow}.{path.name}" not in here:
                        path.unlink()
        claimed = {path for target in here for path in self._placed.get(target, {})}
        for target in [t for t in self._placed if t not in here and t.partition(".")[0] in workflows]:
            self._remove({p: h for p, h in self._placed[target].items() if p not in claimed})
            self._note(target, {})

    def remove_all(self) -> list[str]:
        """Every placed file, for `llmc clean`; the paths of those the user has changed, which stay."""
        kept = []
        for target in list(self._placed):
            kept += self._remove(self._placed[target])
            self._note(target, {})
        return kept

    def save(self) -> None:
        if self._dirty:
            files.write_atomic(self._list, json.dumps(self._placed, sort_keys=True).encode())
            self._dirty = False

    def _note(self, target: TargetId, placed: dict[str, str]) -> None:
        if placed:
            self._placed[target] = placed
        else:
            self._placed.pop(target, None)
        self._dirty = True

    def _remove(self, placed: dict[str, str]) -> list[str]:
        kept = []
        for name, digest in placed.items():
            path = self._workspace / name
            try:
                found = None if path.is_symlink() else self._digests.digest(path)
            except OSError:
                found = None
            if found is None or found.hash != digest:
                if path.exists():
                    kept.append(name)
                continue
            self._unlink(path)
            for parent in path.parents:  # folders that placing made
                if parent == self._workspace:
                    break
                try:
                    parent.rmdir()
                except OSError:
                    break
        return kept

    def _unlink(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()


def _read_list(path: Path) -> dict[TargetId, dict[str, str]]:
    """The list of what was placed; damaged or missing, it is empty."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        target: {p: h for p, h in placed.items() if isinstance(h, str) and _inside(p)}
        for target, placed in found.items()
        if isinstance(placed, dict)
    }


def _inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/") and "\0" not in path and path != ""
