"""A snapshot held against the world: what of it no longer holds. World; imports little, so that it is fast.

Theory of operation. Everything that a target's result depends on has a stamp in the snapshot: workflow
files, inputs, prompt files, models, the folders in which globs looked, variables of the environment, the
configuration, llmc itself, the files in which values lie, blobs and index of the store. What has its old
stamp is as it was; what has another one, or a fresh one, is hashed, and known by that stamp from then on
(`seen`). A survey says what is found changed, in terms of targets where it can. Where something changed whose
reach is not known target by target (`whole`), everything has to be looked at.

A survey never says more than the long way would find, and changes nothing but stamps that the snapshot has in
memory.
"""

from __future__ import annotations

import os
import stat
import sys
import time
import zlib
from collections.abc import Collection, Mapping, Sequence

from llmc_build.snapshot.form import EXECUTABLE, GOOD, PLAIN, SENSELESS, Snapshot, Watched, marked
from llmc_build.snapshot.seen import Seen
from llmc_build.snapshot.stamps import boot, is_fresh, look, moved, read_plain, stamp_of

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONSULTED = ("OPENAI_BASE_URL", "OPENAI_MODEL", "LLMC_SUBPROCESS")  # besides what steps declare
_SECTIONS = ("paths", "ctimes", "flags", "fresh", "blobs", "blob_ctimes")
_LARGE = 1 << 20


class Survey:
    """What is no longer as the snapshot says."""

    __slots__ = (
        *("aged", "changed", "files", "list_changed", "moved"),
        *("seen", "snapshot", "store_changed", "texts", "whole"),
    )

    def __init__(self, snapshot: Snapshot, seen: Seen) -> None:
        self.snapshot, self.seen = snapshot, seen
        self.whole: str | None = None  # why everything has to be looked at
        self.files: list[int] = []  # workflow files with another text
        self.texts: dict[int, bytes] = {}  # those texts
        self.changed: list[str] = []  # other files with another content
        self.moved: list[int] = []  # targets whose value is not in place
        self.aged: list[int] = []  # targets whose result time has ended, or may have
        self.list_changed = False  # of the outputs that were placed: it may have to be written again
        self.store_changed = False  # records and blobs have to be looked for

    def is_settled(self, wanted: Collection[int] | None) -> bool:
        """Whether every target asked for (None: all) ended well, and its value is in place."""
        if wanted is None:
            return self.snapshot.all_good and not self.moved and not self.aged
        flags = self.snapshot.flags
        return all(flags[i] & GOOD for i in wanted) and not any(
            i in wanted for i in (*self.moved, *self.aged)
        )


def snapshot_path(workspace: str, files: Sequence[str]) -> str:
    """Where the snapshot of a build of these files is; the paths are absolute."""
    name = zlib.crc32("\0".join(files).encode("utf-8", "surrogateescape"))
    return f"{workspace}/.llmc/state/snapshot-{name:08x}"


def seen_path(workspace: str, files: Sequence[str]) -> str:
    """Where lies what was `Seen` since that snapshot."""
    folder, _, name = snapshot_path(workspace, files).rpartition("/")
    return f"{folder}/seen-{name}"


def who() -> list[object]:
    """What llmc is here, for another one might read the same files differently; and how long stamps hold."""
    from llmc_build import __version__

    found: list[object] = [__version__, sys.version, sys.platform, os.uname().machine, boot()]
    with os.scandir(PACKAGE) as entries:
        folders = [PACKAGE, *(e.path for e in entries if e.name[0] != "_" and e.is_dir())]
    for folder in sorted(folders):
        stamp = look(folder)
        found.append([folder, stamp[3] if stamp else 0])
    return found


def packages() -> list[tuple[str, int]]:
    """The folders in which packages are found, with their mtimes: installing something changes one."""
    here = os.getcwd()
    found = []
    for folder in dict.fromkeys(sys.path):
        stamp = look(folder) if folder and folder != here else None
        if stamp is not None:
            found.append((folder, stamp[3]))
    return found


def take_survey(
    snapshot: Snapshot,
    *,
    workspace: str,
    files: Sequence[str],
    config: str | None,
    cache_dir: str | None,
    environ: Mapping[str, str],
) -> Survey:
    """`config`: llmc.yaml, where there is one; `cache_dir` None: as the configuration has it."""
    found = Survey(snapshot, Seen(seen_path(workspace, files)))
    try:
        _survey(found, workspace, list(files), config, cache_dir, environ)
    except SENSELESS as error:
        found.whole = f"the state is damaged: {error}"
    return found


def _survey(
    found: Survey,
    workspace: str,
    files: list[str],
    config: str | None,
    cache_dir: str | None,
    environ: Mapping[str, str],
) -> None:
    snapshot, facts = found.snapshot, found.snapshot.facts
    if facts["workspace"] != workspace or [entry[0] for entry in facts["files"]] != files:
        found.whole = "other files were built"
    elif facts["who"] != who():
        found.whole = "llmc or Python changed, or the machine was started again"
    elif not _same_config(found, config) or (cache_dir or facts["own_cache_dir"]) != facts["cache_dir"]:
        found.whole = "the configuration changed"
    elif any(hashed(environ.get(name)) != value for name, value in facts["environ"].items()):
        found.whole = "the environment changed"
    elif facts["python"] and [tuple(entry) for entry in facts["python"]] != packages():
        found.whole = "packages were installed or removed"
    elif any(not _same_folder(snapshot, path, stamp) for path, stamp in facts["folders"]):
        found.whole = "files came or went where inputs are looked for"
    if found.whole:
        return
    for name in _SECTIONS:
        snapshot.section(name)
    for number, entry in enumerate(facts["files"]):
        data = _changed_text(entry, found.seen)
        if isinstance(data, bytes):
            found.files.append(number)
            found.texts[number] = data
        else:
            facts["files"][number] = data
    for number, entry in enumerate(facts["watched"]):
        now = renewed(entry, found.seen)
        if now is None:
            found.changed.append(entry[0])
        elif now is not entry:
            facts["watched"][number] = now
    found.store_changed = not _same_store(snapshot)
    found.list_changed = facts["placed"] not in (None, placed_stamp(workspace))
    out = f"{workspace}/.llmc/out"
    found.moved = moved(out, snapshot.paths, snapshot.ctimes)
    found.aged = snapshot.aged(time.time_ns())
    if snapshot.fresh:
        _look_at_fresh(found, out)
    if folder_stamp(out) != facts["out"]:
        _look_at_values(found, out)


def same(entry: Watched) -> bool:
    """Whether a watched file holds what it held.  Raises what SENSELESS has for what is no entry."""
    return renewed(entry, None) is not None


def renewed(entry: Watched, seen: Seen | None) -> Watched | None:
    """The entry of a file that holds what it held, with the stamp that it has now; None: that is not so.

    Raises what SENSELESS has for what is no entry.
    """
    path, stamp, known, fresh = entry
    if not isinstance(path, str) or not isinstance(known, str):
        raise TypeError("a path and a hash are texts")
    now = look(path)
    if now is None:
        return entry if known == "" else None
    if not fresh and list(now) == stamp:
        return entry
    # A link to what holds the same is not what was there, perhaps: an output is no link.
    if known == "" or os.path.islink(path):
        return None
    if seen is not None and seen.holds(path, now, known):
        return (path, [*now], known, False)
    began_ns = time.time_ns()
    if content(path, known) != known:
        return None
    if seen is None or look(path) != now or not seen.add(path, now, known, began_ns):
        return entry
    return (path, [*now], known, False)


def content(path: str, like: str) -> str:
    """What a file holds in the form of what is known of it: its SHA-256, marked or not; "": can't be read."""
    found = hash_file(path)
    if found and like.endswith((EXECUTABLE, PLAIN)):
        return marked(found, os.access(path, os.X_OK))
    return found


def _changed_text(entry: Watched, seen: Seen) -> bytes | Watched:
    """The text of a workflow file where it is another one (empty: there is none); else its entry by now."""
    path, stamp, known, fresh = entry
    now = look(path)
    if now is not None and not fresh and list(now) == stamp:
        return entry
    if now is not None and seen.holds(path, now, known):
        return (path, [*now], known, False)
    began_ns = time.time_ns()
    data = read_plain(path)
    if data is None or sha256(data) != known:
        return data or b""
    if now is None or look(path) != now or not seen.add(path, now, known, began_ns):
        return entry
    return (path, [*now], known, False)


def _same_config(found: Survey, config: str | None) -> bool:
    entry = found.snapshot.facts["config"]
    if config is None or entry is None:
        return config is None and entry is None
    now = renewed(entry, found.seen) if entry[0] == config else None
    if now is not None:
        found.snapshot.facts["config"] = now
    return now is not None


def _same_folder(snapshot: Snapshot, path: str, stamp: list[int]) -> bool:
    """Whether the listing of a folder says what it said; of most folders only some names matter."""
    if folder_stamp(path) == stamp:
        return True
    known = snapshot.words.get(path)
    return known is not None and sorted(here(path, known[0])) == known[1]


def folder_stamp(path: str) -> list[int]:
    """What tells that a folder's listing is as it was; empty: there is none.

    Not its mtime alone: unpacking and `touch` set it, and a link may lead to another folder with it.
    """
    return [*(look(path) or ())]


def here(folder: str, names: Sequence[str]) -> set[str]:
    """Those of the names that are files in a folder."""
    try:
        return {
            name for name in set(names).intersection(os.listdir(folder)) if os.path.isfile(f"{folder}/{name}")
        }
    except OSError:
        return set()


def placed_stamp(workspace: str) -> list[int]:
    """Of the list of outputs that were placed; empty: there is none."""
    return [*(look(f"{workspace}/.llmc/placed.json") or ())]


def _same_store(snapshot: Snapshot) -> bool:
    """Whether index and blobs are as they were: nothing that a result is made of can have been lost."""
    for path, stamp in snapshot.facts["store"]:
        now = look(path)
        if (list(now) if now else None) != stamp:
            return False
    paths, ctimes = snapshot.blobs
    return not paths or not moved(snapshot.facts["cache_dir"], paths, ctimes)


def _look_at_fresh(found: Survey, out: str) -> None:
    """Values that may have changed with the same ctime are known by their bytes, and then by their stamps."""
    snapshot, off = found.snapshot, set(found.moved)
    left = []
    for i in snapshot.fresh:
        if i in off or snapshot.ctimes[i] < 0:
            continue  # known to be gone; or there was none, and there is none
        path, (content, size) = f"{out}/{snapshot.paths[i]}", snapshot.value(i)
        began_ns = time.time_ns()
        try:
            now = stamp_of(os.lstat(path))
        except OSError:
            now = None
        if now is not None and found.seen.holds(path, now, content):
            continue
        if now is None or now[2] != size or hash_file(path) != content:
            found.moved.append(i)
        elif not found.seen.add(path, now, content, began_ns):
            left.append(i)
    snapshot.keep_fresh(left)


def _look_at_values(found: Survey, out: str) -> None:
    """Folders of workflows came, went or changed their names: values that two have may have changed places.

    Many are placed within a tick, so that their ctimes, which stay with them, don't tell one from another.
    """
    snapshot, off, began_ns = found.snapshot, {*found.moved, *found.snapshot.fresh}, time.time_ns()
    now, about = look(out), f"{zlib.crc32(snapshot.section('values')):x}"
    if now is None or found.seen.holds(out, now, about):
        return
    lost = [
        i
        for i, ctime in enumerate(snapshot.ctimes)
        if ctime >= 0 and i not in off and not _holds(found, out, i)
    ]
    found.moved += lost
    if not found.moved and look(out) == now:
        found.seen.add(out, now, about, began_ns)


def _holds(found: Survey, out: str, i: int) -> bool:
    content, size = found.snapshot.value(i)
    path = f"{out}/{found.snapshot.paths[i]}"
    try:
        return os.lstat(path).st_size == size and hash_file(path) == content
    except OSError:
        return False


def hashed(value: str | None) -> str | None:
    """A variable's value in a form that gives nothing away."""
    return None if value is None else sha256(value.encode("utf-8", "surrogateescape"))


def hash_file(path: str) -> str:
    """SHA-256 of a plain file; empty where it can't be read."""
    import hashlib

    hasher = hashlib.sha256()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return ""
            while chunk := file.read(_LARGE):
                hasher.update(chunk)
    except OSError:
        return ""
    return hasher.hexdigest()


def watch(path: str, content: str, stamp: Sequence[int] | None, now_ns: int) -> Watched:
    """The entry of a file that had a content when it had a stamp; None: no stamp is known to go with it."""
    if stamp is None:
        return (path, [0] * 5, content, True)
    return (path, list(stamp), content, is_fresh(stamp[3], stamp[4], now_ns))


def sha256(data: bytes) -> str:
    """In hex."""
    import hashlib

    return hashlib.sha256(data).hexdigest()
