"""`Store`: results by key and contents by digest, as the build sees them.

Owns: what counts as a hit, the order of writes (blobs before the record that names them), and going on
where the disk does not.  Not: files (`cas`), the database (`index`), the bytes of a record (`record`).

A store that can't be written goes on: what is still readable is served, and what this build makes is kept in
memory and in a throwaway folder (`spill`) until the build ends.  That is said once, through `note`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from llmc_build.errors import StoreError
from llmc_build.model import ActionResult, Digest
from llmc_build.store import files
from llmc_build.store.cas import EMPTY, Cas, digest_of
from llmc_build.store.contents import Contents
from llmc_build.store.group import GroupCommit
from llmc_build.store.index import DiskIndex, Index, IndexUnavailableError, MemoryIndex
from llmc_build.store.locks import KeyLocks
from llmc_build.store.opening import OtherVersionError, prepare, spill_folder, sweep_spills
from llmc_build.store.record import INLINE, Record, decode, digests, encode
from llmc_build.store.uses import Uses

Note = Callable[[str], None]

_COMMIT_LOOK_S = 1.0  # how long one wait for a commit lasts; it ends earlier when the commit does


class Store:
    """The cache of one build.  Used by one thread; any number of processes may share the folder."""

    def __init__(
        self,
        cas: Cas,
        index: Index,
        *,
        note: Note,
        locks: KeyLocks | None = None,
        uses: Uses | None = None,
        spill: Path | None = None,
        broken: str | None = None,
    ) -> None:
        """`uses`: where it tells what it relies on.  `spill`: a folder of its own, removed at the end.
        `broken`: why it can't be written.
        """
        self.cas = cas
        self.spill = spill  # to be given to every Cas that workers open
        self._index = index
        self._note = note
        self._locks = locks
        self._uses = uses
        self._hits: list[str] = []  # keys found in the index
        self._broken: str | None = None
        self._unreadable = False
        self._small = Contents()  # contents up to INLINE bytes: seen or added
        self._small.put(EMPTY.hash, b"")
        self._named: dict[str, list[str]] = {}  # key -> small contents of a record on its way to the disk
        self._ours = MemoryIndex()  # records that could not be written
        self._group: GroupCommit | None = None
        self._at_once: list[str] = []  # keys that needed no commit, whose end was not yet told
        self._writer: Callable[[], Index] | None = None  # opens the index for the thread that commits
        self.on_commit: Callable[[], None] = lambda: None  # called from another thread: `committed` has news
        if broken is not None:
            self._give_up(broken)

    # ------------------------------------------------------------ opening and closing

    @classmethod
    def open(cls, cache_dir: Path, note: Note) -> Store:
        """The store in a folder, made where it lacks; one that goes on uncached where that can't be."""
        root = Path(os.path.abspath(cache_dir))
        spill = spill_folder()
        locks, uses, broken = None, None, None
        try:
            prepare(root)
            locks = KeyLocks(root / "lock")
            uses = Uses(root)
        except OSError as error:
            broken = f"{root}: {error.strerror or error}"
        except OtherVersionError as error:
            return cls(Cas(spill, durable=False), MemoryIndex(), note=note, spill=spill, broken=str(error))
        index = DiskIndex(root, note=note, read_only=locks is None)
        cas = Cas(root, spill=spill)
        store = cls(cas, index, note=note, locks=locks, uses=uses, spill=spill, broken=broken)
        store._writer = lambda: DiskIndex(root, note=note)
        return store

    @classmethod
    def memory(cls, scratch: Path) -> Store:
        """A store that remembers nothing beyond this process; large contents are kept in `scratch`."""
        return cls(Cas(scratch, durable=False), MemoryIndex(), note=lambda text: None)

    @property
    def root(self) -> Path:
        """The folder of the store."""
        return self.cas.root

    @property
    def cas_root(self) -> Path:
        """Where workers put large contents: the store, or the throwaway folder while it can't be written."""
        return self.cas.root if self._broken is None or self.spill is None else self.spill

    @property
    def broken(self) -> bool:
        """Whether something that this build made could not be stored."""
        return self._broken is not None

    def close(self) -> None:
        """Release everything, locks too, and remove what was thrown away; commits on their way are ended."""
        if self._group is not None:
            self._group.close()
        if self._broken is None and self._hits:
            with contextlib.suppress(IndexUnavailableError):
                self._index.touch(self._hits)
        self._index.close()
        if self._uses is not None:
            self._uses.close()
        if self._locks is not None:
            self._locks.close()
        if self.spill is not None:
            with contextlib.suppress(OSError), files.open_folder(self.spill.parent) as folder:
                files.remove_tree(folder, self.spill.name)
            if self._broken is not None:
                sweep_spills(self.spill.parent)
        self._small.clear()  # a build still has its snapshot to make, in the same memory

    # ------------------------------------------------------------ results

    def lookup(self, key: str, *, verify: bool = True) -> Record | None:
        """The result stored under a key, if every byte of it is there.

        `verify` false: its blobs are there with the right sizes, unread.
        """
        return self.lookup_many([key], verify=verify).get(key)

    def lookup_many(self, keys: Iterable[str], *, verify: bool = True) -> dict[str, Record]:
        """As `lookup`, for the keys that hit."""
        wanted = list(keys)
        rows = self._get_many(wanted)
        found: dict[str, Record] = {}
        for key in wanted:  # the caller's own texts: a build has each key once in memory
            data = rows.get(key)
            decoded = None if data is None else decode(key, data)
            if decoded is not None:
                record, contents = decoded
                if self._take_in(record, contents) or (
                    self.verify(record) if verify else self._has_all(record.result)
                ):
                    found[key] = record
            elif data is not None:
                self._set_aside(key, data)
        return found

    def _take_in(self, record: Record, contents: Mapping[str, bytes]) -> bool:
        """Has the small contents of a record at hand; whether these are all."""
        names, every = [], True
        for digest in digests(record.result):
            if digest.size <= INLINE:
                self._small.put(digest.hash, contents[digest.hash])
                names.append(digest.hash)
            else:
                every = False
        self._small.recorded(names, record.key)
        return every

    def verify(self, record: Record) -> bool:
        """Whether every byte of a result is there; blobs already read by this process are not read again."""
        return all(self._verify(digest) for digest in digests(record.result))

    def commit(self, entries: Sequence[Record]) -> None:
        """Store some results; durable on return, unless the store can't be written, which is noted.

        Their contents were added before, or put into the CAS by a worker: StoreError names one that lacks,
        and then none of the results is stored.
        """
        encoded = [(record, self._encode(record)) for record in entries]
        for record, data in encoded:
            self._submit(record, data)
        while self.committing:
            self.committed(_COMMIT_LOOK_S)

    def commit_soon(self, record: Record) -> None:
        """As `commit` of one result, beside what the caller does next; `committed` tells of its end."""
        self._submit(record, self._encode(record))

    def _submit(self, record: Record, data: bytes) -> None:
        if self._broken is None:
            self._rescue(record.result)
        if self._broken is None and self._writer is not None and self._group is None:
            try:
                self._group = GroupCommit(self._writer)
                self._group.wake = self.on_commit
            except RuntimeError:  # there can be no more threads: it is written here
                self._writer = None
        if self._broken is None and self._group is not None:
            self._group.submit(record.key, data)
            return
        if self._broken is None:
            try:
                self._index.put_many([(record.key, data)])
            except IndexUnavailableError as error:
                self._give_up(str(error))
        if self._broken is not None:
            self._ours.put_many([(record.key, data)])
        self._at_once.append(record.key)

    def hurry(self) -> None:
        """What was given to `commit_soon` is written now: there is nothing else to begin."""
        if self._group is not None:
            self._group.hurry()

    @property
    def committing(self) -> bool:
        """Whether `committed` has something to tell, now or later."""
        return bool(self._at_once) or (self._group is not None and self._group.busy)

    def committed(self, timeout_s: float = 0.0) -> list[str]:
        """Keys given to `commit_soon` that are durable now, or never will be on this store, which is noted.

        Waits up to `timeout_s` while there is none.
        """
        keys, self._at_once = self._at_once, []
        if self._group is not None:
            durable, failed = self._group.ended(0.0 if keys else timeout_s)
            keys += durable
            if failed is not None:
                why, items = failed
                self._give_up(why)
                self._ours.put_many(items)
                keys += [key for key, _ in items]
        for key in keys:
            self._small.recorded(self._named.pop(key, ()), key)
        return keys

    def forget(self, key: str) -> None:
        """Drop the result of a key, whose content turned out to be wrong."""
        self._ours.delete(key)
        if self._broken is None:
            with contextlib.suppress(IndexUnavailableError):
                self._index.delete(key)

    # ------------------------------------------------------------ contents

    def add(self, data: bytes) -> Digest:
        """Keep some bytes: small ones in memory until a record takes them, large ones in the CAS."""
        digest = digest_of(data)
        self.keep(digest, data)
        return digest

    def keep(self, digest: Digest, data: bytes) -> None:
        """As `add`, of bytes whose digest has been taken."""
        if digest.size <= INLINE:
            self._small.put(digest.hash, data)
            return
        self.cas.put_bytes(data)
        if self._broken is None and not self.cas.owns(digest):
            self._give_up("no content can be written")

    def has(self, digest: Digest) -> bool:
        """Whether the content is there, unread."""
        return self.small(digest) is not None or self.cas.has(digest)

    def file(self, digest: Digest) -> Path | None:
        """A file that holds a large content, verified; None for a small one, or one that is not there."""
        return None if digest.hash in self._small else self.cas.find(digest)

    def read(self, digest: Digest) -> bytes | None:
        """The content, verified; None where it is absent or was wrong."""
        small = self.small(digest)
        return small if small is not None else self.cas.read(digest)

    def small(self, digest: Digest) -> bytes | None:
        """A small content, verified, of which this build has seen or made the record."""
        data = self._small.get(digest.hash)
        if data is None:
            key = self._small.record(digest.hash)
            if key is not None and self.lookup(key, verify=False) is not None:
                data = self._small.get(digest.hash)
        return data

    def place(self, digest: Digest, dest: Path, executable: bool = False) -> bool:
        """Put a verified copy at `dest`, atomically; False where it is absent or was wrong.

        Raises OSError where `dest` can't be written.
        """
        with files.open_folder(dest.parent, create=True) as folder:
            return self.place_at(digest, folder, dest.name, executable=executable)

    def place_at(self, digest: Digest, folder: int, name: str, *, executable: bool = False) -> bool:
        """As `place`, into a folder that is open."""
        small = self.small(digest)
        if small is None:
            return self.cas.place_at(digest, folder, name, executable=executable)
        files.write_at(folder, name, small, mode=0o755 if executable else 0o644)
        return True

    # ------------------------------------------------------------ locks and figures

    def try_lock(self, key: str) -> bool:
        """Whether this process may run the action now; False: another one is running it.

        After a lock that was not free at first, look up again: the other has probably stored it.
        """
        return self._locks is None or self._locks.try_lock(key)

    def unlock(self, key: str) -> None:
        if self._locks is not None:
            self._locks.unlock(key)

    def stats(self) -> dict[str, int]:
        """records; blobs and their bytes; quarantined: how many things have been set aside."""
        sizes = [size for _, size in self.cas.blobs()]
        try:
            records = len(self._index)
        except IndexUnavailableError:
            records = 0
        return {
            "records": records,
            "blobs": len(sizes),
            "bytes": sum(sizes),
            "quarantined": len(self.cas.quarantine),
        }

    # ------------------------------------------------------------ inside

    def _get_many(self, keys: list[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        if not self._unreadable:
            try:
                self._rely_on(keys)
                found = self._index.get_many(keys)
                self._hits += found
            except IndexUnavailableError as error:
                self._unreadable = True
                self._give_up(str(error))
        found.update(self._ours.get_many(keys))
        return found

    def _rely_on(self, keys: list[str]) -> None:
        """What this build looks up or stores stays: nobody cleans it away while it runs."""
        if self._uses is not None:
            try:
                self._uses.add(keys)
            except OSError as error:
                self._give_up(f"{self.root}: {error.strerror or error}")

    def _verify(self, digest: Digest) -> bool:
        return (digest.size <= INLINE and self.small(digest) is not None) or self.cas.verify(digest)

    def _has_all(self, result: ActionResult) -> bool:
        return all(self.has(digest) for digest in digests(result))

    def _encode(self, record: Record) -> bytes:
        """The bytes of a record; StoreError where any content, small or large, lacks."""
        found: dict[str, bytes] = {}
        for digest in digests(record.result):
            if digest.size > INLINE:
                data = b"" if self.cas.has(digest) else None
            else:
                data = found[digest.hash] = self.read(digest) or b""
                data = data if len(data) == digest.size else None
            if data is None:
                raise StoreError(f"a result names a content that is not in the store: sha256 {digest.hash}")
        self._rely_on([record.key])
        encoded = encode(record, found)
        self._named[record.key] = list(found)
        return encoded

    def _rescue(self, result: ActionResult) -> None:
        """Every blob of a result into the store itself, or this store is given up.

        A worker that could not write one has put it into the throwaway folder; often that was for a moment.
        """
        try:
            kept = all(self.cas.rescue(d) for d in digests(result) if d.size > INLINE)
        except OSError as error:
            self._give_up(f"{self.root}: {error.strerror or error}")
        else:
            if not kept:
                self._give_up("a content was lost while it was stored")

    def _set_aside(self, key: str, data: bytes) -> None:
        """A record that can't be believed: keep its bytes for whoever wants to know, and drop it."""
        if self._broken is None:
            with contextlib.suppress(OSError):
                self.cas.quarantine.keep(f"record.{key}", data)
        self.forget(key)

    def _give_up(self, why: str) -> None:
        if self._broken is None:
            self._broken = why
            self._note(f"the store can't be written ({why}): the build goes on uncached")
