"""Writing and removing files so that nobody sees half of one, and no symlink leads astray.

Owns: reading and hashing in chunks, temporary names, write-then-rename, syncing, folders opened without
following symlinks.  Not: what the files hold or where they belong.  Imported by worker processes:
standard library only, and nothing that is slow to import.

Every function that takes `durable` syncs the file before the rename and the folder after it, so that
after a power cut the name holds either the old bytes or the new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llmc_build.model import Digest

try:
    from fcntl import F_FULLFSYNC as _FULL_SYNC  # type: ignore[attr-defined,unused-ignore]
except ImportError:  # only macOS has it: there, fsync leaves the bytes in the drive's cache
    _FULL_SYNC = None

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TOKEN = os.urandom(4).hex()  # tells processes of equal number in different containers apart
_COUNT = itertools.count()
_CHUNK = 1 << 20
_PREFIX = ".llmc-"


def temp_name() -> str:
    """A file name that no other process uses; the process's number is its second part."""
    return f"{_PREFIX}{os.getpid()}-{_TOKEN}-{next(_COUNT)}"


def temp_owner(name: str) -> int | None:
    """The number of the process that made a temporary name, or None for another kind of name."""
    number = name.removeprefix(_PREFIX).split("-", 1)[0] if name.startswith(_PREFIX) else ""
    return int(number) if number.isascii() and number.isdigit() else None


def alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def sync(fd: int) -> None:
    """Return when the file or folder is on the disk."""
    if _FULL_SYNC is None:
        os.fsync(fd)
        return
    import fcntl

    fcntl.fcntl(fd, _FULL_SYNC)


def sync_folder(path: str | Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, _FOLDER)
    try:
        sync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte, however many calls it takes."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


Stamp = tuple[int, int, int, int, int]  # device, inode, size, mtime_ns, ctime_ns


def stamp(found: os.stat_result) -> Stamp:
    """What tells that a file is still the one it was, unchanged."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class ReadError(OSError):
    """The disk did not give the bytes of a file that is open."""


def chunks(fd: int) -> Iterator[memoryview]:
    """The bytes from the current offset on; a chunk is valid until the next is taken."""
    buffer = memoryview(bytearray(min(_CHUNK, os.fstat(fd).st_size + 1)))
    while True:
        try:
            count = os.readv(fd, [buffer])
        except OSError as error:
            raise ReadError(error.errno, error.strerror) from error
        if not count:
            return
        yield buffer[:count]


def digest_fd(fd: int) -> Digest:
    """The digest of an open file's bytes from its beginning."""
    os.lseek(fd, 0, os.SEEK_SET)
    hasher, size = hashlib.sha256(), 0
    for chunk in chunks(fd):
        hasher.update(chunk)
        size += len(chunk)
    return Digest(hash=hasher.hexdigest(), size=size)


@contextlib.contextmanager
def open_folder(path: str | Path, *, create: bool = False) -> Iterator[int]:
    """A descriptor of a folder; with `create` it is made where it lacks (`make_folders`)."""
    try:
        fd = os.open(path, _FOLDER)
    except FileNotFoundError:
        if not create:
            raise
        make_folders(os.path.abspath(path))
        fd = os.open(path, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


def make_folders(path: str) -> None:
    """Make a folder and the parents that lack, as open to others as the folder they are made in."""
    parent = os.path.dirname(path)
    try:
        mode = os.stat(parent).st_mode & 0o777
    except FileNotFoundError:
        make_folders(parent)
        mode = os.stat(parent).st_mode & 0o777
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode | 0o700)


@contextlib.contextmanager
def open_beneath(
    root: str | Path, parts: Sequence[str], *, create: bool = False, mode: int = 0o700
) -> Iterator[int]:
    """A descriptor of root/parts[0]/parts[1]/..., none of which may be a symlink.

    `root` itself may be reached through symlinks.  With `create`, folders that lack are made with
    `mode`.  Raises OSError (ENOTDIR or ELOOP) where a part is a symlink or no folder, and
    ValueError for a part that is no plain name.
    """
    fd = os.open(root, _FOLDER)
    try:
        for part in parts:
            below, _ = enter(fd, check_name(part), create=create, mode=mode)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def enter(folder: int, name: str, *, create: bool, mode: int = 0o700) -> tuple[int, bool]:
    """A descriptor of a folder within an open one, and whether it was made.  No symlink is followed."""
    made = False
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder), made
    except FileNotFoundError:
        if not create:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=folder)
        made = True
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder), made


def check_name(name: str) -> str:
    """The name, if it is that of something directly in a folder; else ValueError."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"not a file name: {name!r}")
    return name


@contextlib.contextmanager
def new_file(folder: int, name: str, *, mode: int, durable: bool = False) -> Iterator[int]:
    """A descriptor to write a file's new content to; at the end it takes its name in one step.

    What was there under the name is replaced; a symlink is replaced, not followed.  Where the body
    raises, nothing has changed.
    """
    temp = temp_name()
    fd = os.open(temp, _NEW, 0o600, dir_fd=folder)
    try:
        try:
            yield fd
            os.fchmod(fd, mode)
            if durable:
                sync(fd)
        finally:
            os.close(fd)
        os.rename(temp, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temp, dir_fd=folder)
        raise
    if durable:
        sync(folder)


def write_at(folder: int, name: str, data: bytes, *, mode: int = 0o600, durable: bool = False) -> None:
    """Give a file in an open folder a new content, atomically."""
    with new_file(folder, name, mode=mode, durable=durable) as fd:
        write_all(fd, data)


def write_new(folder: int, name: str, data: bytes, mode: int) -> None:
    """As `write_at`, for the many small files of a build: the umask has its say, and nothing is synced."""
    temp = temp_name()
    fd = os.open(temp, _NEW, mode, dir_fd=folder)
    try:
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(temp, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temp, dir_fd=folder)
        raise


def write_hidden(folder: int, name: str, data: bytes, mode: int) -> None:
    """As `write_new` into a folder that nobody looks into yet: a file has its name from the start."""
    try:
        fd = os.open(name, _NEW, mode, dir_fd=folder)
    except FileExistsError:
        write_new(folder, name, data, mode)
        return
    try:
        write_all(fd, data)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = False) -> None:
    """Give a file a new content, atomically; folders that lack are made."""
    with open_folder(path.parent, create=True) as folder:
        write_at(folder, path.name, data, mode=mode, durable=durable)


def read_regular(path: str | Path, limit: int | None = None) -> bytes | None:
    """The bytes of a plain file (at most `limit`), or None where there is none; no symlink is followed."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb", buffering=0) as file:
        try:
            return file.readall() if limit is None else file.read(limit)
        except OSError:
            return None


def remove_tree(folder: int, name: str) -> bool:
    """Remove a file, a symlink (not what it points to) or a folder with all it holds; False: not there.

    Raises OSError where something can't be removed.
    """
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=folder)
        return True
    import shutil  # slow to import, and seldom needed

    shutil.rmtree(name, dir_fd=folder)
    return True


def is_real_folder(path: str) -> bool:
    """Whether there is a folder, and not a symlink to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def own_folder(path: str, aside: Callable[[str, int], None] | None = None) -> bool:
    """Makes a folder where it lacks; whether it did.

    A symlink or whatever stands in its place is moved away by `aside`, which is told its inode and must let
    anything else be; without, it gets another name.  What is not there is never moved: it may have become
    another process's folder by then, with files in it.
    """
    if is_real_folder(path):
        return False
    for _ in range(2):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            return True
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(found.st_mode):
            return False
        if aside is not None:
            aside(path, found.st_ino)
        else:
            move_away(path, f"{path}.{temp_name().removeprefix(_PREFIX)}", found.st_ino)
    return False


def move_away(path: str, away: str, inode: int) -> bool:
    """Give another name to what was judged; False, and moved back, where another thing has come there since.

    Raises OSError.
    """
    os.rename(path, away)
    if os.lstat(away).st_ino == inode:
        return True
    os.rename(away, path)
    return False


def device(path: str) -> int | None:
    """The number of the disk that a path is on; None where there is nothing."""
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def entries(path: str) -> Iterator[os.DirEntry[str]]:
    """What a folder holds; nothing where it can't be read."""
    try:
        with os.scandir(path) as found:
            yield from found
    except OSError:
        return
