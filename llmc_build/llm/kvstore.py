"""States of long beginnings, kept in the store from build to build.

Owns the files, their form, and how many bytes they take together.  Which states are worth keeping is
`engine`'s to say.  Nothing here must be there: what lacks is computed again, and a store that can't be
written is left alone.

A file is named `inference/IDENTITY/HASH.kv`, where IDENTITY says what the state's bits hang on
(`exactness.identity`) and HASH is the SHA-256 of the tokens.  It holds

    llmc-kv/1 HASH\\n             SHA-256 of the next line and of the tokens
    {"tokens": N, "state": {"hash": HASH, "size": BYTES}}\\n
    N tokens, 4 bytes each, little-endian
    the state, as llama.cpp writes it

Whatever does not comply, byte for byte, is removed when it is met, and counts as absent.  The time of last
use is the file's modification time: where the bound is exceeded, those that were not used for longest go
first.  Files are not synced, since a state that a power cut damages is found out by its hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import sys
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path

from llmc_build.frozen import frozen
from llmc_build.llm.room import State
from llmc_build.store import files

FORM = "llmc-kv/1"
SUFFIX = ".kv"
LEAST = 256  # tokens: fewer are computed again about as fast
_CLOSE_S = 10.0  # for what is still to be written when the worker ends
_HEAD_LIMIT = 4096  # bytes of the two lines
_TOKENS_LIMIT = 1 << 22
_MOST_ENTRIES = 4096  # of one model: looked at, each with its tokens


@frozen(kw_only=True)
class Entry:
    """A state in the store: what its file says, which was checked, but for the state itself."""

    path: Path
    tokens: array[int]
    size: int  # bytes of the state
    hash: str  # of the state
    start: int  # where the state begins in the file


class KvStore:
    """The states of one model, under `root`/IDENTITY; those of all models take at most `limit` bytes."""

    def __init__(self, root: Path, identity: str, *, limit: int) -> None:
        self._root = root
        self._folder = root / identity
        self._limit = limit
        self._queue: queue.SimpleQueue[tuple[array[int], tuple[bytes, memoryview]] | None]
        self._queue = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._broken = limit <= 0

    def entries(self) -> Iterator[Entry]:
        """The states of the model, the least recently used first; files that are none are removed."""
        for _, path in sorted(_listed(self._folder))[-_MOST_ENTRIES:]:
            entry = _head(path)
            if entry is None:
                _remove(path)
            else:
                yield entry

    def fetch(self, entry: Entry) -> State | None:
        """The bytes of a state, every one verified.

        None, and it is removed, where they are not what they were.
        """
        state = State.blank(entry.size)
        try:
            with open(entry.path, "rb", buffering=0) as file:
                file.seek(entry.start)
                view, at = state.content, 0
                while at < entry.size and (count := file.readinto(view[at:])):
                    at += count
            right = at == entry.size and hashlib.sha256(state.content).hexdigest() == entry.hash
        except OSError:
            return None
        if not right:
            _remove(entry.path)
            return None
        with contextlib.suppress(OSError):
            os.utime(entry.path)
        return state

    def put(self, tokens: array[int], state: State) -> None:
        """Has a state written, soon; what can't be written isn't."""
        if self._broken or state.size + len(tokens) * 4 > self._limit:
            return
        if self._writer is None:
            writer = threading.Thread(target=self._write_all, daemon=True)
            try:
                writer.start()
            except RuntimeError:  # there can be no more threads
                self._broken = True
                return
            self._writer = writer
        self._queue.put((tokens, state.parts()))

    def close(self) -> None:
        """Waits for what is being written."""
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join(_CLOSE_S)
            self._writer = None

    # ------------------------------------------------------------ writing

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if not self._broken:
                    self._write(*item)
            except OSError:
                self._broken = True

    def _write(self, tokens: array[int], state: tuple[bytes, memoryview]) -> None:
        raw = _bytes_of(tokens)
        path = self._folder / (hashlib.sha256(raw).hexdigest() + SUFFIX)
        if path.exists():
            return
        hashed = hashlib.sha256(state[0])
        hashed.update(state[1])
        size = len(state[0]) + len(state[1])
        digest = {"hash": hashed.hexdigest(), "size": size}
        line = json.dumps({"tokens": len(tokens), "state": digest}).encode() + b"\n"
        head = f"{FORM} {hashlib.sha256(line + raw).hexdigest()}\n".encode()
        self._make_room(len(head) + len(line) + len(raw) + size)
        os.makedirs(self._folder, 0o700, exist_ok=True)
        with (
            files.open_folder(self._folder) as folder,
            files.new_file(folder, path.name, mode=0o600) as out,
        ):
            for part in (head, line, raw, *state):
                files.write_all(out, part)

    def _make_room(self, wanted: int) -> None:
        """Removes states of whatever model until so many bytes more are within the bound."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self._root) as folders:
            for folder in folders:
                if folder.is_dir(follow_symlinks=False):
                    found += [(used, path) for used, path in _listed(Path(folder.path))]
        sizes = {path: _size(path) for _, path in found}
        held = sum(sizes.values())
        for _, path in sorted(found):
            if held + wanted <= self._limit:
                return
            _remove(path)
            held -= sizes[path]


# ---------------------------------------------------------------- files


def _listed(folder: Path) -> list[tuple[float, Path]]:
    """When each state of a folder was last used, and its file."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime, Path(entry.path)))
    return found


def _head(path: Path) -> Entry | None:
    """What a file is of; None where it is not what it says."""
    try:
        with open(path, "rb") as file:
            head, line = file.readline(_HEAD_LIMIT), file.readline(_HEAD_LIMIT)
            told = json.loads(line)
            count, size, digest = told["tokens"], told["state"]["size"], told["state"]["hash"]
            if type(count) is not int or not 0 < count <= _TOKENS_LIMIT or type(size) is not int or size <= 0:
                return None
            raw = file.read(count * 4)
            if head != f"{FORM} {hashlib.sha256(line + raw).hexdigest()}\n".encode() or len(raw) != count * 4:
                return None
            if path.name != hashlib.sha256(raw).hexdigest() + SUFFIX or not isinstance(digest, str):
                return None
            start = file.tell()
            if os.fstat(file.fileno()).st_size != start + size:
                return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return Entry(path=path, tokens=_tokens_of(raw), size=size, hash=digest, start=start)


def _bytes_of(tokens: array[int]) -> bytes:
    if sys.byteorder == "little":
        return tokens.tobytes()
    swapped = array("i", tokens)
    swapped.byteswap()
    return swapped.tobytes()


def _tokens_of(raw: bytes) -> array[int]:
    tokens = array("i")
    tokens.frombytes(raw)
    if sys.byteorder != "little":
        tokens.byteswap()
    return tokens


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
