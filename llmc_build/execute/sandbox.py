"""The folders in which a step runs: fresh for each step, removed after it.

Owns making them, bringing inputs in, and finding what a step wrote.  What is done with that is
`shellrun`.

A worker has one *home* under the scratch folder, with a working folder and a folder for temporary files, and
with one for the step's values where it has values that need files.  Making and removing folders is a good
part of the cost of a short step, so one that a step has not touched serves the next step too.  That is seen
by its times: making or removing something in a folder sets its mtime to now, and it is made with one long
past, because two events within a tick of the kernel's clock have equal times.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from llmc_build.execute import osdep
from llmc_build.execute.capture import Capture

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not hang the open
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_GET_FLAGS = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1  # Linux: FS_IOC_GETFLAGS
_PLAIN_DEPTH = 16  # of folders within folders; deeper ones are removed more slowly

_LONG_PAST = (1_000_000_000, 1_000_000_000)  # atime and mtime, unix seconds
_TICK_NS = 50_000_000  # more than a tick of any clock that file systems take times from

Stamp = tuple[int, int, int, int, int]  # inode, size, mode, mtime_ns, ctime_ns


class InputError(Exception):
    """An input can't be brought into the sandbox.  One line."""


class OutputError(Exception):
    """A declared output is not what it must be.  One line."""


def home_path(scratch: str, pid: int) -> str:
    """Where the worker with this process id has its folders."""
    return f"{scratch}/shell-{pid}"


class Home:
    """The folders of this worker process under one scratch folder."""

    def __init__(self, scratch: str) -> None:
        self.path = home_path(scratch, os.getpid())
        if os.path.lexists(self.path):  # of a worker that died, with the same process id
            remove_tree(self.path)
        os.makedirs(self.path, mode=0o700)
        self.work = Folder(f"{self.path}/work")
        self.tmp = Folder(f"{self.path}/tmp")
        self._values = f"{self.path}/values"
        self._has_values = False
        self._captures: tuple[Capture, Capture] | None = None

    def captures(self) -> tuple[Capture, Capture]:
        """Two empty files for output that is not kept; the same ones for every step."""
        if self._captures is None:
            self._captures = Capture(f"{self.path}/stdout"), Capture(f"{self.path}/stderr")
        for capture in self._captures:
            capture.empty()
        return self._captures

    def values(self) -> str:
        """A fresh folder for files of this step's values."""
        if not self._has_values:
            remove_tree(self._values)  # a step may have put something there
            os.mkdir(self._values, 0o700)
            os.chmod(self._values, 0o700)  # whatever the umask says
            self._has_values = True
        return self._values

    @property
    def values_there(self) -> str | None:
        """The folder of this step's values, if it has any."""
        return self._values if self._has_values else None

    def reset(self, *, untouched: bool = False, anew: bool = False) -> None:
        """Makes every folder fresh again; `untouched`: the working folder is known to be.

        `anew`: by a new one, since somebody may be in the old one still.
        """
        if anew or not untouched:
            self.work.renew(anew=anew)
        if anew or not self.tmp.untouched:
            self.tmp.renew(anew=anew)
        if self._has_values:
            remove_tree(self._values)
            self._has_values = False

    def remove(self) -> None:
        remove_tree(self.path)


class Folder:
    """A folder that is empty and private at the beginning of every step."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.made = 0  # how often: a process that went into it before is not in it any more
        self._settled = False  # it was made long enough ago for its times to tell everything
        self._make()

    @property
    def untouched(self) -> bool:
        """Whether it is as it was made: nothing was put in, nothing changed about it.

        A folder made a moment ago is also looked into: what is made within the tick of the clock in which the
        folder was made may leave the folder's times as they were.
        """
        try:
            looks = os.lstat(self.path)
            if self._settled:  # a later change shows in the times
                inode, _, _, changed, created = self._fresh
                return looks.st_ctime_ns == created and looks.st_mtime_ns == changed and looks.st_ino == inode
            if self._fresh != _stamp(looks):
                return False
            # Only for the next step: this one may have begun within the tick.
            self._settled = time.time_ns() - self._fresh[4] > _TICK_NS
            with os.scandir(self.path) as entries:
                return next(entries, None) is None
        except OSError:
            return False

    def renew(self, *, anew: bool = False) -> None:
        """Makes it fresh, whatever was done to it; the folder itself may stay, emptied, but for `anew`."""
        if not anew and self._emptied():
            self._settle()
            return
        try:
            os.rmdir(self.path)
        except OSError:
            remove_tree(self.path)
        self._make()

    def _emptied(self) -> bool:
        """Whether it could be emptied, and is but for its times as it was made."""
        try:
            folder = os.open(self.path, _FOLDER)
            try:
                _empty(folder, _PLAIN_DEPTH)
                as_made = _stamp(os.fstat(folder))[:3] == self._fresh[:3] and not os.listdir(folder)
                marks = _marks(folder) if as_made else None
            finally:
                os.close(folder)
        except OSError:
            return False
        return marks is not None and marks == self._marks

    def _make(self) -> None:
        os.mkdir(self.path, 0o700)
        if os.lstat(self.path).st_mode & 0o777 != 0o700:  # the umask forbids even the owner something
            os.chmod(self.path, 0o700)
        folder = os.open(self.path, _FOLDER)
        try:
            self._marks = _marks(folder)
        finally:
            os.close(folder)
        self._settle()
        self.made += 1

    def _settle(self) -> None:
        os.utime(self.path, _LONG_PAST)
        self._fresh = _stamp(os.lstat(self.path))
        self._settled = False


def _marks(folder: int) -> tuple[object, ...] | None:
    """What else a step could leave on its folder: owner, flags, attributes; None where that can't be told."""
    if sys.platform != "linux":
        return None
    looks, flags = os.fstat(folder), b""
    try:
        flags = fcntl.ioctl(folder, _GET_FLAGS, bytes(struct.calcsize("l")))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.ENOTSUP):
            return None
    try:
        attributes = {name: os.getxattr(folder, name) for name in os.listxattr(folder)}
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            return None
        attributes = {}
    return looks.st_uid, looks.st_gid, flags, attributes


def remove_tree(path: str) -> None:
    """Removes a folder with all in it, or a file; nothing happens where there is none.

    Copes with folders that a step made read-only, and with trees too deep for recursion.
    """
    import shutil  # slow to import, as subprocess is, and not needed by most steps

    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        if not os.path.lexists(path):
            return
    except (OSError, RecursionError):
        pass
    if os.path.lexists(path):
        import subprocess

        _open_up(path)
        subprocess.run(
            ["/bin/rm", "-rf", "--", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


def _empty(folder: int, depth: int) -> None:
    """Removes all that an open folder holds.  Raises OSError where something of it may be left."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
            continue
        if not depth:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        below = os.open(name, _FOLDER, dir_fd=folder)
        try:
            _empty(below, depth - 1)
        finally:
            os.close(below)
        os.rmdir(name, dir_fd=folder)


def _open_up(path: str) -> None:
    """Gives the owner all rights on every folder of a tree."""
    stack = [path]
    while stack:
        folder = stack.pop()
        try:
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                continue
            os.chmod(folder, 0o700)
            with os.scandir(folder) as entries:
                stack += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue


# ---------------------------------------------------------------- inputs


def bring_in(root: str, inputs: Sequence[tuple[str, str]]) -> dict[str, Stamp]:
    """Copies files into a sandbox; returns what they look like there, to find changed ones later.

    `inputs`: (path relative to the root, absolute source).  Raises InputError.
    """
    found: dict[str, Stamp] = {}
    for relative, source in inputs:
        if not _inside(relative):
            raise InputError(f'input "{relative}" is not a path inside the workspace')
        try:
            found[relative] = _copy(source, f"{root}/{relative}")
        except OSError as error:
            raise InputError(f'input "{relative}" can\'t be copied: {_strerror(error)}') from None
    return found


def _copy(source: str, target: str) -> Stamp:
    origin = os.open(source, _READ)
    try:
        looks = os.fstat(origin)
        if stat.S_ISDIR(looks.st_mode):
            os.makedirs(target, exist_ok=True)
            return _stamp(os.lstat(target))
        if not stat.S_ISREG(looks.st_mode):
            raise OSError(errno.EINVAL, "it is neither a file nor a folder")
        copy = _create(target)
        try:
            if looks.st_size and not osdep.clone_file(origin, copy):
                copy_bytes(origin, copy)
            os.fchmod(copy, stat.S_IMODE(looks.st_mode) & 0o777)
            os.utime(copy, ns=(looks.st_atime_ns, looks.st_mtime_ns))
            return _stamp(os.fstat(copy))
        finally:
            os.close(copy)
    finally:
        os.close(origin)


def _create(target: str) -> int:
    try:
        return os.open(target, _CREATE, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        return os.open(target, _CREATE, 0o600)


def copy_bytes(source: int, target: int) -> None:
    """Copies an open file from its position to another one that is empty."""
    if sys.platform.startswith("linux"):
        try:
            while os.copy_file_range(source, target, 1 << 30):
                pass
            return
        except OSError:  # across file systems of old kernels, or a special file system
            os.lseek(source, 0, os.SEEK_SET)
            os.lseek(target, 0, os.SEEK_SET)
    while data := os.read(source, _CHUNK):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]


# ---------------------------------------------------------------- outputs


def find_output(root: str, relative: str) -> tuple[str, bool] | None:
    """Where a declared output really is, and whether it is executable; None where it is missing.

    Symbolic links are followed as long as they stay inside.  Raises OutputError.
    """
    path = f"{root}/{relative}"
    if not _inside(relative):
        raise OutputError(f'output "{relative}" is not a path inside the workspace')
    real, linked = path, _leads_through_links(root, relative)
    if linked:
        if not os.path.lexists(path):
            return None
        real, base = os.path.realpath(path), os.path.realpath(root)
        if not real.startswith(base + "/"):
            raise OutputError(f'declared output "{relative}" is a link that leads out of the sandbox')
        real = root + real[len(base) :]
    try:
        mode = os.lstat(real).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not linked:
            return None
        raise OutputError(f'declared output "{relative}" is a link to nothing') from None
    except OSError as error:
        raise OutputError(f'declared output "{relative}" can\'t be read: {_strerror(error)}') from None
    if stat.S_ISLNK(mode):  # a circle of links: `realpath` gives up
        raise OutputError(f'declared output "{relative}" is a link to nothing')
    if stat.S_ISDIR(mode):
        raise OutputError(f'declared output "{relative}" is a folder: declare the files in it')
    if not stat.S_ISREG(mode):
        raise OutputError(f'declared output "{relative}" is not a regular file')
    return real, bool(mode & 0o100)


def _leads_through_links(root: str, relative: str) -> bool:
    path = root
    for part in relative.split("/"):
        path = f"{path}/{part}"
        if os.path.islink(path):
            return True
    return False


def undeclared(root: str, inputs: dict[str, Stamp], outputs: Iterable[str], limit: int) -> list[str]:
    """Files that a step wrote or changed without declaring them, the first `limit` of them, sorted."""
    declared = {os.path.normpath(path) for path in outputs}
    given = {os.path.normpath(path): looks for path, looks in inputs.items()}
    found = [
        relative
        for relative, entry in _files(root)
        if relative not in declared and (relative not in given or given[relative] != _looks(entry))
    ]
    return sorted(found)[:limit]


def _looks(entry: os.DirEntry[str]) -> Stamp | None:
    try:
        return _stamp(entry.stat(follow_symlinks=False))
    except OSError:
        return None


def _files(root: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder but folders, with its path relative to it."""
    stack = [""]
    while stack:
        prefix = stack.pop()
        try:
            with os.scandir(f"{root}/{prefix}") as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(f"{prefix}{entry.name}/")
                    else:
                        yield prefix + entry.name, entry
        except OSError:
            continue  # closed to us, or too deep: nothing can be said of it


def _inside(relative: str) -> bool:
    return bool(relative) and not os.path.isabs(relative) and ".." not in relative.split("/")


def _stamp(looks: os.stat_result) -> Stamp:
    return looks.st_ino, looks.st_size, looks.st_mode, looks.st_mtime_ns, looks.st_ctime_ns


def _strerror(error: OSError) -> str:
    return error.strerror or str(error)
