"""The index: text key -> bytes, durable, shared by any number of processes.

Owns: the SQLite database under `index/` as a whole: opening, reading, committing, and setting it aside
when it is damaged.  Not: what the bytes mean (`record`), nor diskcache's own ways (`rawdisk`).

Theory of operation
-------------------
A database appears whole: it is made in a folder under `tmp/` and renamed to `index/`.  So any `index/`
that does not look right is damaged, and is moved to `quarantine/`; a fresh one takes its place.  The move
is made under a lock and only where the folder is still the one that was found damaged, for another
process may have repaired it meanwhile.

Reading uses a plain connection that sees only rows of the one kind that is ever written; diskcache is
opened for the first write.  A writer looks, before and after each commit, whether the database it has open
is still the one in `index/`, and commits again where it is not: a commit that returned is in the
index that others will open.

What SQLite reports is one of two things.  Damage: the content is wrong, so it is set aside; a damaged schema
may even give an error whose text Python can't decode.
Unavailability: the disk is full or read-only, or the lock can't be had; the content may be
perfect, it is left alone and `IndexUnavailableError` says why.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from llmc_build.store import files
from llmc_build.store.database import FILTER, DamagedError, connect, is_unavailable, salvage, vet
from llmc_build.store.memory import Index, IndexUnavailableError, MemoryIndex, as_bytes, as_text

__all__ = ["DiskIndex", "Index", "IndexUnavailableError", "MemoryIndex"]

DAY_S = 86400.0
BUSY_S = 60.0  # how long a commit waits for other processes before it gives up
_GET = f"SELECT value FROM Cache WHERE key = ? AND {FILTER}"
_CHUNK = 900  # keys asked for at once; SQLite before 3.32 takes 999 parameters

_T = TypeVar("_T")


class DiskIndex:
    """The index of a store.  To be used by one thread; opening it touches nothing on the disk."""

    def __init__(
        self,
        root: Path,
        *,
        note: Callable[[str], None] = lambda text: None,
        busy_s: float = BUSY_S,
        read_only: bool = False,
    ) -> None:
        """`note` hears when an index was set aside.  `read_only`: nothing is written, not even a lock."""
        self._root = Path(os.path.abspath(root))
        self._folder = self._root / "index"
        self._file = str(self._folder / "cache.db")
        self._note = note
        self._busy_s = busy_s
        self._read_only = read_only
        self._leave = False  # damage is only told
        self._reader: sqlite3.Connection | None = None
        self._cache: Any = None  # diskcache.Cache
        self._opened: tuple[int, int] | None = None  # device and inode of the database that is open
        self._suspect: tuple[int, int] | None = None  # those of its folder, from before it was looked at

    # ------------------------------------------------------------ the interface

    def get(self, key: str) -> bytes | None:
        rows: list[tuple[bytes]] = self._read(lambda db: db.execute(_GET, (key,)).fetchall(), [])
        return rows[0][0] if rows else None

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        wanted = list(keys)
        if len(wanted) == 1:
            value = self.get(wanted[0])
            return {} if value is None else {wanted[0]: value}

        def select(db: sqlite3.Connection) -> dict[str, bytes]:
            found: dict[str, bytes] = {}
            for part in _parts(wanted):
                statement = f"SELECT key, value FROM Cache WHERE key IN ({_marks(part)}) AND {FILTER}"
                found.update(db.execute(statement, part))
            return found

        return self._read(select, {})

    def put_many(self, items: Iterable[tuple[str, bytes]]) -> None:
        from llmc_build.store.rawdisk import put_rows

        rows = [(as_text(key), as_bytes(value)) for key, value in items]
        if rows:
            self._write(lambda cache: put_rows(cache, rows))

    def delete(self, key: str) -> None:
        if os.path.lexists(self._file):
            self._write(lambda cache: cache.delete(key))

    def delete_many(self, keys: Iterable[str]) -> None:
        """Together.  Raises IndexUnavailableError."""
        self._in_parts("DELETE FROM Cache WHERE raw = 1 AND key IN ({})", (), list(keys))

    def touch(self, keys: Iterable[str]) -> None:
        """To the day: a build that finds what another found today writes nothing."""
        now, wanted = time.time(), list(keys)
        old = f"SELECT key FROM Cache WHERE access_time < ? AND {FILTER} AND key IN ({{}})"

        def select(db: sqlite3.Connection) -> list[str]:
            return [
                key
                for part in _parts(wanted)
                for (key,) in db.execute(old.format(_marks(part)), (now - DAY_S, *part))
            ]

        self._in_parts(
            "UPDATE Cache SET access_time = ? WHERE raw = 1 AND key IN ({})", (now,), self._read(select, [])
        )

    def rows(self) -> Iterator[tuple[str, float, bytes]]:
        """Key, unix time of its last use (to the day), and value of everything."""
        last = ""
        statement = (
            f"SELECT key, access_time, value FROM Cache WHERE typeof(key) = 'text' AND key > ? AND {FILTER} "
            f"ORDER BY key LIMIT {_CHUNK}"
        )

        def select(db: sqlite3.Connection) -> list[tuple[str, float, bytes]]:
            return db.execute(statement, (last,)).fetchall()

        while True:
            found: list[tuple[str, float, bytes]] = self._read(select, [])
            yield from found
            if len(found) < _CHUNK:
                return
            last = found[-1][0]

    def faults(self) -> list[str]:
        """What is wrong with the database, by SQLite's own check; nothing is done about it."""

        def check(db: sqlite3.Connection) -> list[str]:
            found = [str(text) for (text,) in db.execute("PRAGMA integrity_check(10)") if text != "ok"]
            alien = f"SELECT COUNT(*) FROM Cache WHERE rowid NOT IN (SELECT rowid FROM Cache WHERE {FILTER})"
            odd = int(db.execute(alien).fetchone()[0])
            return [*found, f"{odd} rows of a kind that is never written"] if odd else found

        self._leave = True
        try:
            return self._read(check, [])
        except IndexUnavailableError as error:
            return [str(error)]
        finally:
            self._leave = False

    def repair(self) -> None:
        """Begins a new index with all that can be read of this one.  Raises IndexUnavailableError."""
        self._suspect = _identity(self._folder)
        self._set_aside("asked to repair it")

    def compact(self) -> None:
        """Gives the disk back what removed rows took."""
        with contextlib.suppress(IndexUnavailableError, sqlite3.Error):
            self._open_cache()._sql("VACUUM")

    def _in_parts(self, statement: str, before: tuple[object, ...], keys: list[str]) -> None:
        def run(cache: Any) -> None:
            for part in _parts(keys):
                cache._sql(statement.format(_marks(part)), (*before, *part))

        if keys and os.path.lexists(self._file):
            self._write(run)

    def keys(self) -> Iterator[str]:
        statement = f"SELECT key FROM Cache WHERE typeof(key) = 'text' AND {FILTER}"
        return iter(self._read(lambda db: [key for (key,) in db.execute(statement)], []))

    def __len__(self) -> int:
        statement = f"SELECT COUNT(*) FROM Cache WHERE typeof(key) = 'text' AND {FILTER}"
        return self._read(lambda db: int(db.execute(statement).fetchone()[0]), 0)

    def close(self) -> None:
        for connection in (self._cache, self._reader):
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        self._cache = self._reader = self._opened = None

    # ------------------------------------------------------------ reading and writing

    def _read(self, use: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        """Use the reading connection; `otherwise` where there is no index, or it had to be set aside."""
        for _ in range(2):  # the second time from what could be saved
            try:
                db = self._connect()
                return otherwise if db is None else use(db)
            except (DamagedError, UnicodeDecodeError) as error:
                self._set_aside(str(error))
            except sqlite3.Error as error:
                self._blame(error)
        return otherwise

    def _write(self, use: Callable[[Any], None]) -> None:
        """Use diskcache in one transaction, in the index that is there when it has been committed."""
        if self._read_only:
            raise IndexUnavailableError("the store is read-only")
        for _ in range(4):  # each repetition needs another process that replaced the index, or damage
            try:
                self._transact(use)
            except (DamagedError, UnicodeDecodeError) as error:
                self._set_aside(str(error))
            except sqlite3.Error as error:
                self._blame(error)
            except OSError as error:
                self.close()
                raise IndexUnavailableError(error.strerror or str(error)) from error
            else:
                if self._is_current():
                    return
        raise IndexUnavailableError("the index was replaced again and again")

    def _transact(self, use: Callable[[Any], None]) -> None:
        from diskcache import Timeout

        cache = self._open_cache()
        end = time.monotonic() + self._busy_s
        while True:
            try:
                with cache.transact():
                    use(cache)
                return
            except Timeout:  # also for a full or read-only disk: find out which
                _probe(cache, final=time.monotonic() >= end)
            except sqlite3.Error:
                self.close()  # whatever state the transaction is in, it ends with its connection
                raise

    def _open_cache(self) -> Any:
        if self._connect() is None:
            self._install()
            if self._connect() is None:
                raise IndexUnavailableError("it vanished as it was made")
        if self._cache is None:
            from llmc_build.store.rawdisk import open_cache

            self._cache = open_cache(self._folder, timeout_s=min(self._busy_s, 10.0))
        return self._cache

    def _connect(self) -> sqlite3.Connection | None:
        """The reading connection to the index that is there now; None where there is none."""
        if self._reader is not None and self._is_current():
            return self._reader
        self.close()
        self._suspect = _identity(self._folder)
        if not self._check_files():
            return None
        self._opened = _identity(self._file)
        self._reader = (
            self._open_read_only() if self._read_only else connect(self._file, "mode=rw", self._busy_s)
        )
        vet(self._reader)
        return self._reader

    def _open_read_only(self) -> sqlite3.Connection:
        """Where not even a lock can be written: what is in a write-ahead log can't be read then."""
        with contextlib.suppress(sqlite3.Error):
            db = connect(self._file, "mode=ro", self._busy_s)
            db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            return db
        return connect(self._file, "immutable=1", self._busy_s)

    def _is_current(self) -> bool:
        return self._opened is not None and self._opened == _identity(self._file)

    # ------------------------------------------------------------ making and setting aside

    def _check_files(self) -> bool:
        """Whether there is an index; damage where it is not made of plain files in a real folder."""
        try:
            if not stat.S_ISDIR(os.lstat(self._folder).st_mode):
                raise DamagedError("it is no folder")
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise IndexUnavailableError(error.strerror or str(error)) from error
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a log, removed since
                found = os.lstat(self._folder / name)
                if not stat.S_ISREG(found.st_mode):
                    raise DamagedError(f"{name} is no plain file")
                if name == "cache.db" and not found.st_size:
                    raise DamagedError("it is empty")
        if names and "cache.db" not in names:
            raise DamagedError("cache.db is missing")
        return bool(names)

    def _install(self) -> None:
        """Make an empty index, whole from the moment it is seen."""
        from llmc_build.store.rawdisk import open_cache

        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.own_folder(f"{self._root}/tmp")
        temp = self._root / "tmp" / files.temp_name()
        temp.mkdir(mode=0o700)
        try:
            open_cache(temp, timeout_s=1.0).close()
            with open(temp / "cache.db", "rb") as file:
                files.sync(file.fileno())
            files.sync_folder(temp)
            try:
                os.rename(temp, self._folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was first
                    raise
            files.sync_folder(self._root)
        finally:
            with files.open_folder(temp.parent) as folder:
                files.remove_tree(folder, temp.name)

    def _blame(self, error: sqlite3.Error) -> None:
        """Decide what an error of SQLite means: raise IndexUnavailableError, or set the index aside."""
        if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
            raise error  # ours, not the database's
        if is_unavailable(error):
            self.close()
            raise IndexUnavailableError(str(error)) from error
        self._set_aside(str(error))

    def _set_aside(self, why: str) -> None:
        """Move a damaged index to `quarantine/`, unless another process has; save what can be read."""
        suspect = self._suspect
        self.close()
        if self._leave:
            raise IndexUnavailableError(f"the index is damaged ({why})")
        if self._read_only:
            raise IndexUnavailableError(f"the index is damaged ({why}) and the store is read-only")
        saved: dict[str, bytes] = {}
        try:
            with _locked(self._root / "index.lock"):
                if suspect is None or suspect != _identity(self._folder):
                    return
                base = f"{self._root}/quarantine"
                files.own_folder(base)
                away = f"{base}/index.{files.temp_name().removeprefix('.llmc-')}"
                os.rename(self._folder, away)
                if all(entry.is_file(follow_symlinks=False) for entry in files.entries(away)):
                    saved = salvage(f"{away}/cache.db", 1.0)
        except OSError as error:
            raise IndexUnavailableError(error.strerror or str(error)) from error
        self.put_many(saved.items())
        more = f" with {len(saved)} results of it" if saved else ""
        self._note(f"the index of the store was damaged ({why}); it was set aside and a new one begun{more}")


def _parts(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), _CHUNK):
        yield keys[start : start + _CHUNK]


def _marks(part: list[str]) -> str:
    return ",".join("?" * len(part))


def _probe(cache: Any, *, final: bool) -> None:
    """After diskcache's Timeout: raise the error behind it, or return where waiting may help."""
    try:
        cache._sql("BEGIN IMMEDIATE")
        cache._sql("ROLLBACK")
    except sqlite3.OperationalError as error:
        busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        if final or not busy:
            raise


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes that use the store; the kernel ends it with the process."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
