"""`quarantine/`: what was found damaged, for whoever wants to know.

Owns how things get there, and that they don't fill the disk.  Not: what counts as damaged.  Worker processes
import this module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from llmc_build.store import files

MOST_BYTES = 256 << 20  # kept in quarantine; the oldest goes first
MOST_THINGS = 1000


class Quarantine:
    def __init__(self, base: str, folder: Callable[[], str]) -> None:
        """`base`: the store's root.  `folder` makes the folder where it lacks.  Raises OSError."""
        self._base = base
        self._folder = folder

    def __len__(self) -> int:
        return sum(1 for _ in files.entries(f"{self._base}/quarantine"))

    def keep(self, name: str, data: bytes) -> None:
        """Bytes that could not be believed.  Raises OSError."""
        with files.open_folder(self._folder()) as folder:
            files.write_at(folder, _other_name(name), data, mode=0o400)
        self._bound()

    def take(self, path: str, name: str, inode: int) -> None:
        """Move what is wrong here; where that can't be, it stays and remains unused.

        Between the look of whoever judged it (`inode`) and the move another process may have put a right one
        there: what has been moved is looked at, and moved back where it is not what was judged.
        """
        with contextlib.suppress(OSError):
            # What stands in the way of the quarantine itself stays beside it.
            folder = self._base if name == "quarantine" else self._folder()
            if files.move_away(path, f"{folder}/{_other_name(name)}", inode):
                self._bound()

    def empty(self) -> int:
        """Removes everything; how many bytes that were.  What can't be removed stays."""
        return sum(self._remove(path, size) for _, size, path in self._listed())

    def _bound(self) -> None:
        found = sorted(self._listed())
        left = sum(size for _, size, _ in found)
        for number, (_, size, path) in enumerate(found[:-1]):  # what came last is kept, however large
            if left <= MOST_BYTES and len(found) - number <= MOST_THINGS:
                return
            left -= self._remove(path, size)

    def _listed(self) -> list[tuple[int, int, str]]:
        """(when it came, bytes, path) of all there is."""
        found = []
        for entry in files.entries(f"{self._base}/quarantine"):
            with contextlib.suppress(OSError):
                seen = entry.stat(follow_symlinks=False)
                size = seen.st_size
                if entry.is_dir(follow_symlinks=False):
                    size = sum(e.stat(follow_symlinks=False).st_size for e in files.entries(entry.path))
                found.append((seen.st_ctime_ns, size, entry.path))
        return found

    def _remove(self, path: str, size: int) -> int:
        folder, _, name = path.rpartition("/")
        try:
            with files.open_folder(folder) as opened:
                files.remove_tree(opened, name)
        except OSError:
            return 0
        return size


def _other_name(name: str) -> str:
    return f"{name}.{files.temp_name().removeprefix('.llmc-')}"
