"""diskcache, tamed: the settings and the `Disk` under which it can do no harm.

Owns: everything that touches diskcache, which is slow to import, so only what writes imports this.
Not: when to open, and what to do where it fails (`index`).

diskcache unpickles keys and values, opens and deletes files that a row names, and evicts what it likes.
Here a key is text, a value is bytes in the row itself, and every other kind is refused in both
directions; no file is ever named, opened or removed; nothing is evicted.  Every setting is given at every
open, for diskcache otherwise takes it from the database.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import diskcache

_RAW = 1  # diskcache.core.MODE_RAW

SETTINGS: dict[str, int | str] = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "size_limit": 2**62,
    "cull_limit": 0,
    "sqlite_auto_vacuum": 0,
    "sqlite_cache_size": 2048,  # pages of 4 KiB
    "sqlite_fullfsync": 1,  # macOS: the drive's own cache is written out too
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 0,  # a mapped file that another process cuts short would kill us (SIGBUS)
    "sqlite_synchronous": 2,  # FULL: a commit is on the disk when it returns
    "disk_min_file_size": 2**31 - 1,
    "disk_pickle_protocol": 0,
}


# The row that `Cache.set` writes, with every column (a test compares them).
_ROW = "(?, 1, ?, NULL, ?, 0, NULL, 0, 1, NULL, ?)"
_INSERT = """
INSERT INTO Cache
 (key, raw, store_time, expire_time, access_time, access_count, tag, size, mode, filename, value) VALUES
"""
_OR_UPDATE = """
ON CONFLICT (key, raw) DO UPDATE SET
 store_time = excluded.store_time, expire_time = NULL, access_time = excluded.access_time, access_count = 0,
 tag = NULL, size = 0, mode = 1, filename = NULL, value = excluded.value
"""
_ROWS = 200  # of one statement; SQLite before 3.32 takes 999 parameters


class RefusedError(Exception):
    """A row or a value of a kind that the index never holds."""


class RawDisk(diskcache.Disk):  # type: ignore[misc]
    """Text keys and bytes values, in the row; all else raises `RefusedError`."""

    def put(self, key: object) -> tuple[str, bool]:
        if type(key) is not str:
            raise RefusedError("a key that is no text")
        return key, True

    def get(self, key: object, raw: object) -> str:
        if type(key) is not str or not raw:
            raise RefusedError("a key that is no text")
        return key

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, memoryview]:
        if type(value) is not bytes or read:
            raise RefusedError("a value that is no bytes")
        return 0, _RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> bytes:
        if mode != _RAW or filename is not None or type(value) is not bytes or read:
            raise RefusedError("a value that is not in its row")
        return value

    def filename(self, key: object = None, value: object = None) -> NoReturn:
        raise RefusedError("a value outside its row")

    def remove(self, file_path: object) -> None:
        """Nothing: a row that names a file was planted, and the file is somebody else's."""


def open_cache(folder: Path, *, timeout_s: float) -> Any:
    """A `diskcache.Cache` in a folder that exists.  Raises sqlite3.Error, or OSError."""
    name = os.fspath(folder)
    if os.path.expandvars(os.path.expanduser(name)) != name:  # which diskcache does to every path
        raise OSError(f"diskcache can't use a folder whose name holds a variable: {name}")
    return diskcache.Cache(name, timeout=timeout_s, disk=RawDisk, **SETTINGS)


def put_rows(cache: Any, rows: Sequence[tuple[str, bytes]]) -> None:
    """As `cache.set` of each row, within a transaction.  Raises sqlite3.Error.

    `set` makes four statements of a row, each of which gives up the interpreter's lock and has to get it back
    from a build that is busy.  Here many rows are one statement.
    """
    now = time.time()
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        values = [value for key, data in part for value in (key, now, now, data)]
        cache._sql(_INSERT + ",".join([_ROW] * len(part)) + _OR_UPDATE, values)
