"""The file that a snapshot is, read part by part. World.

Owns the format: a line `llmc-snapshot/5`, a line with length and CRC-32 of the head, the head (JSON: the
facts, and where each section stands with its CRC-32), then the sections. Numbers of sections are
little-endian. What is in them is `Snapshot`'s; whether it still holds is `survey`'s.

A snapshot may be damaged or deleted at any time: whatever is not as it was written makes it no snapshot. It
holds nothing that would be executed, and nothing secret.
"""

from __future__ import annotations

import binascii
import json
import os
import stat
import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate

TYPE_CHECKING = False  # typing's own takes longer to import than a small snapshot takes to be read
if TYPE_CHECKING:
    from typing import Any, TypedDict
else:
    TypedDict = dict

MAGIC = b"llmc-snapshot/5\n"
UNKNOWN = [-1]  # a stamp that no folder has
EXECUTABLE, PLAIN = "+x", "-x"  # what a marked hash ends in
GOOD, SKIPPED, CHECK = 1, 2, 4  # flags of a target; see Snapshot.flags
_KEY, _VALUE = 32, 40  # bytes: a hash; a hash and a size

# path, stamp, SHA-256 in hex (of inputs and outputs `marked`), whether the stamp is fresh
Watched = tuple[str, list[int], str, bool]
# file, first line, hash of the text, workflow, first target, targets, variable -> step, other workflows that
# it speaks of, step -> hash of the schema of its value
Document = tuple[int, int, str, str, int, int, dict[str, str], list[str], dict[str, str]]


class Facts(TypedDict):
    """What must still hold for all targets."""

    who: list[Any]  # llmc, Python and the machine
    workspace: str
    config: Watched | None  # llmc.yaml
    cache_dir: str
    own_cache_dir: str  # where it is unless the command line or the environment says otherwise
    environ: dict[str, str | None]  # variable -> SHA-256 of its value, None: it is not set
    files: list[Watched]  # the workflow files, in their order
    watched: list[Watched]  # whatever else was read: inputs, prompt files, models; and declared outputs
    folders: list[tuple[str, list[int]]]  # stamp of every folder whose listing mattered; UNKNOWN; []: none
    python: list[tuple[str, int]]  # mtime_ns of the folders that packages are found in; empty: no models
    store: list[tuple[str, list[int] | None]]  # stamps of the files of the index
    given: list[str]  # the files that llmc.yaml lists
    out: list[int]  # stamp of the folder with the folders of workflows
    placed: list[int] | None  # stamp of the list of outputs that were placed; None: no step has any


class Damaged(ValueError):
    """Not as it was written."""


# What comes of a snapshot whose checksums hold and whose content makes no sense.
SENSELESS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class Snapshot:
    """A snapshot that was read, or is to be written: targets by number, in the order of the files."""

    def __init__(self, facts: Facts, sections: Mapping[str, bytes], fd: int | None = None) -> None:
        self.facts = facts
        self._sections = dict(sections)
        self._fd = fd
        self._where: Mapping[str, Sequence[int]] = {}

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    # ------------------------------------------------------------ the file

    @classmethod
    def read(cls, path: str) -> Snapshot | None:
        """The snapshot in a file, or None where there is none that could be believed."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        found = cls({}, {}, fd)  # type: ignore[typeddict-item]
        try:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                return None
            begin = os.pread(fd, 64, 0)
            magic, line = begin[: len(MAGIC)], begin[len(MAGIC) :].partition(b"\n")[0]
            if magic != MAGIC:
                return None
            length, crc = (int(part, 16) for part in line.split())
            start = len(MAGIC) + len(line) + 1
            if length > about.st_size:
                return None
            head = os.pread(fd, length, start)
            if len(head) != length or zlib.crc32(head) != crc:
                return None
            document = json.loads(head)
            found.facts, found._where = document["facts"], document["sections"]
            found._begin = start + length
        except (OSError, *SENSELESS):
            return None
        return found

    _begin = 0

    def encoded(self) -> list[bytes]:
        """The bytes of the file, in parts."""
        where: dict[str, list[int]] = {}
        offset = 0
        for name, data in self._sections.items():
            where[name] = [offset, len(data), zlib.crc32(data)]
            offset += len(data)
        head = json.dumps({"facts": self.facts, "sections": where}, separators=(",", ":")).encode("ascii")
        line = b"%x %x\n" % (len(head), zlib.crc32(head))
        return [MAGIC, line, head, *self._sections.values()]

    def section(self, name: str) -> bytes:
        """The bytes of a section.  Raises Damaged."""
        data = self._sections.get(name)
        if data is None:
            if self._fd is None or name not in self._where:
                raise Damaged(name)
            offset, length, crc = self._where[name]
            if not 0 <= length <= os.fstat(self._fd).st_size:
                raise Damaged(name)
            data = os.pread(self._fd, length, self._begin + offset)
            while 0 < len(data) < length:  # Linux reads at most 2 GiB at a time
                more = os.pread(self._fd, length - len(data), self._begin + offset + len(data))
                if not more:
                    break
                data += more
            if len(data) != length or zlib.crc32(data) != crc:
                raise Damaged(name)
            self._sections[name] = data
        return data

    def check(self) -> None:
        """Raises Damaged where any section is not as it was written.  The file is not needed after that."""
        for name in self._where:
            self.section(name)
        self._close()

    def _json(self, name: str) -> Any:
        return json.loads(self.section(name))

    def _array(self, name: str, kind: str) -> array[int]:
        return numbers(kind, self.section(name))

    # ------------------------------------------------------------ what is in it

    @cached_property
    def paths(self) -> list[str]:
        """`workflow/step` of every target."""
        text = self.section("paths").decode("ascii")
        return text.split("\n") if text else []

    @cached_property
    def ctimes(self) -> array[int]:
        """When the file of a target's value last changed, in ns; -1: it has none."""
        return self._array("ctimes", "q")

    @cached_property
    def flags(self) -> bytes:
        """GOOD: ended well, its result is kept and in place; SKIPPED; CHECK: time may end it."""
        return self.section("flags")

    @cached_property
    def all_good(self) -> bool:
        good = (GOOD, GOOD | SKIPPED, GOOD | CHECK, GOOD | CHECK | SKIPPED)
        return sum(map(self.flags.count, good)) == len(self.flags)

    @cached_property
    def windows(self) -> dict[int, tuple[int, int]]:
        """Of each target that time may end: from when (ns) and until when its result is taken."""
        if not any(map(self.flags.count, range(CHECK, 2 * CHECK))):
            return {}
        checked = [i for i, flags in enumerate(self.flags) if flags & CHECK]
        begin, end = self._array("begins", "q"), self._array("ends", "q")
        return dict(zip(checked, zip(begin, end, strict=True), strict=True))

    def aged(self, now_ns: int) -> list[int]:
        """Targets whose result time has ended."""
        return [i for i, (begin, end) in self.windows.items() if not begin <= now_ns < end]

    @cached_property
    def fresh(self) -> list[int]:
        """Targets whose file may have changed since with the same ctime."""
        return self._array("fresh", "I").tolist()

    def keep_fresh(self, left: Sequence[int]) -> None:
        """Those of them that still may."""
        self._sections["fresh"] = number_bytes(array("I", left))
        self.fresh = [*left]

    @cached_property
    def documents(self) -> list[Document]:
        found: list[Document] = self._json("documents")
        return found

    @cached_property
    def producers(self) -> tuple[array[int], array[int]]:
        """Where the producers of a target begin (one more than there are targets), and all of them."""
        return self._array("starts", "I"), self._array("producers", "I")

    @cached_property
    def consumers(self) -> tuple[array[int], array[int]]:
        """As `producers`, the other way."""
        return turned(*self.producers)

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """Input file -> targets that read it."""
        found: dict[str, list[int]] = self._json("readers")
        return found

    @cached_property
    def prompts(self) -> dict[str, list[int]]:
        """Prompt file -> documents that hold its text."""
        found: dict[str, list[int]] = self._json("prompts")
        return found

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Declared output -> the target that writes it."""
        found: dict[str, str] = self._json("outputs")
        return found

    @cached_property
    def words(self) -> dict[str, list[list[str]]]:
        """Folder -> plain words of commands that would name a file in it, and those that do."""
        found: dict[str, list[list[str]]] = self._json("words")
        return found

    @cached_property
    def blobs(self) -> tuple[list[str], array[int]]:
        """Paths of the blobs of all results below the CAS, and their ctimes."""
        text = self.section("blobs").decode("ascii")
        return (text.split("\n") if text else []), self._array("blob_ctimes", "q")

    @cached_property
    def index(self) -> dict[str, int]:
        """Target -> its number."""
        return {path.replace("/", "."): i for i, path in enumerate(self.paths)}

    def target(self, i: int) -> str:
        return self.paths[i].replace("/", ".")

    def key(self, i: int) -> str | None:
        """The action key of a target; None: it was never looked at, or has none."""
        raw = self.section("keys")[i * _KEY : (i + 1) * _KEY]
        return raw.hex() if raw.strip(b"\0") else None

    def value(self, i: int) -> tuple[str, int]:
        """SHA-256 and size of the value of a target that is good and was not skipped."""
        raw = self.section("values")[i * _VALUE : (i + 1) * _VALUE]
        return raw[:32].hex(), int.from_bytes(raw[32:], "little")


def marked(sha256: str, executable: bool) -> str:
    """The content of a file that steps see: its SHA-256, and whether it may be executed."""
    return sha256 + (EXECUTABLE if executable else PLAIN)


def pack_key(key: str | None) -> bytes:
    return binascii.a2b_hex(key) if key else bytes(_KEY)


def pack_value(digest: tuple[str, int] | None) -> bytes:
    return binascii.a2b_hex(digest[0]) + digest[1].to_bytes(8, "little") if digest else bytes(_VALUE)


def numbers(kind: str, data: bytes) -> array[int]:
    found = array(kind)
    if len(data) % found.itemsize:
        raise Damaged(kind)
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def number_bytes(found: array[int]) -> bytes:
    if sys.byteorder == "big":
        found = array(found.typecode, found)
        found.byteswap()
    return found.tobytes()


def turned(starts: array[int], ends: array[int]) -> tuple[array[int], array[int]]:
    """The lists of a graph for its edges turned round."""
    count = len(starts) - 1
    sizes = [0] * (count + 1)
    for end in ends:
        sizes[end + 1] += 1
    found = array("I", accumulate(sizes))
    place = found.tolist()
    other = array("I", bytes(4 * len(ends)))
    for i in range(count):
        for end in ends[starts[i] : starts[i + 1]]:
            other[place[end]] = i
            place[end] += 1
    return found, other


def closure(starts: array[int], ends: array[int], roots: Sequence[int]) -> set[int]:
    """Everything that a walk from the roots comes to, the roots with it."""
    found = set(roots)
    stack = list(found)
    while stack:
        i = stack.pop()
        for other in ends[starts[i] : starts[i + 1]]:
            if other not in found:
                found.add(other)
                stack.append(other)
    return found
