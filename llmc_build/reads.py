"""What targets read: the values of this build, and those of targets outside it.  World.

Owns which value a use stands for and how its bytes are had, verified.  Of a value only the digest is kept
here; the bytes are the store's, which may have put them out of memory.
"""

from __future__ import annotations

import binascii
from collections.abc import Container

from llmc_build.jsonpath import Path, PathError, extract
from llmc_build.model import Digest, Json, TargetId, ValueUse
from llmc_build.outside import Outside
from llmc_build.rules import BindError
from llmc_build.store import INLINE, Store
from llmc_build.store.cas import digest_of


class Reads:
    def __init__(self, store: Store, graph: Container[TargetId], outside: Outside | None) -> None:
        """`outside`: what is read of targets that are not in the graph."""
        self.values: dict[TargetId, Digest] = {}  # of targets that have one; a skipped one has none
        self._store = store
        self._graph = graph
        self._outside = outside
        self._empty = store.add(b"")
        self._inside: dict[tuple[str, Path], Digest] = {}  # hash of a value, path -> what it leads to

    def digest(self, use: ValueUse) -> Digest:
        """What identifies what is read.  Raises BindError: a path leads nowhere, or a value is lost."""
        whole = self._whole(use)
        if not use.path:
            return whole
        found = self._inside.get((whole.hash, use.path))
        if found is None:
            found = self._inside[whole.hash, use.path] = digest_of(self._reached(use))
        return found

    def _whole(self, use: ValueUse) -> Digest:
        if use.producer is None:
            return self._store.add((use.constant or "").encode("utf-8", "surrogateescape"))
        found = self._of(use.producer)
        return self._empty if found is None else found  # a skipped step's value is empty

    def _of(self, producer: TargetId) -> Digest | None:
        found = self.values.get(producer)
        if found is None and self._outside is not None and producer not in self._graph:
            found = self._outside.digest(producer)
        return found

    def is_skipped(self, use: ValueUse) -> bool:
        """Whether it is the value of a step that was skipped."""
        return use.producer is not None and self._of(use.producer) is None

    def read(self, use: ValueUse) -> bytes:
        """The bytes of what is read.  Raises BindError as `digest`."""
        return self._reached(use) if use.path else self._read(use)

    def _read(self, use: ValueUse) -> bytes:
        digest = self._whole(use)
        data = self._store.read(digest)
        if data is None and self._fetched(use, digest):
            data = self._store.read(digest)
        if data is None:
            raise BindError(f"the value of {use.name} was lost from the store; build again")
        return data

    def _reached(self, use: ValueUse) -> bytes:
        """What a path leads to.  In a skipped step's value it leads to nothing, which is empty, too."""
        if self.is_skipped(use):
            return b""
        try:
            return extract(self._read(use), use.path)
        except PathError as error:
            raise BindError(f"{{{{ {use.name} }}}}: {error}") from None

    def content(self, use: ValueUse) -> dict[str, Json]:
        """What is read as a message to a worker has it.  Raises BindError as `digest`."""
        digest = self.digest(use)
        if digest.size > INLINE:
            path = self._store.file(digest)
            if path is None and use.path:
                path = self._store.file(self._store.add(self._reached(use)))
            elif path is None and self._fetched(use, digest):
                path = self._store.file(digest)
            if path is not None:
                return {"hash": digest.hash, "size": digest.size, "file": str(path)}
        data = binascii.b2a_base64(self.read(use), newline=False).decode("ascii")
        return {"hash": digest.hash, "size": digest.size, "data": data}

    def _fetched(self, use: ValueUse, digest: Digest) -> bool:
        """Whether the value of a target outside the build was brought into the store."""
        producer = use.producer
        if self._outside is None or producer is None or producer in self._graph:
            return False
        return self._outside.fetch(producer, digest)
