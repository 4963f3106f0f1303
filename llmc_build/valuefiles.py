"""`.llmc/out/WORKFLOW/STEP`: the values of a build as files.  World.

Owns how they get there and go again.  Files that steps declare in `outputs`, which lie in the workspace
itself, are `outputs`.

Theory of operation.  One small file a target is what placing costs, so nothing is done twice: the folders in
use stay open, which also means that no symbolic link can get into the way; and a folder that this build made
holds nothing that another one left, so nobody need look.  A file gets its name only when it is whole.  Should
somebody remove the folders while a build goes on, they are made again.

While a build has only found results and started nothing (everything is in the store, as after a fresh
checkout), the values of a workflow that has no folder yet are written into one of another name, which gets
its own as a whole in `settle`: a rename for each file costs about as much as making it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import time
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path

from llmc_build.model import Digest, TargetId
from llmc_build.store import Store, files
from llmc_build.store.state import FileDigests

SMALL = 1 << 20  # bytes: to read a value of this size costs less than to remember its digest
MODE = 0o644  # of a value; the umask may take from it
LEFTOVER_AGE_S = 3600.0  # how old a folder of a dead build must be before it is removed
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
        self._staged: dict[str, str] = {}  # workflow -> the name that its folder has for now
        self._staging = True  # nothing was started yet
        self.ctimes: dict[TargetId, int] = {}  # of the file of a value when it was seen in place, in ns

    def place(self, target: TargetId, digest: Digest) -> int | None:
        """1 where the value was written, 0 where it was there, None where it is lost.  Raises OSError.

        `ctimes` has the ctime of its file then.
        """
        workflow, _, step = target.partition(".")
        try:
            return self._place(target, workflow, step, digest)
        except FileNotFoundError:  # the folders were removed under us
            self._close_folders()
            self._fresh.clear()
            self._staged.clear()
            return self._place(target, workflow, step, digest)
        except IsADirectoryError:  # nobody but us puts anything here: this is damage
            files.remove_tree(self._folder(workflow), step)
            return self._place(target, workflow, step, digest)
        except NotADirectoryError:
            if not self._clear_way(workflow):
                raise
            return self._place(target, workflow, step, digest)

    def _place(self, target: TargetId, workflow: str, step: str, digest: Digest) -> int | None:
        folder = self._folder(workflow)
        if workflow not in self._fresh and self._in_place(target, workflow, step, folder, digest):
            return 0
        data = self._store.small(digest)
        if data is None:
            if not self._store.place_at(digest, folder, step):
                return None
        elif workflow in self._staged:
            files.write_hidden(folder, step, data, MODE)
        else:
            files.write_new(folder, step, data, MODE)
        found = os.stat(step, dir_fd=folder, follow_symlinks=False)
        self.ctimes[target] = found.st_ctime_ns
        return 1

    def _clear_way(self, workflow: str) -> bool:
        """Removes a file that stands in the place of a folder; a link leads to what may be wanted there."""
        for path in (self._out, f"{self._out}/{workflow}"):
            with contextlib.suppress(FileNotFoundError):
                mode = os.lstat(path).st_mode
                if not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
                    os.unlink(path)
                    return True
        return False

    def settle(self) -> None:
        """Everything that was placed has its name on return, and what is placed later has it at once.

        Raises OSError.
        """
        self._staging = False
        while self._staged:
            workflow, name = self._staged.popitem()
            assert self._root is not None
            with contextlib.suppress(FileNotFoundError):  # removed since it was placed, like any other file
                self._give_name(self._root, name, workflow)

    def _give_name(self, root: int, name: str, workflow: str) -> None:
        try:
            os.rename(name, workflow, src_dir_fd=root, dst_dir_fd=root)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # another build made the folder meanwhile: the values go into it one by one
            if workflow in self._open:
                os.close(self._open.pop(workflow))
            self._fresh.discard(workflow)
            source, _ = files.enter(root, name, create=False)
            target, _ = files.enter(root, workflow, create=False)
            try:
                for step in os.listdir(source):
                    os.rename(step, step, src_dir_fd=source, dst_dir_fd=target)
                os.rmdir(name, dir_fd=root)
            finally:
                os.close(source)
                os.close(target)

    def _in_place(self, target: TargetId, workflow: str, step: str, folder: int, digest: Digest) -> bool:
        try:
            found = os.stat(step, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o111 or found.st_size != digest.size:
                return False
            if digest.size > SMALL:
                self.ctimes[target] = found.st_ctime_ns
                return self._digests.digest(Path(self._out, workflow, step)) == digest
            fd = os.open(step, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            return False
        try:
            self.ctimes[target] = found.st_ctime_ns  # of before it was read
            return files.digest_fd(fd) == digest
        except OSError:
            return False
        finally:
            os.close(fd)

    def withdraw(self, target: TargetId) -> None:
        """A target that has no value now: none of an older build stays."""
        workflow, _, step = target.partition(".")
        with contextlib.suppress(OSError):
            folder = self._open.get(workflow)
            if folder is not None:
                _drop(folder, step)
                return
            with files.open_beneath(self._home, ("out", self._staged.get(workflow, workflow))) as folder:
                _drop(folder, step)

    def withdraw_all_but(self, here: Collection[TargetId], workflows: Collection[str]) -> None:
        """Values of these workflows that belong to none of the targets that are here."""
        with contextlib.suppress(OSError), files.open_beneath(self._home, ("out",)) as root:
            for workflow in workflows:
                with contextlib.suppress(OSError):  # a symbolic link leads to what is not ours
                    folder, _ = files.enter(root, workflow, create=False)
                    try:
                        for step in os.listdir(folder):
                            if f"{workflow}.{step}" not in here:
                                _drop(folder, step)
                    finally:
                        os.close(folder)
        self.remove_empty({*workflows}.difference(target.partition(".")[0] for target in here))

    def remove_empty(self, workflows: Collection[str]) -> None:
        """The folders of workflows that are gone."""
        with contextlib.suppress(OSError), files.open_beneath(self._home, ("out",)) as root:
            for workflow in workflows:
                with contextlib.suppress(OSError):  # somebody has put something there
                    os.rmdir(workflow, dir_fd=root)

    def workflows(self) -> list[str]:
        """Those that have a folder; what a killed build left is removed."""
        try:
            names = os.listdir(self._out)
        except OSError:
            return []
        oldest = time.time() - LEFTOVER_AGE_S
        for name in [name for name in names if name.startswith(".")]:
            owner = files.temp_owner(name)
            with contextlib.suppress(OSError):
                if owner is not None and not files.alive(owner):
                    with files.open_folder(self._out) as folder:
                        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime < oldest:
                            files.remove_tree(folder, name)
        return names

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.settle()
        self._close_folders()

    def _close_folders(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])
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
        folder = self._enter(self._root, files.check_name(workflow))
        self._open[workflow] = folder
        if len(self._open) > self._most:
            os.close(self._open.popitem(last=False)[1])
        return folder

    def _enter(self, root: int, workflow: str) -> int:
        name = self._staged.get(workflow, workflow)
        if name == workflow and self._staging:
            try:
                return files.enter(root, workflow, create=False)[0]
            except FileNotFoundError:
                name = self._staged[workflow] = files.temp_name()
        folder, made = files.enter(root, name, create=True)
        if made:
            self._fresh.add(workflow)
        return folder


def _drop(folder: int, step: str) -> None:
    """Removes the file of a value, or a folder that stands in its place."""
    with contextlib.suppress(OSError):
        try:
            os.unlink(step, dir_fd=folder)
        except (IsADirectoryError, PermissionError):  # a folder, to Linux and to macOS
            files.remove_tree(folder, step)
