"""What outlives a worker: what is known of a model's bits, and states of long beginnings.

Owns which of it is kept, and what it hangs on.  The files are `exactness`'s and `kvstore`'s.  Where there
is no store, or it can't be written, nothing is remembered, and all goes on; nor is what comes of a model
file that was written while it is in use.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator
from dataclasses import replace

from llmc_build.llm.exactness import FOLDER, Exactness, identity, read_exactness, write_exactness
from llmc_build.llm.kvstore import LEAST, Entry, KvStore
from llmc_build.llm.loading import Settings, is_as_it_was
from llmc_build.llm.native import lib
from llmc_build.llm.room import State
from llmc_build.llm.shape import Decoding, Reading, common_length
from llmc_build.model import Json


class Remembered:
    def __init__(self, settings: Settings, *, context: int, width: int) -> None:
        """`context`: tokens of each sequence, by which some models compute otherwise.

        `width`: of the room, where states fit into no other; else 0.
        """
        self.known = Exactness()
        self._settings = settings
        self._folder = None
        self._states: KvStore | None = None
        self._stored: list[array[int]] = []  # beginnings that are in the store, or soon will be
        if settings.store is None or settings.model is None or settings.fast:
            return
        system = bytes(lib.llama_print_system_info()).decode("utf-8", "replace")
        parts: dict[str, Json] = {"context": context, "gpu_layers": settings.gpu_layers}

        def name(slots: int) -> str:
            return identity(
                model=settings.model or "",
                engine=settings.engine,
                system=system,
                settings={**parts, "width": slots},
            )

        root = settings.store / FOLDER
        self._folder = root / name(0)
        self.known = read_exactness(self._folder)
        self._states = KvStore(root, name(width), limit=settings.kept)

    def learn(self, *, reading: Reading | None = None, decoding: Decoding | None = None) -> None:
        """Writes down the outcome of a trial."""
        if reading is not None:
            self.known = replace(self.known, reading=reading)
        if decoding is not None:
            self.known = replace(self.known, decoding=decoding)
        if self._folder is not None and is_as_it_was(self._settings):
            with contextlib.suppress(OSError):
                write_exactness(self._folder, self.known)

    def entries(self) -> Iterator[Entry]:
        """The states in the store, the least recently used first."""
        if self._states is not None:
            for entry in self._states.entries():
                self._stored.append(entry.tokens)
                yield entry

    def fetch(self, entry: Entry) -> State | None:
        """The bytes of a state; None where they are lost."""
        state = self._states.fetch(entry) if self._states is not None else None
        if state is None and entry.tokens in self._stored:
            self._stored.remove(entry.tokens)
        return state

    def keep(self, tokens: array[int], state: State) -> None:
        """Has a state stored where it would spare enough that no stored one does."""
        if self._states is None or len(tokens) < LEAST or not is_as_it_was(self._settings):
            return
        if len(tokens) - max((common_length(one, tokens) for one in self._stored), default=0) >= LEAST:
            self._stored.append(tokens)
            self._states.put(tokens, state)

    def close(self) -> None:
        """Waits for what is being written."""
        if self._states is not None:
            self._states.close()
