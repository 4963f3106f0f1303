"""Small contents at hand: what a build has seen or made, in memory, within a bound.

Owns which contents stay.  Not: where those that went are found again (`facade` reads their record).

A content whose record is durable may go, the oldest first, for the record has it.  One that has no record, or
none yet, stays: it is nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmc_build.store.cas import EMPTY

MOST_BYTES = 32 * 2**20
_ENTRY = 150  # bytes that an entry costs besides its content, about


class Contents:
    """By hash; whoever puts a content in has verified it."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._data: dict[str, bytes] = {}
        self._records: dict[str, str] = {}  # hash -> key of a durable record that has the content
        self._bytes = 0
        self._most = self._limit = most_bytes

    def get(self, name: str) -> bytes | None:
        return self._data.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def put(self, name: str, data: bytes) -> None:
        if name not in self._data:
            self._data[name] = data
            self._bytes += len(data) + _ENTRY
            if self._bytes > self._limit:
                self._shrink()

    def clear(self) -> None:
        self._data.clear()
        self._records.clear()
        self._bytes, self._limit = 0, self._most

    def recorded(self, names: Iterable[str], key: str) -> None:
        """These contents are in the durable record of a key."""
        for name in names:
            if name != EMPTY.hash:
                self._records[name] = key

    def record(self, name: str) -> str | None:
        """The key of a record that has, or had, a content."""
        return self._records.get(name)

    def _shrink(self) -> None:
        """Lets go down to half the bound; where too little can go, it is tried again after a quarter more."""
        for name in [name for name in self._data if name in self._records]:
            if self._bytes <= self._most // 2:
                break
            self._bytes -= len(self._data.pop(name)) + _ENTRY
        self._limit = max(self._most, self._bytes + self._most // 4)
