"""Group commit: results are written to the index in a thread, many at a time.

Owns the thread, its own connection to the index, and the order in which commits end. What is in a record is
`facade`'s.

Theory of operation. A durable commit waits for the disk, for milliseconds, in which nothing has to be
computed. So commits happen beside the build. A group gathers for a moment while the workers are busy, and
goes at once when the build has nothing to begin but what waits for it: results of many short steps share a
commit, and a chain of steps is not held up. A file system writes all that was created to its journal with
every sync, so each sync costs the steps that run beside it too. A result counts as committed only when
`ended` has returned its key.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from llmc_build.store.index import Index, IndexUnavailableError

Item = tuple[str, bytes]
MOST = 1000  # items of one transaction: another process may be waiting for the lock
GATHER_S = 0.25  # how long a group gathers while nobody waits for it


class GroupCommit:
    """Commits in a thread of its own; every method is called from one other thread."""

    def __init__(self, open_index: Callable[[], Index]) -> None:
        """`open_index` is called in the thread: a connection belongs to the thread that made it."""
        self.wake: Callable[[], None] = lambda: None  # called, in the thread, when a commit has ended
        self._open_index = open_index
        self._change = threading.Condition()
        self._waiting: list[Item] = []
        self._ended: list[str] = []
        self._failed: tuple[str, list[Item]] | None = None  # why, and all that could not be written
        self._closing = False
        self._urgent = False  # somebody waits for the group that gathers
        self._hurried = False  # work is waiting for it
        self._open = 0  # items handed in whose end was not yet told
        self._thread = threading.Thread(target=self._run, name="llmc-commit", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether there are commits whose end was not yet told."""
        return self._open > 0

    def submit(self, key: str, data: bytes) -> None:
        with self._change:
            self._waiting.append((key, data))
            self._open += 1
            if len(self._waiting) in (1, MOST):
                self._change.notify_all()

    def ended(self, timeout_s: float) -> tuple[list[str], tuple[str, list[Item]] | None]:
        """(keys that are durable now, (why, items) of those that can't be made so).

        Waits while there is none.
        """
        with self._change:
            if self._open and not self._ended and self._failed is None and timeout_s > 0:
                self._urgent = True
                self._change.notify_all()
                self._change.wait_for(lambda: self._ended or self._failed, timeout_s)
                self._urgent = False
            keys, self._ended = self._ended, []
            failed, self._failed = self._failed, None
            self._open -= len(keys) + (len(failed[1]) if failed else 0)
            return keys, failed

    def hurry(self) -> None:
        """The group that gathers goes at once: there is nothing else to do than what waits for it."""
        with self._change:
            if self._waiting and not self._hurried:
                self._hurried = True
                self._change.notify_all()

    def close(self) -> None:
        """Returns when all that was handed in is committed, or can't be."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join()

    def _run(self) -> None:
        index: Index | None = None
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing)
                self._change.wait_for(
                    lambda: self._urgent or self._hurried or self._closing or len(self._waiting) >= MOST,
                    GATHER_S,
                )
                self._hurried = False
                group, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            if not group:
                break
            why = None
            try:
                if index is None:
                    index = self._open_index()
                index.put_many(group)
            except IndexUnavailableError as error:
                why = str(error)
            except Exception as error:  # noqa: BLE001 - a thread that died would leave the build waiting for ever
                why = f"{type(error).__name__}: {error}"
            with self._change:
                if why is None:
                    self._ended += [key for key, _ in group]
                else:
                    self._failed = (why, [*(self._failed[1] if self._failed else ()), *group])
                self._change.notify_all()
            with contextlib.suppress(OSError):  # then it is heard of a moment later
                self.wake()
        if index is not None:
            index.close()
