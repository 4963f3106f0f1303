"""`.llmc/state/`: what makes the next build fast.  All of it may be deleted or damaged at any time.

Owns: digests of files remembered by what `stat` says of them.
Not: what is decided from them.

A remembered digest is as good as the file's status is.  A file that changes twice within one tick of the
file system's clock, with the digest taken in between, looks the same afterwards: so the digest of a file that
changed just before it was read is not remembered, and is taken again the next time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import threading
import time
from pathlib import Path

from llmc_build.model import Digest, Json
from llmc_build.snapshot.stamps import boot, is_fresh
from llmc_build.store import files
from llmc_build.store.cas import is_hash

MOST_REMEMBERED = 200_000  # files; beyond, those not looked at by this build are forgotten


class FileDigests:
    """Digests of files, remembered in one file across builds."""

    def __init__(self, path: Path) -> None:
        """`path`: the file to remember in; read when first needed, written by `save`."""
        self._path = path
        self._loaded = False
        self._dirty = False
        self._coming: dict[str, threading.Thread] = {}  # files that are being read
        self._old: dict[str, tuple[files.Stamp, str]] = {}  # from the file, not looked at yet
        self._known: dict[str, tuple[files.Stamp, str]] = {}  # looked at: as it was then, and the hash

    def digest(self, file: str | Path) -> Digest | None:
        """The digest of a file's content, or None where there is none.  A path in normal form.

        Symlinks are followed.  Raises IsADirectoryError for a folder, and OSError for a device, a pipe, a
        socket, or what can't be read.
        """
        name = os.fspath(file)
        coming = self._coming.pop(name, None)
        if coming is not None:
            coming.join()
        found = _status(name)
        if found is None:
            self._forget(name)
            return None
        known = self._recall(name)
        if known is not None and known[0] == files.stamp(found):
            return Digest(hash=known[1], size=found.st_size)
        return self._read(name)

    def begin(self, file: Path) -> None:
        """Takes the digest of a large file meanwhile, if it is not known: `digest` then waits for it."""
        name = os.fspath(file)
        with contextlib.suppress(OSError):
            found, known = _status(name), self._recall(name)
            if found is None or name in self._coming or (known and known[0] == files.stamp(found)):
                return
            coming = threading.Thread(target=self._take, args=(name,), daemon=True)
            with contextlib.suppress(RuntimeError):  # there can be no more threads
                coming.start()
                self._coming[name] = coming

    def _take(self, name: str) -> None:
        with contextlib.suppress(OSError):  # it is told to whoever asks
            self._read(name)

    def changed(self, file: Path, digest: Digest | None) -> bool:
        """Whether a file's content is another one than it was (None: it was not there)."""
        try:
            return self.digest(file) != digest
        except OSError:
            return True

    def remembered(self, file: Path) -> tuple[files.Stamp, str] | None:
        """The hash of a file that was looked at, and the status it had; None where that could deceive."""
        return self._known.get(os.fspath(file))

    def save(self) -> None:
        """Remember for the next process.  Raises OSError."""
        for coming in self._coming.values():
            coming.join()
        if not self._dirty:
            return
        if len(self._old) + len(self._known) > MOST_REMEMBERED:
            self._old.clear()
        known = {name: [*seen, text] for name, (seen, text) in {**self._old, **self._known}.items()}
        _write(self._path, {"boot": boot(), "files": known})
        self._dirty = False

    def _recall(self, name: str) -> tuple[files.Stamp, str] | None:
        if not self._loaded:
            self._old = _load_digests(self._path)
            self._loaded = True
        if name in self._old:
            self._known[name] = self._old.pop(name)
        return self._known.get(name)

    def _forget(self, name: str) -> None:
        if self._recall(name) is not None:
            del self._known[name]
            self._dirty = True

    def _read(self, name: str) -> Digest | None:
        """Hash a file; where it changes meanwhile, again, a few times."""
        for _ in range(5):
            began = time.time_ns()
            hashed = _hash(name)
            if hashed is None:
                self._forget(name)
                return None
            digest, before, after = hashed
            if before == after and digest.size == after[2]:
                break
        self._forget(name)
        if before == after and digest.size == after[2] and not _is_fresh(after, began):
            self._known[name] = (after, digest.hash)
            self._dirty = True
        return digest


def _status(name: str) -> os.stat_result | None:
    """What `stat` says of a plain file; None where there is nothing."""
    try:
        found = os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    _require_file(found, name)
    return found


def _require_file(found: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a plain file", name)


def _hash(name: str) -> tuple[Digest, files.Stamp, files.Stamp] | None:
    """The digest of what was read, and the file's status before and after."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(fd, "rb", buffering=0):
        before = os.fstat(fd)
        _require_file(before, name)
        return files.digest_fd(fd), files.stamp(before), files.stamp(os.fstat(fd))


def _is_fresh(seen: files.Stamp, began_ns: int) -> bool:
    """Whether a file had changed so shortly before it was read that it may change again unseen."""
    return is_fresh(seen[3], seen[4], began_ns)


def _load_digests(path: Path) -> dict[str, tuple[files.Stamp, str]]:
    document = _load(path)
    found = document.get("files") if isinstance(document, dict) and document.get("boot") == boot() else None
    digests: dict[str, tuple[files.Stamp, str]] = {}
    for name, seen in found.items() if isinstance(found, dict) else ():
        match seen:
            case [int(dev), int(inode), int(size), int(mtime), int(ctime), str(text)] if is_hash(text):
                digests[name] = ((dev, inode, size, mtime, ctime), text)
    return digests


# ---------------------------------------------------------------- one file of the state

# A first line with the hash of the rest: a flipped bit in a remembered digest would be a wrong result.
_MAGIC = b"llmc-state/1 "


def _write(path: Path, document: object) -> None:
    body = json.dumps(document, separators=(",", ":")).encode("ascii")
    files.write_atomic(path, _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _load(path: Path) -> Json:
    """What was written, or None where there is nothing, or something else."""
    data = files.read_regular(path) or b""
    head, _, body = data.partition(b"\n")
    if head != _MAGIC + hashlib.sha256(body).hexdigest().encode():
        return None
    with contextlib.suppress(ValueError, RecursionError):
        found: Json = json.loads(body)
        return found
    return None
