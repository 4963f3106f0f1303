"""What an index is, and one that ends with its process.

Owns the interface that every index has.  Not: the one on the disk (`index`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol


class Index(Protocol):
    """Records by key.  Every backend passes `tests/unit/test_store_index.py`."""

    def get(self, key: str) -> bytes | None: ...

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The values of those keys that are there."""

    def put_many(self, items: Iterable[tuple[str, bytes]]) -> None:
        """All of them or none, durable on return.  Raises IndexUnavailableError."""

    def delete(self, key: str) -> None: ...

    def touch(self, keys: Iterable[str]) -> None:
        """These were used now.  Raises IndexUnavailableError."""

    def keys(self) -> Iterator[str]: ...

    def __len__(self) -> int: ...

    def close(self) -> None: ...


class IndexUnavailableError(Exception):
    """The index can't be used now; the text says why, in a few words."""


class MemoryIndex:
    """An index that ends with its process: for `--no-cache` and for tests."""

    def __init__(self) -> None:
        self._items: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self._items.get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        return {key: self._items[key] for key in keys if key in self._items}

    def put_many(self, items: Iterable[tuple[str, bytes]]) -> None:
        self._items.update([(as_text(key), as_bytes(value)) for key, value in items])

    def delete(self, key: str) -> None:
        self._items.pop(key, None)

    def touch(self, keys: Iterable[str]) -> None:
        """Nothing: it ends before anybody asks."""

    def keys(self) -> Iterator[str]:
        return iter(list(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def close(self) -> None:
        """Nothing to release."""


def as_text(key: str) -> str:
    if type(key) is not str:
        raise TypeError(f"a key is text, not {type(key).__name__}")
    return key


def as_bytes(value: bytes) -> bytes:
    if type(value) is not bytes:
        raise TypeError(f"a value is bytes, not {type(value).__name__}")
    return value
