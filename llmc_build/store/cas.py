"""The content-addressed store: files named by the SHA-256 of their bytes.

Owns: `cas/`, `tmp/` and `quarantine/` under the store's root.  Not: which result a blob belongs to,
nor small contents, which live in records.  Worker processes import this module, so it imports little.

Theory of operation
-------------------
A blob gets its name only when it is whole and on the disk: it is written to `tmp/`, synced, renamed to
`cas/ab/abcdef...`, and then the folder is synced.  Whoever sees the name sees all the bytes, and a kill
or a power cut leaves at most a file in `tmp/`, which a later process removes.

Nothing read is believed.  The bytes that leave the store (`read`, `place`) are hashed on their way out;
what does not match, and anything that is not a plain file, is moved to `quarantine/` and counts as
absent; what can't be read counts as absent, and stays.  `verify` may remember what it hashed in this
process, by everything `stat` says of the file, so that a build does not hash the same blob for each target
that uses it.

Where the disk is full or read-only, new blobs go to `spill`, a throwaway folder that several
processes of one build may share, and are found there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from llmc_build.model import Digest
from llmc_build.store import files
from llmc_build.store.aside import Quarantine

_STARTED_NS = time.time_ns()
LEFTOVER_AGE_S = 3600.0  # how old a dead process's temporary file must be before it is removed

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HEX = "0123456789abcdef"


def digest_of(data: bytes) -> Digest:
    """What identifies these bytes."""
    return Digest(hash=hashlib.sha256(data).hexdigest(), size=len(data))


EMPTY = digest_of(b"")


def is_hash(text: object) -> bool:
    """Whether this is a hash as the store writes it: 64 lower-case hex digits."""
    return isinstance(text, str) and len(text) == 64 and not text.strip(_HEX)


class Cas:
    """The blobs under one root.  Opening it writes nothing; folders are made when first needed."""

    def __init__(self, root: Path, *, durable: bool = True, spill: Path | None = None) -> None:
        """`durable` false: nothing is synced, for stores that don't outlive the process."""
        self.root = root
        self._base = os.path.abspath(root)
        self._durable = durable
        self._spill = Cas(spill, durable=False) if spill is not None else None
        self._known: dict[str, files.Stamp] = {}  # blobs whose every byte was seen right, as they were then
        self._synced: set[str] = set()  # blobs whose names are known to be on the disk
        self._folders: set[str] = set()  # folders known to be real ones
        self.quarantine = Quarantine(self._base, lambda: self._folder("quarantine"))
        self._clones = sys.platform == "linux"  # until the file system says that it can't
        self._sweep()

    # ------------------------------------------------------------ looking

    def path(self, digest: Digest) -> Path:
        """Where a blob is, if it is here.  ValueError for a hash that is none."""
        return Path(self._path(digest))

    def has(self, digest: Digest) -> bool:
        """Whether a plain file of the right size is there; its bytes are not read."""
        found = self._look(digest)
        return found is not None or (self._spill is not None and self._spill.has(digest))

    def owns(self, digest: Digest) -> bool:
        """As `has`, but not in the throwaway folder."""
        return self._look(digest) is not None

    def verify(self, digest: Digest) -> bool:
        """Whether every byte is right; what was found right in this process is not read again."""
        found = self._look(digest)
        if found is not None and self._known.get(digest.hash) == found:
            return True
        return self._stream(digest, None) or (self._spill is not None and self._spill.verify(digest))

    def find(self, digest: Digest) -> Path | None:
        """Where the blob is, every byte verified; None where it is absent or was wrong."""
        if self._spill is not None and not self.owns(digest):
            return self._spill.find(digest)
        return self.path(digest) if self.verify(digest) else None

    def read(self, digest: Digest) -> bytes | None:
        """The bytes, or None where they are absent or wrong (then they have been set aside)."""
        chunks: list[bytes] = []
        if self._stream(digest, lambda chunk: chunks.append(bytes(chunk))):
            return b"".join(chunks)
        return self._spill.read(digest) if self._spill is not None else None

    def place(self, digest: Digest, dest: Path, *, executable: bool = False) -> bool:
        """Put a verified copy at `dest`, in one step; False where the blob is absent or wrong.

        Parents are made; a symlink at `dest` is replaced.  Raises OSError where `dest` can't be
        written, for instance because it is a folder.
        """
        with files.open_folder(dest.parent, create=True) as folder:
            return self.place_at(digest, folder, dest.name, executable=executable)

    def place_at(self, digest: Digest, folder: int, name: str, *, executable: bool = False) -> bool:
        """As `place`, into a folder that is already open."""
        try:
            with files.new_file(folder, name, mode=0o755 if executable else 0o644) as out:
                if not self._copy_out(digest, out):
                    raise _AbsentError
            return True
        except _AbsentError:
            pass
        if self._spill is None:
            return False
        return self._spill.place_at(digest, folder, name, executable=executable)

    def blobs(self) -> Iterator[tuple[str, int]]:
        """Hash and size of every blob, unverified, in no order."""
        for shard in files.entries(f"{self._base}/cas"):
            if shard.is_dir(follow_symlinks=False):
                for entry in files.entries(shard.path):
                    if is_hash(entry.name) and entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(OSError):
                            yield entry.name, entry.stat(follow_symlinks=False).st_size

    # ------------------------------------------------------------ adding

    def put_bytes(self, data: bytes) -> Digest:
        """Store some bytes; durable on return.  Raises OSError where nothing can be written."""
        digest = digest_of(data)
        with self._or_spill(lambda spill: spill.put_bytes(data)):
            if not self._present(digest):
                with self._temp() as (fd, temp):
                    files.write_all(fd, data)
                    self._adopt(fd, temp, digest)
        return digest

    def put_file(self, path: Path, *, consume: bool) -> Digest:
        """Store the content of a plain file; durable on return.

        `consume`: the file itself becomes the blob where that is safe, and is gone afterwards in any
        case.  Raises OSError where it can't be read, is not a plain file, or nothing can be written.
        """
        done: list[Digest] = []
        with self._or_spill(lambda spill: done.append(spill.put_file(path, consume=consume))):
            done.append(self._put_file(path, consume))
        return done[0]

    def rescue(self, digest: Digest) -> bool:
        """Whether a blob is in the store itself; one that a process could only throw away is taken over.

        Raises OSError where the store can't be written.
        """
        if not self.owns(digest):
            thrown = self._spill.find(digest) if self._spill is not None else None
            if thrown is not None:
                self._put_file(thrown, False)
        return self.owns(digest)

    def _put_file(self, path: Path, consume: bool) -> Digest:
        source = os.open(path, _READ)
        try:
            before = os.fstat(source)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(errno.EINVAL, "not a plain file", str(path))
            digest = self._take_over(source, before, path) if consume else None
            if digest is None:
                os.lseek(source, 0, os.SEEK_SET)
                digest = self._copy_in(source)
        finally:
            os.close(source)
        if consume:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return digest

    def _take_over(self, source: int, before: os.stat_result, path: Path) -> Digest | None:
        """Make the file itself the blob; None where another name or another disk forbids it."""
        if before.st_nlink != 1 or before.st_dev != files.device(self._folder("cas")):
            return None
        digest = files.digest_fd(source)
        if self._present(digest):
            return digest
        if files.stamp(os.fstat(source)) != files.stamp(before):
            return None  # somebody is still writing: take a copy, whose hash is that of the copy
        try:
            self._adopt(source, os.fspath(path), digest)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return None
            raise
        return digest

    def _copy_in(self, source: int) -> Digest:
        with self._temp() as (fd, temp):
            hasher, size = hashlib.sha256(), 0
            for chunk in files.chunks(source):
                files.write_all(fd, chunk)
                hasher.update(chunk)
                size += len(chunk)
            digest = Digest(hash=hasher.hexdigest(), size=size)
            if not self._present(digest):
                self._adopt(fd, temp, digest)
        return digest

    def _present(self, digest: Digest) -> bool:
        """Whether the blob is here, right and durable, so that it need not be written.

        Its name may be another process's work of this instant that is not on the disk yet: the
        folder is synced before the name is relied on.  And it may be about to be cleaned away: it is young
        again from now on (`upkeep`).
        """
        found = self._look(digest)
        if found is None or not (self._known.get(digest.hash) == found or self._stream(digest, None)):
            return False
        if digest.hash not in self._synced and found[3] < _STARTED_NS:
            with contextlib.suppress(OSError):  # gone: it is written again
                os.utime(self._path(digest))
            now = self._look(digest)
            if now is None or now[:3] != found[:3]:
                return False
            self._known[digest.hash] = now
        if self._durable and digest.hash not in self._synced:
            files.sync_folder(os.path.dirname(self._path(digest)))
            self._synced.add(digest.hash)
        return True

    def _adopt(self, fd: int, temp: str, digest: Digest) -> None:
        """Sync a whole file and give it its name."""
        os.fchmod(fd, 0o444)
        if self._durable:
            files.sync(fd)
        shard = self._folder("cas", digest.hash[:2])
        final = f"{shard}/{digest.hash}"
        os.rename(temp, final)
        if self._durable:
            with _undone(lambda: os.unlink(final)):
                files.sync_folder(shard)
            self._synced.add(digest.hash)
        self._known[digest.hash] = files.stamp(os.fstat(fd))

    @contextlib.contextmanager
    def _temp(self) -> Iterator[tuple[int, str]]:
        """A new file in `tmp/` and its path; removed at the end unless it got another name."""
        name = files.temp_name()
        try:
            fd = os.open(f"{self._folder('tmp')}/{name}", _NEW, 0o600)
        except FileNotFoundError:  # the store was deleted under us: make its folders again
            self._folders.clear()
            fd = os.open(f"{self._folder('tmp')}/{name}", _NEW, 0o600)
        temp = f"{self._folder('tmp')}/{name}"
        try:
            yield fd, temp
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(temp)

    @contextlib.contextmanager
    def _or_spill(self, instead: Callable[[Cas], object]) -> Iterator[None]:
        """Where the body fails, do the same in the throwaway folder; a bad source fails again."""
        try:
            yield
        except OSError:
            if self._spill is None:
                raise
            instead(self._spill)

    # ------------------------------------------------------------ inside

    def _path(self, digest: Digest) -> str:
        if not is_hash(digest.hash):
            raise ValueError(f"not a SHA-256: {digest.hash!r}")
        return f"{self._base}/cas/{digest.hash[:2]}/{digest.hash}"

    def _folder(self, *names: str) -> str:
        """A folder of the store, made where it lacks; what is in its place and is none is set aside."""
        path = "/".join((self._base, *names))
        if path in self._folders:
            return path
        parent = self._folder(*names[:-1]) if names else os.path.dirname(self._base)
        if not names:
            if not os.path.isdir(path):
                os.makedirs(path, 0o700, exist_ok=True)
                if self._durable:
                    files.sync_folder(parent)
        else:
            made = files.own_folder(path, lambda wrong, inode: self.quarantine.take(wrong, names[-1], inode))
            if made and self._durable:
                with _undone(lambda: os.rmdir(path)):
                    files.sync_folder(parent)
        self._folders.add(path)
        return path

    def _look(self, digest: Digest) -> files.Stamp | None:
        """What `stat` says of a blob; None where it is absent, or was set aside for what it is."""
        path = self._path(digest)
        try:
            found = os.lstat(path)
        except OSError:
            return None
        if stat.S_ISREG(found.st_mode) and found.st_size == digest.size:
            return files.stamp(found)
        self._set_aside(path, digest.hash, found.st_ino)
        return None

    def _open(self, digest: Digest) -> int | None:
        if self._look(digest) is None:
            return None
        try:
            return os.open(self._path(digest), _READ)
        except OSError:
            return None

    def _stream(self, digest: Digest, take: Callable[[memoryview], object] | None) -> bool:
        """Pass a blob's bytes on while hashing them; False where they turn out wrong or unreadable."""
        fd = self._open(digest)
        if fd is None:
            return False
        try:
            hasher = hashlib.sha256()
            try:
                for chunk in files.chunks(fd):
                    hasher.update(chunk)
                    if take is not None:
                        take(chunk)
            except files.ReadError:  # perhaps the next build can read it; who can't, writes it again
                self._known.pop(digest.hash, None)
                return False
            return self._judge(fd, digest, hasher.hexdigest())
        finally:
            os.close(fd)

    def _copy_out(self, digest: Digest, out: int) -> bool:
        """Copy a blob into an open file; what is hashed is what the file then holds."""
        fd = self._open(digest)
        if fd is None:
            return False
        try:
            if self._clone(fd, out):
                return self._judge(fd, digest, files.digest_fd(out).hash)
        finally:
            os.close(fd)
        return self._stream(digest, lambda chunk: files.write_all(out, chunk))

    def _clone(self, source: int, out: int) -> bool:
        """Share the blocks where the file system can; then no byte is copied."""
        if not self._clones:
            return False
        try:
            fcntl.ioctl(out, _FICLONE, source)
        except OSError as error:
            self._clones = error.errno == errno.EXDEV  # other places may lie on the store's disk
            return False
        return True

    def _judge(self, fd: int, digest: Digest, found: str) -> bool:
        """Remember an open blob as right, or set it aside."""
        seen = os.fstat(fd)
        if found == digest.hash and seen.st_size == digest.size:
            self._known[digest.hash] = files.stamp(seen)
            return True
        self._set_aside(self._path(digest), digest.hash, seen.st_ino)
        return False

    def _set_aside(self, path: str, name: str, inode: int) -> None:
        self._known.pop(name, None)
        self.quarantine.take(path, name, inode)

    def _sweep(self) -> None:
        """Remove what dead processes left in `tmp/`."""
        oldest = time.time() - LEFTOVER_AGE_S
        for entry in files.entries(f"{self._base}/tmp"):
            owner = files.temp_owner(entry.name)
            with contextlib.suppress(OSError):
                old = entry.stat(follow_symlinks=False).st_mtime < oldest
                if owner is not None and old and not files.alive(owner):
                    with files.open_folder(f"{self._base}/tmp") as folder:
                        files.remove_tree(folder, entry.name)


class _AbsentError(Exception):
    """The blob to place is not there or is wrong."""


@contextlib.contextmanager
def _undone(undo: Callable[[], object]) -> Iterator[None]:
    """Where the body fails: a name that is not known to be durable must not be found."""
    try:
        yield
    except OSError:
        with contextlib.suppress(OSError):
            undo()
        raise
