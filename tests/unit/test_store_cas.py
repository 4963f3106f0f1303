"""Blobs: what was put is got, and nothing that is not exactly that is ever given out."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from llmc_build.model import Digest
from llmc_build.store import files
from llmc_build.store.cas import LEFTOVER_AGE_S, Cas, digest_of

DATA = b"some content\n" * 1000
DIGEST = digest_of(DATA)


@pytest.fixture
def cas(tmp_path: Path) -> Cas:
    return Cas(tmp_path / "store")


def quarantined(cas: Cas) -> list[str]:
    folder = cas.root / "quarantine"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def fresh(cas: Cas) -> Cas:
    """As another process sees the same store."""
    return Cas(cas.root)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize(
    "data", [b"", b"x", DATA, os.urandom(3_000_000)], ids=["empty", "byte", "text", "large"]
)
def test_bytes_come_back(cas: Cas, tmp_path: Path, data: bytes) -> None:
    digest = cas.put_bytes(data)
    assert digest == Digest(hash=hashlib.sha256(data).hexdigest(), size=len(data))
    assert cas.has(digest)
    assert fresh(cas).verify(digest)
    assert fresh(cas).read(digest) == data
    assert fresh(cas).place(digest, tmp_path / "a" / "b" / "out")
    assert (tmp_path / "a" / "b" / "out").read_bytes() == data
    assert cas.path(digest) == cas.root / "cas" / digest.hash[:2] / digest.hash


def test_opening_a_store_writes_nothing(tmp_path: Path) -> None:
    cas = Cas(tmp_path / "store")
    assert not cas.has(DIGEST)
    assert cas.read(DIGEST) is None
    assert not cas.place(DIGEST, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_modes_are_as_specified(cas: Cas) -> None:
    path = cas.path(cas.put_bytes(DATA))
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    for folder in (cas.root, cas.root / "cas", path.parent, cas.root / "tmp"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_blob_that_is_there_is_not_written_again(cas: Cas) -> None:
    path = cas.path(cas.put_bytes(DATA))
    before = files.stamp(path.stat())
    cas.put_bytes(DATA)
    fresh(cas).put_bytes(DATA)
    assert files.stamp(path.stat()) == before


@pytest.mark.parametrize("consume", [True, False])
def test_a_file_is_put(cas: Cas, tmp_path: Path, consume: bool) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    assert cas.put_file(source, consume=consume) == DIGEST
    assert source.exists() is not consume
    assert fresh(cas).read(DIGEST) == DATA
    if not consume:
        source.write_bytes(b"changed")
        assert fresh(cas).read(DIGEST) == DATA
    assert list(cas.root.glob("tmp/*")) == []


def test_consuming_moves_the_file_itself(cas: Cas, tmp_path: Path) -> None:
    """A large output is not copied."""
    source = tmp_path / "source"
    source.write_bytes(DATA)
    inode = source.stat().st_ino
    assert cas.path(cas.put_file(source, consume=True)).stat().st_ino == inode


def test_a_file_with_another_name_is_copied_not_moved(cas: Cas, tmp_path: Path) -> None:
    """Through the other name the blob could be written to."""
    source, other = tmp_path / "source", tmp_path / "other"
    source.write_bytes(DATA)
    os.link(source, other)
    digest = cas.put_file(source, consume=True)
    other.write_bytes(b"changed")
    assert fresh(cas).read(digest) == DATA
    assert not source.exists()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda p: os.symlink("/etc/hostname", p)])
def test_only_plain_files_are_put(cas: Cas, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "source")
    with pytest.raises(OSError):
        cas.put_file(tmp_path / "source", consume=True)
    assert os.path.lexists(tmp_path / "source")


def test_consuming_a_known_content_removes_the_file(cas: Cas, tmp_path: Path) -> None:
    cas.put_bytes(DATA)
    (tmp_path / "source").write_bytes(DATA)
    cas.put_file(tmp_path / "source", consume=True)
    assert not (tmp_path / "source").exists()


def test_an_impossible_hash_is_refused(cas: Cas) -> None:
    """A hash becomes a path."""
    bad = Digest(hash="../" * 21 + "x", size=1)
    for use in (cas.has, cas.read, cas.path, cas.verify):
        with pytest.raises(ValueError):
            use(bad)


# ---------------------------------------------------------------- damage


def cut(path: Path) -> None:
    os.truncate(path, 100)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(bytes(data))


def swap(path: Path) -> None:
    path.write_bytes(b"X" * len(DATA))


def link(path: Path) -> None:
    """The right bytes, but behind a symlink."""
    elsewhere = path.parent.parent.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [cut, empty, grow, flip, swap, link, fifo, folder]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("use", ["read", "verify", "place", "find"])
@pytest.mark.timeout(20)
def test_a_damaged_blob_is_a_miss_and_set_aside(
    cas: Cas, tmp_path: Path, damage: Callable[[Path], None], use: str
) -> None:
    cas.put_bytes(DATA)
    damage(cas.path(DIGEST))
    dest = tmp_path / "dest"
    dest.write_text("as it was")
    if use == "read":
        assert cas.read(DIGEST) is None
    elif use == "place":
        assert not cas.place(DIGEST, dest)
    else:
        assert not getattr(cas, use)(DIGEST)
    assert dest.read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".llmc")) == []
    assert not os.path.lexists(cas.path(DIGEST))
    assert [name.partition(".")[0] for name in quarantined(cas)] == [DIGEST.hash]
    cas.put_bytes(DATA)
    assert cas.read(DIGEST) == DATA


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("put", ["bytes", "file", "consume"])
@pytest.mark.timeout(20)
def test_putting_repairs_a_damaged_blob(
    cas: Cas, tmp_path: Path, damage: Callable[[Path], None], put: str
) -> None:
    """Else a step that made the right bytes would be told, right after, that they are wrong."""
    cas.put_bytes(DATA)
    damage(cas.path(DIGEST))
    other = fresh(cas)
    if put == "bytes":
        other.put_bytes(DATA)
    else:
        (tmp_path / "source").write_bytes(DATA)
        other.put_file(tmp_path / "source", consume=put == "consume")
    assert other.read(DIGEST) == fresh(cas).read(DIGEST) == DATA


def test_damage_after_a_verification_is_seen(cas: Cas) -> None:
    """What was verified is remembered by the file's status, not for ever."""
    cas.put_bytes(DATA)
    assert cas.verify(DIGEST)
    flip(cas.path(DIGEST))
    assert not cas.verify(DIGEST)


def test_a_flip_that_the_status_does_not_show_is_caught_when_read(cas: Cas, tmp_path: Path) -> None:
    """Reading and placing hash the bytes themselves, whatever is remembered."""
    cas.put_bytes(DATA)
    path = cas.path(DIGEST)
    flip(path)
    cas._known[DIGEST.hash] = files.stamp(path.stat())
    assert cas.verify(DIGEST)
    assert not cas.place(DIGEST, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cas", "shard", "tmp", "quarantine"])
def test_a_symlink_in_place_of_a_store_folder_is_not_followed(cas: Cas, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    cas.root.mkdir(mode=0o700)
    place = cas.root / name
    if name == "shard":
        (cas.root / "cas").mkdir()
        place = cas.root / "cas" / DIGEST.hash[:2]
    place.symlink_to(outside)
    cas.put_bytes(DATA)
    assert cas.read(DIGEST) == DATA
    cut(cas.path(DIGEST))
    assert cas.read(DIGEST) is None
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["cas", "shard", "tmp", "quarantine"])
def test_a_folder_that_another_process_makes_just_then_keeps_what_it_holds(
    cas: Cas, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Two processes begin a store at once: one finds no folder, and before it makes one the other has used it."""
    other = fresh(cas)
    folder = str(cas.path(DIGEST).parent) if name == "shard" else str(cas.root / name)
    look = files.is_real_folder

    def overtaken(path: str) -> bool:
        found = look(path)
        if path == folder and not found:
            monkeypatch.undo()
            other.put_bytes(DATA)
            other.quarantine.keep("something", b"wrong")
        return found

    monkeypatch.setattr(files, "is_real_folder", overtaken)
    if name == "quarantine":
        cas.quarantine.keep("something", b"wrong")
        assert quarantined(cas)[1:] != []
    else:
        cas.put_bytes(DATA if name == "shard" else DATA[::-1])
        assert [entry.partition(".")[0] for entry in quarantined(cas)] == ["something"]
    assert cas.read(DIGEST) == DATA
    assert files.is_real_folder is look


def test_what_can_not_be_read_is_absent_and_stays(
    cas: Cas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may answer again; where it never does, the content is written once more."""

    def fails(fd: int) -> NoReturn:
        raise files.ReadError(errno.EIO, "Input/output error")

    cas.put_bytes(DATA)
    other = fresh(cas)
    chunks = files.chunks
    monkeypatch.setattr(files, "chunks", fails)
    assert other.read(DIGEST) is None
    assert not other.verify(DIGEST)
    assert not other.place(DIGEST, tmp_path / "out")
    assert quarantined(cas) == []
    before = cas.path(DIGEST).stat().st_ino
    other.put_bytes(DATA)
    assert cas.path(DIGEST).stat().st_ino != before
    monkeypatch.setattr(files, "chunks", chunks)
    assert fresh(cas).read(DIGEST) == DATA


def test_quarantine_gives_back_what_another_process_repaired(cas: Cas) -> None:
    """We judge a file, another process puts a right one in its place, and only then do we move it."""
    cas.put_bytes(DATA)
    path = cas.path(DIGEST)
    judged = path.stat().st_ino
    path.rename(path.with_name("kept"))  # keeps the inode in use
    fresh(cas).put_bytes(DATA)
    cas._set_aside(str(path), DIGEST.hash, judged)
    assert cas.read(DIGEST) == DATA
    assert quarantined(cas) == []


# ---------------------------------------------------------------- placing


@pytest.mark.parametrize(("executable", "mode"), [(False, 0o644), (True, 0o755)])
def test_placed_files_have_their_mode(cas: Cas, tmp_path: Path, executable: bool, mode: int) -> None:
    cas.put_bytes(DATA)
    assert cas.place(DIGEST, tmp_path / "out", executable=executable)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode


def test_a_symlink_at_the_destination_is_replaced(cas: Cas, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out").symlink_to(victim)
    cas.put_bytes(DATA)
    assert cas.place(DIGEST, tmp_path / "out")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").read_bytes() == DATA


def test_a_placed_file_is_a_copy(cas: Cas, tmp_path: Path) -> None:
    cas.put_bytes(DATA)
    cas.place(DIGEST, tmp_path / "out")
    with (tmp_path / "out").open("r+b") as file:
        file.write(b"changed")
    assert fresh(cas).read(DIGEST) == DATA


def test_a_folder_at_the_destination_is_an_error(cas: Cas, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    cas.put_bytes(DATA)
    with pytest.raises(OSError):
        cas.place(DIGEST, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_new_folders_are_as_open_as_the_one_they_are_in(cas: Cas, tmp_path: Path) -> None:
    """Below `.llmc`, 0700; in the workspace, as the workspace is."""
    cas.put_bytes(DATA)
    for mode in (0o700, 0o755):
        top = tmp_path / oct(mode)
        top.mkdir()
        top.chmod(mode)
        cas.place(DIGEST, top / "a" / "b" / "out")
        assert (
            stat.S_IMODE((top / "a").stat().st_mode) == stat.S_IMODE((top / "a" / "b").stat().st_mode) == mode
        )


# ---------------------------------------------------------------- leftovers, spilling, starting


def test_only_old_files_of_dead_processes_are_swept(cas: Cas) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    tmp = cas.root / "tmp"
    tmp.mkdir(parents=True)
    names = {
        "old and dead": f".llmc-{dead.pid}-00000000-0",
        "young and dead": f".llmc-{dead.pid}-00000000-1",
        "old and alive": f".llmc-{os.getpid()}-00000000-2",
        "not ours": "notes.txt",
    }
    for what, name in names.items():
        (tmp / name).write_bytes(b"half")
        if not what.startswith("young"):
            then = time.time() - LEFTOVER_AGE_S - 60
            os.utime(tmp / name, (then, then))
    fresh(cas)
    assert {path.name for path in tmp.iterdir()} == set(names.values()) - {names["old and dead"]}


def test_what_can_not_be_written_goes_to_the_spill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the place of the store's folder: nothing can be written there."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "cas").mkdir()
    cas = Cas(tmp_path / "store", spill=tmp_path / "spill")
    stored = cas.put_bytes(b"before")

    def full(self: Cas, fd: int, temp: str, digest: Digest) -> None:
        if self.root == tmp_path / "store":
            raise OSError(28, "No space left on device")
        real(self, fd, temp, digest)

    real = Cas._adopt
    monkeypatch.setattr(Cas, "_adopt", full)
    digest = cas.put_bytes(DATA)
    (tmp_path / "source").write_bytes(b"a file")
    other = cas.put_file(tmp_path / "source", consume=True)
    seen = Cas(tmp_path / "store", spill=tmp_path / "spill")
    assert seen.read(digest) == DATA
    assert seen.read(other) == b"a file"
    assert seen.has(digest)
    assert not seen.owns(digest)
    assert seen.owns(stored)
    assert seen.place(digest, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == DATA
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_without_a_spill_the_error_is_raised_and_nothing_is_left(
    cas: Cas, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space"):
        cas.put_bytes(DATA)
    assert not cas.has(DIGEST)
    assert [path for path in cas.root.rglob("*") if path.is_file()] == []


def test_a_store_deleted_under_us_is_made_again(cas: Cas) -> None:
    import shutil

    cas.put_bytes(DATA)
    shutil.rmtree(cas.root)
    assert not cas.has(DIGEST)
    assert cas.put_bytes(DATA) == DIGEST
    assert cas.read(DIGEST) == DATA


def test_workers_import_the_store_cheaply() -> None:
    """Each worker pays for the import of `cas` before it can run a step."""
    code = "import sys, llmc_build.store.cas; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    for slow in ("diskcache", "sqlite3", "json", "networkx", "pickle", "shutil", "asyncio"):
        assert f"'{slow}'" not in done.stdout
