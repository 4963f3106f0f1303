"""`.llmc/out/WORKFLOW/STEP`: the values of a build as files.  World.

Owns how they get there and go again.  Files that steps declare in `outputs`, which lie in the workspace
itself, are `outputs`.

Theory of operation.  One small file a target is what placing costs, so nothing is done twice: the folders in
use stay open, which also means that no symbolic link can get into the way; and a folder that this build made
holds nothing that another one left, so nobody need look.  A file gets its name only when it is whole.  Should
somebody remove the folders while a build goes on, they are made again.
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path

from llmc_build.model import Digest, TargetId
from llmc_build.store import Store, files
from llmc_build.store.state import FileDigests

MODE = 0o644  # of a value; the umask may take from it
_OPEN = 512  # folders kept open, and a quarter of what the process may open at most


def value_path(home: Path, target: TargetId) -> Path:
    """Where the value of a target lies; `home` is the folder `.llmc`."""
    workflow, _, step = target.partition(".")
    return home / "out" / workflow / step


class ValueFiles:
    def __init__(self, home: Path, store: Store, digests: FileDigests) -> None:
        self._home = home
        self._out = f"{home}/out"
        self._store = store
        self._digests = digests
        self._open: OrderedDict[str, int] = OrderedDict()  # folders of workflows, the latest used last
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = _OPEN if limit == resource.RLIM_INFINITY else max(1, min(_OPEN, limit // 4))
        self._root: int | None = None  # the folder `out`
        self._fresh: set[str] = set()  # workflows whose folder this build made

    def place(self, target: TargetId, digest: Digest) -> int | None:
        """1 where the value was written, 0 where it was there, None where it is lost.  Raises OSError."""
        workflow, _, step = target.partition(".")
        try:
            return self._place(workflow, step, digest)
        except FileNotFoundError:  # the folders were removed under us
            self.close()
            self._fresh.clear()
            return self._place(workflow, step, digest)

    def _place(self, workflow: str, step: str, digest: Digest) -> int | None:
        folder = self._folder(workflow)
        if workflow not in self._fresh and self._in_place(workflow, step, folder, digest):
            return 0
        data = self._store.small(digest)
        if data is None:
            return 1 if self._store.place_at(digest, folder, step) else None
        files.write_new(folder, step, data, MODE)
        return 1

    def _in_place(self, workflow: str, step: str, folder: int, digest: Digest) -> bool:
        try:
            found = os.stat(step, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o100 or found.st_size != digest.size:
                return False
            return self._digests.digest(Path(self._out, workflow, step)) == digest
        except OSError:
            return False

    def withdraw(self, target: TargetId) -> None:
        """A target that has no value now: none of an older build stays."""
        workflow, _, step = target.partition(".")
        with contextlib.suppress(OSError):
            os.unlink(f"{self._out}/{workflow}/{step}")

    def withdraw_all_but(self, here: Collection[TargetId], workflows: Collection[str]) -> None:
        """Values of these workflows that belong to none of the targets that are here."""
        try:
            known = os.listdir(self._out)
        except OSError:
            return
        for workflow in workflows if len(workflows) < len(known) else known:
            if workflow in workflows:
                with contextlib.suppress(OSError):
                    for step in os.listdir(f"{self._out}/{workflow}"):
                        if f"{workflow}.{step}" not in here:
                            os.unlink(f"{self._out}/{workflow}/{step}")

    def close(self) -> None:
        for folder in self._open.values():
            os.close(folder)
        self._open.clear()
        if self._root is not None:
            os.close(self._root)
            self._root = None

    def _folder(self, workflow: str) -> int:
        """The folder of a workflow, made where it lacks."""
        folder = self._open.get(workflow)
        if folder is not None:
            self._open.move_to_end(workflow)
            return folder
        if self._root is None:
            with files.open_beneath(self._home, ("out",), create=True) as root:
                self._root = os.dup(root)
        folder, made = files.enter(self._root, files.check_name(workflow), create=True)
        if made:
            self._fresh.add(workflow)
        self._open[workflow] = folder
        if len(self._open) > self._most:
            os.close(self._open.popitem(last=False)[1])
        return folder
