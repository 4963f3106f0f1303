"""Values of targets that are not part of a build, read by targets that are.  World.

Owns where such a value's bytes come from, and that they are believed only where they have its digest.  Which
target has which value and which key is known to whoever left the target out: both come as functions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmc_build.model import Digest, TargetId
from llmc_build.outputs import value_path
from llmc_build.store import Store, files
from llmc_build.store.cas import digest_of


class Outside:
    """What a build of some targets needs to know of all others."""

    def __init__(
        self,
        *,
        home: Path,
        store: Store,
        digest: Callable[[TargetId], Digest | None],
        key: Callable[[TargetId], str | None],
    ) -> None:
        """`digest`: of a value (None: the target was skipped); `key`: of its action, if known."""
        self.digest = digest
        self._home = home
        self._store = store
        self._key = key

    def fetch(self, target: TargetId, digest: Digest) -> bool:
        """Whether a target's value is in the store now, every byte of it verified.

        It is looked for where it was placed, which costs least, and then by the key of its action.
        """
        data = files.read_regular(value_path(self._home, target), digest.size + 1)
        if data is not None and digest_of(data) == digest:
            self._store.add(data)
            return True
        key = self._key(target)
        found = self._store.lookup(key) if key is not None else None
        return found is not None and found.result.value == digest
