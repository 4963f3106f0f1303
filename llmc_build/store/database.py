"""The SQLite database of the index: how it is opened for reading, and what a right one looks like.

Owns: the schema and settings that are accepted, and what an error of SQLite means.  Not: what is
done about it (`index`), nor writing (`rawdisk`).
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

# Which rows are seen: the one kind that is ever written.  The plus keeps SQLite from choosing the index on
# `expire_time`, in which every row is alike: a search for ten keys would walk through the whole table.
FILTER = "raw = 1 AND mode = 1 AND filename IS NULL AND +expire_time IS NULL AND typeof(value) = 'blob'"

_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_NOLFS,
    }
)

# What diskcache 5.6.3 makes; a test holds it against a fresh database.
_OBJECTS = {
    ("table", "Settings"),
    ("table", "Cache"),
    ("index", "sqlite_autoindex_Settings_1"),
    ("index", "Cache_key_raw"),
    ("index", "Cache_expire_time"),
    ("trigger", "Settings_count_insert"),
    ("trigger", "Settings_count_delete"),
    ("trigger", "Settings_size_insert"),
    ("trigger", "Settings_size_update"),
    ("trigger", "Settings_size_delete"),
}
_COLUMNS = """
    rowid key raw store_time expire_time access_time access_count tag size mode filename value
"""
_SETTINGS = """
    count size hits misses statistics tag_index eviction_policy size_limit cull_limit sqlite_auto_vacuum
    sqlite_cache_size sqlite_fullfsync sqlite_journal_mode sqlite_mmap_size sqlite_synchronous
    disk_min_file_size disk_pickle_protocol
"""


class DamagedError(Exception):
    """What is in `index/` is not what was written there."""


def is_unavailable(error: sqlite3.Error) -> bool:
    """Whether the database can't be used now (full or read-only disk, locked), rather than being damaged."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _UNAVAILABLE


def connect(path: str, mode: str, timeout_s: float) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{Path(path).as_uri()}?{mode}",
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    db.execute("PRAGMA query_only = 1")
    db.execute("PRAGMA mmap_size = 0")
    db.execute("PRAGMA trusted_schema = 0")
    return db


def vet(db: sqlite3.Connection) -> None:
    """Raise DamagedError unless tables, triggers and settings are those that diskcache makes.

    diskcache believes the settings it finds: it makes attributes and PRAGMA statements of them.
    """
    _vet_schema(db)
    settings = _SETTINGS.split()
    for name, value in db.execute("SELECT key, value FROM Settings"):
        if name not in settings or not (isinstance(value, int) or value in ("none", "wal")):
            raise DamagedError(f"a setting is odd: {name!r}")


def _vet_schema(db: sqlite3.Connection) -> None:
    objects = set(db.execute("SELECT type, name FROM sqlite_master"))
    columns = [row[1] for row in db.execute("PRAGMA table_info(Cache)")]
    if objects != _OBJECTS or columns != _COLUMNS.split():
        raise DamagedError("its schema is another")


def salvage(path: str, timeout_s: float) -> dict[str, bytes]:
    """The rows that can still be read of a damaged database: from its beginning, and from its end.

    They are as good as what decodes them: nothing says that a value is whole.
    """
    found: dict[str, bytes] = {}
    for order in ("ASC", "DESC"):
        try:
            with contextlib.closing(connect(path, "mode=rw", timeout_s)) as db:
                _vet_schema(db)
                rows = db.execute(
                    f"SELECT key, value FROM Cache NOT INDEXED WHERE {FILTER} ORDER BY rowid {order}"
                )
                for key, value in rows:
                    if type(key) is str:
                        found.setdefault(key, value)
        except (sqlite3.Error, DamagedError, UnicodeDecodeError, OSError):
            continue
        break  # to the end without an error
    return found
