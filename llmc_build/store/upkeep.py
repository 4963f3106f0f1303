"""`llmc cache verify` and `llmc cache gc`: a store looked through as a whole.

Owns what is damage, what may go, and that nothing goes that a running build relies on.  Not: what a build
does with damage that it meets (`facade`).

Theory of operation of `collect`.  Records go first, those used longest ago before others, a thousand at a
time; after each thousand the builds that run are asked again (`uses`), and what they rely on is put back.
Then go the contents that no record names.  One that a build has written or taken over since it began may
belong to a record that is still to come: it stays.  A content gets another name before it is looked at for
the last time, so that it can't be taken over in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmc_build.errors import StoreError
from llmc_build.model import ActionResult, Digest
from llmc_build.snapshot.stamps import is_fresh
from llmc_build.store import files
from llmc_build.store.cas import Cas, is_hash
from llmc_build.store.index import DiskIndex, IndexUnavailableError
from llmc_build.store.opening import is_store
from llmc_build.store.record import INLINE, decode, digests
from llmc_build.store.uses import in_use

_BATCH = 1000  # records removed before the builds that run are asked again


@dataclass(kw_only=True)
class Findings:
    """What `verify` found; `bad` has a line for each damage."""

    records: int = 0
    blobs: int = 0
    bytes: int = 0
    bad: list[str] = field(default_factory=list)
    repaired: bool = False


@dataclass(kw_only=True)
class Collected:
    """What `collect` removed, and what is left."""

    records_removed: int = 0
    blobs_removed: int = 0
    bytes_freed: int = 0
    records: int = 0
    bytes: int = 0


def verify(root: Path, *, repair: bool = False) -> Findings:
    """Reads every byte of a store.  `repair`: what is damaged is set aside, so that it is made again.

    Without `repair` nothing is changed.  Raises StoreError, OSError.
    """
    _require(root)
    found, cas, index = Findings(repaired=repair), Cas(root), DiskIndex(root)
    try:
        faults = index.faults()
        found.bad += [f"index: {fault}" for fault in faults]
        if faults and repair:
            index.repair()
        right = _verify_blobs(cas, found, repair)
        if repair or not faults:
            _verify_records(index, right, found, repair)
    except IndexUnavailableError as error:
        raise StoreError(f"{root}: the index can't be used: {error}") from error
    finally:
        index.close()
    return found


def _verify_blobs(cas: Cas, found: Findings, repair: bool) -> dict[str, int]:
    """Hash and size of the blobs that are right."""
    right: dict[str, int] = {}
    for entry in _in_cas(cas.root):
        found.blobs += 1
        why = _fault(entry)
        if why is None:
            right[entry.name] = entry.stat(follow_symlinks=False).st_size
            found.bytes += right[entry.name]
            continue
        found.bad.append(f"{os.path.relpath(entry.path, cas.root)}: {why}")
        if repair:
            cas.quarantine.take(entry.path, entry.name, entry.inode())
    return right


def _in_cas(root: Path) -> Iterator[os.DirEntry[str]]:
    """Everything that lies where blobs do, and what lies in the place of their folders."""
    for shard in files.entries(f"{root}/cas"):
        if shard.is_dir(follow_symlinks=False) and len(shard.name) == 2:
            yield from files.entries(shard.path)
        else:
            yield shard


def _fault(entry: os.DirEntry[str]) -> str | None:
    """Why this is no right blob."""
    if not entry.is_file(follow_symlinks=False):
        return "no plain file"
    if not is_hash(entry.name) or os.path.basename(os.path.dirname(entry.path)) != entry.name[:2]:
        return "not where a blob belongs"
    try:
        fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return None if files.digest_fd(fd).hash == entry.name else "its content is another"
        finally:
            os.close(fd)
    except OSError as error:
        return f"can't be read: {error.strerror}"


def _verify_records(index: DiskIndex, right: dict[str, int], found: Findings, repair: bool) -> None:
    for key, _, data in list(index.rows()) if repair else index.rows():
        found.records += 1
        decoded = decode(key, data)
        if decoded is None:
            why = "damaged"
        else:
            lost = [d for d in _large(decoded[0].result) if right.get(d.hash) != d.size]
            if not lost:
                continue
            why = f"its content {lost[0].hash[:16]}... is lost or damaged"
        found.bad.append(f"record {key[:16]}...: {why}")
        if repair:
            index.delete(key)


def _large(result: ActionResult) -> Iterator[Digest]:
    return (digest for digest in digests(result) if digest.size > INLINE)


# ---------------------------------------------------------------- removing what is no longer used


def collect(root: Path, *, max_bytes: int | None = None, max_age_s: float | None = None) -> Collected:
    """Removes what was last used longer ago than `max_age_s`, and the oldest until `max_bytes` are enough.

    In any case all goes that no result needs: contents without a record, what was set aside.  What a running
    build relies on stays.  Raises StoreError, OSError.
    """
    _require(root)
    index = DiskIndex(root)
    with _alone(root):
        try:
            return _collect(root, index, max_bytes, max_age_s)
        except IndexUnavailableError as error:
            raise StoreError(f"{root}: the index can't be used: {error}") from error
        finally:
            index.close()


def _collect(root: Path, index: DiskIndex, max_bytes: int | None, max_age_s: float | None) -> Collected:
    done, cas = Collected(), Cas(root)
    began_ns = time.time_ns()
    done.bytes_freed += cas.quarantine.empty()
    victims = _victims(root, index, max_bytes, max_age_s)
    for start in range(0, len(victims), _BATCH):
        _remove_records(root, index, victims[start : start + _BATCH], done)
    named: set[str] = set()
    for key, _, data in index.rows():
        decoded = decode(key, data)
        done.records += 1
        done.bytes += len(data)
        if decoded is not None:
            named.update(digest.hash for digest in _large(decoded[0].result))
    _, oldest_ns = in_use(root)
    young_ns = began_ns if oldest_ns is None else min(began_ns, oldest_ns)
    for name, size in list(cas.blobs()):
        if name not in named and _remove_blob(cas, name, young_ns):
            done.blobs_removed += 1
            done.bytes_freed += size
        else:
            done.bytes += size
    if done.records_removed:
        index.compact()
    return done


def _victims(root: Path, index: DiskIndex, max_bytes: int | None, max_age_s: float | None) -> list[str]:
    """The keys of the records that are to go."""
    needed, _ = in_use(root)
    now, total = time.time(), 0
    victims: list[str] = []
    candidates: list[tuple[float, str, int, tuple[Digest, ...]]] = []
    sharers: Counter[str] = Counter()
    for key, used, data in index.rows():
        decoded = decode(key, data)
        if decoded is None:
            victims.append(key)
            continue
        large = tuple({digest.hash: digest for digest in _large(decoded[0].result)}.values())
        if max_age_s is not None and now - used > max_age_s and key not in needed:
            victims.append(key)
            continue
        total += len(data) + sum(digest.size for digest in large if not sharers[digest.hash])
        sharers.update(digest.hash for digest in large)
        if key not in needed:
            candidates.append((used, key, len(data), large))
    if max_bytes is not None:
        candidates.sort(key=lambda one: one[:2])
        for _, key, size, large in candidates:
            if total <= max_bytes:
                break
            victims.append(key)
            sharers.subtract(digest.hash for digest in large)
            total -= size + sum(digest.size for digest in large if not sharers[digest.hash])
    return victims


def _remove_records(root: Path, index: DiskIndex, keys: list[str], done: Collected) -> None:
    """Those that have to be put back again are not counted."""
    data = index.get_many(keys)
    index.delete_many(keys)
    needed, _ = in_use(root)
    back = {key: value for key, value in data.items() if key in needed}
    index.put_many(back.items())
    done.records_removed += len(data) - len(back)
    done.bytes_freed += sum(len(value) for key, value in data.items() if key not in back)


def _remove_blob(cas: Cas, name: str, young_ns: int) -> bool:
    """Whether it went: it stays where it was written, or taken over by a build, since `young_ns`."""
    path = f"{cas.root}/cas/{name[:2]}/{name}"
    away = f"{cas.root}/tmp/{files.temp_name()}"
    try:
        if _is_young(path, young_ns):
            return False
        files.own_folder(f"{cas.root}/tmp")
        os.rename(path, away)
        if _is_young(away, young_ns):
            os.rename(away, path)
            return False
        os.unlink(away)
    except OSError:
        return False
    return True


def _is_young(path: str, young_ns: int) -> bool:
    found = os.lstat(path).st_mtime_ns
    return is_fresh(found, found, young_ns)


def _require(root: Path) -> None:
    if not is_store(root):
        raise StoreError(f"there is no store at {root}")


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    fd = os.open(root / "gc.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{root} is being cleaned up by another llmc") from None
        yield
    finally:
        os.close(fd)
