"""The folder of a store as a whole: its marker, and how it is begun and removed.

Owns `VERSION`.  Not: what is in the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from llmc_build.errors import StoreError, UsageError
from llmc_build.store import files
from llmc_build.store.cas import LEFTOVER_AGE_S

VERSION = b"llmc-store/1\n"

# What a store is made of, and what names are in a folder of it: None for a file, which is empty.
# The marker goes last: what was not removed whole can be removed again.
_CONTENTS = {
    "cas": "[0-9a-f]{2}",
    "tmp": r"\.llmc-.*",
    "quarantine": r".+\.\d+-[0-9a-f]{8}-\d+",
    "snapshots": r"[0-9a-f]{64}|\.llmc-.*",
    "inference": "[0-9a-f]{64}",
    "index": r"cache\.db.*",
    "index.lock": None,
    "uses": r"\.llmc-.*",
    "gc.lock": None,
    "lock": None,
    "VERSION": None,
}


class OtherVersionError(Exception):
    """The folder holds a store of a format that this program does not know."""


def prepare(root: Path) -> None:
    """Make the folder and its marker.

    Raises OSError, OtherVersionError, or UsageError for a folder that is somebody else's.
    """
    if not root.is_dir():
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    marker = root / "VERSION"
    found = files.read_regular(marker, 64)
    if found is None or not found:
        _refuse_others(root)
        files.write_atomic(marker, VERSION, durable=True)
    elif found != VERSION:
        raise OtherVersionError(
            f"{root} holds a store of another version, {found.decode('ascii', 'replace').strip()!r}"
        )


def _refuse_others(root: Path) -> None:
    """Whoever removes the store may not remove what was there before it: see `expunge`."""
    for name, inside in _CONTENTS.items():
        path = root / name
        if name == "VERSION" or not os.path.lexists(path):
            continue
        if inside is None:
            strange = path.is_symlink() or not path.is_file() or path.stat().st_size
        else:
            strange = path.is_symlink() or not path.is_dir() or _stranger(path, inside)
        if strange:
            raise UsageError(
                f"{root} is no store of llmc, and holds {name}, which is somebody else's",
                hint="let cache_dir name a folder that is empty, or not there yet",
            )


def _stranger(folder: Path, ours: str) -> bool:
    return any(re.fullmatch(ours, entry.name) is None for entry in files.entries(os.fspath(folder)))


def is_store(root: Path) -> bool:
    """Whether a folder is marked as a store, of whatever version."""
    return (files.read_regular(root / "VERSION", 64) or b"").startswith(b"llmc-store/")


def expunge(cache_dir: Path) -> bool:
    """Remove a store, and its folder where nothing else is in it; False where there is none.

    Raises StoreError for a folder that is no store, OSError where something can't be removed.
    """
    root = Path(os.path.abspath(cache_dir))
    if not root.exists():
        return False
    if not is_store(root):
        raise StoreError(f"{root} does not look like a store of llmc; nothing was removed")
    with files.open_folder(root) as folder:
        for name in _CONTENTS:
            files.remove_tree(folder, name)
    if not root.is_symlink():
        with contextlib.suppress(OSError):
            root.rmdir()
    return True


def spill_folder() -> Path:
    """A name for the throwaway folder, which is made when something has to go there."""
    base = os.environ.get("TMPDIR") or "/tmp"
    return Path(os.path.abspath(base)) / f"llmc-spill-{os.getpid()}-{os.urandom(8).hex()}"


def sweep_spills(base: Path) -> None:
    """Removes the throwaway folders of builds that were killed; those of other users stay."""
    oldest = time.time() - LEFTOVER_AGE_S
    for entry in files.entries(os.fspath(base)):
        found = re.fullmatch(r"llmc-spill-(\d{1,10})-[0-9a-f]{16}", entry.name)
        if found is None or files.alive(int(found[1])):
            continue
        with contextlib.suppress(OSError):
            seen = entry.stat(follow_symlinks=False)
            if seen.st_uid == os.geteuid() and seen.st_mtime < oldest:
                with files.open_folder(base) as folder:
                    files.remove_tree(folder, entry.name)
