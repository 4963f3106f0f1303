"""The order of writes: a name is seen only when its bytes are on the disk, and told of only when it is itself.

The power cuts of tests/faults show the same with real disks, in some images of many; here every sync counts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmc_build.store import files, index
from llmc_build.store.cas import Cas, digest_of
from llmc_build.store.index import DiskIndex, IndexUnavailableError

DATA = b"some content\n" * 1000
DIGEST = digest_of(DATA)
KEY = "ab" * 32


class Disk:
    """What is synced, and what gets a name, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, str]] = []
        sync, rename = files.sync, os.rename

        def synced(fd: int) -> None:
            self.done.append(("sync", os.readlink(f"/proc/self/fd/{fd}")))
            sync(fd)

        def renamed(source: Any, dest: Any, **more: Any) -> None:
            self.done.append(("rename", os.fspath(dest)))
            rename(source, dest, **more)

        monkeypatch.setattr(files, "sync", synced)
        monkeypatch.setattr(os, "rename", renamed)

    def before(self, name: str) -> list[str]:
        """What was synced before a file got this name."""
        return [path for what, path in self.done[: self._named(name)] if what == "sync"]

    def behind(self, name: str) -> list[str]:
        return [path for what, path in self.done[self._named(name) :] if what == "sync"]

    def _named(self, name: str) -> int:
        return next(at for at, one in enumerate(self.done) if one[0] == "rename" and one[1].endswith(name))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    return Disk(monkeypatch)


def _bytes(cas: Cas, folder: Path) -> None:
    cas.put_bytes(DATA)


def _file(cas: Cas, folder: Path) -> None:
    (folder / "file").write_bytes(DATA)
    cas.put_file(folder / "file", consume=False)


def _own_file(cas: Cas, folder: Path) -> None:
    (folder / "file").write_bytes(DATA)
    cas.put_file(folder / "file", consume=True)


@pytest.mark.parametrize("put", [_bytes, _file, _own_file])
def test_a_blob_is_synced_before_it_has_its_name_and_its_folder_after_it(
    tmp_path: Path, disk: Disk, put: Callable[[Cas, Path], None]
) -> None:
    cas = Cas(tmp_path / "store")
    put(cas, tmp_path)
    shard = str(cas.path(DIGEST).parent)
    assert any(path.startswith((f"{cas.root}/tmp/", f"{tmp_path}/file")) for path in disk.before(DIGEST.hash))
    assert disk.behind(DIGEST.hash) == [shard]
    # The folders themselves are as durable as what they hold.
    assert {str(tmp_path), str(cas.root), f"{cas.root}/cas"} <= set(disk.before(DIGEST.hash))


def test_a_blob_of_another_process_is_relied_on_only_when_its_name_is_durable(
    tmp_path: Path, disk: Disk
) -> None:
    """That process may not have come to its sync yet, and the machine may stop before it does."""
    Cas(tmp_path / "store").put_bytes(DATA)
    disk.done.clear()
    cas = Cas(tmp_path / "store")
    cas.put_bytes(DATA)
    assert disk.done == [("sync", str(cas.path(DIGEST).parent))]


def test_a_blob_whose_folder_can_not_be_synced_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name might be gone after a power cut, while a record that needs it stayed."""
    cas = Cas(tmp_path / "store")
    cas.put_bytes(b"another")  # makes the folders
    shard = cas.path(DIGEST).parent
    shard.mkdir(exist_ok=True)

    def fails(path: str | Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_folder", fails)
        with pytest.raises(OSError, match="Input/output"):
            cas.put_bytes(DATA)
    assert not cas.has(DIGEST)
    assert not Cas(cas.root).has(DIGEST)


def test_a_file_that_changes_while_it_is_taken_over_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What still writes to it would change a blob that was found right."""
    cas = Cas(tmp_path / "store")
    source = tmp_path / "file"
    source.write_bytes(DATA)
    digest_fd = files.digest_fd

    def written_meanwhile(fd: int) -> Any:
        found = digest_fd(fd)
        with source.open("ab") as file:
            file.write(b"more")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(files, "digest_fd", written_meanwhile)
        digest = cas.put_file(source, consume=True)
    assert digest == digest_of(DATA + b"more")
    assert Cas(cas.root).read(digest) == DATA + b"more"
    assert not cas.has(DIGEST)


def test_a_blob_of_another_size_is_absent_unread(tmp_path: Path) -> None:
    cas = Cas(tmp_path / "store")
    cas.put_bytes(DATA)
    path = cas.path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(DATA[:-1])
    assert not Cas(cas.root).has(DIGEST)
    assert not Cas(cas.root).owns(DIGEST)


@pytest.mark.parametrize("name", ["file.json", "a/b"])
def test_a_durable_file_is_synced_before_it_has_its_name_and_its_folder_after_it(
    tmp_path: Path, disk: Disk, name: str
) -> None:
    files.write_atomic(tmp_path / name, b"text", durable=True)
    folder = str((tmp_path / name).parent)
    last = name.rpartition("/")[2]
    assert [os.path.dirname(path) for path in disk.before(last)] == [folder]
    assert disk.behind(last) == [folder]
    disk.done.clear()
    files.write_atomic(tmp_path / name, b"text")
    assert [what for what, _ in disk.done] == ["rename"], "the control: without `durable` nothing is"


# ---------------------------------------------------------------- the index


def test_a_new_index_is_whole_on_the_disk_before_it_is_seen(tmp_path: Path, disk: Disk) -> None:
    root = tmp_path / "store"
    DiskIndex(root).put_many([(KEY, b"value")])
    before = [os.path.basename(path) for path in disk.before("index")]
    assert "cache.db" in before
    assert any(name.startswith(".llmc-") for name in before), "the folder that it was made in"
    assert str(root) in disk.behind("index")


def test_what_was_committed_to_an_index_that_went_meanwhile_is_committed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process sets it aside between the transaction and its end: a commit that returned is there."""
    writer, other = DiskIndex(tmp_path), DiskIndex(tmp_path)
    writer.put_many([("cd" * 32, b"old")])
    transact, times = DiskIndex._transact, []

    def then_replaced(self: DiskIndex, use: Callable[[Any], None]) -> None:
        transact(self, use)
        if self is writer and not times:
            times.append(1)
            os.rename(tmp_path / "index", tmp_path / "away")
            other.put_many([("ef" * 32, b"other")])

    monkeypatch.setattr(DiskIndex, "_transact", then_replaced)
    writer.put_many([(KEY, b"value")])
    assert DiskIndex(tmp_path).get(KEY) == b"value"


def test_an_index_that_another_process_has_put_right_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have found the same damage; the second comes when a right one is there, with results in it."""
    damaged = DiskIndex(tmp_path)
    damaged.put_many([(KEY, b"value")])
    damaged.close()
    (tmp_path / "index" / "cache.db").write_bytes(b"no database" * 500)
    locked = index._locked

    @contextlib.contextmanager
    def after_another(path: Path) -> Iterator[None]:
        monkeypatch.setattr(index, "_locked", locked)
        other = DiskIndex(tmp_path)
        other.put_many([("cd" * 32, b"new")])
        other.close()
        with locked(path):
            yield

    monkeypatch.setattr(index, "_locked", after_another)
    slow = DiskIndex(tmp_path)
    with contextlib.suppress(IndexUnavailableError):
        slow.get(KEY)
    slow.close()
    assert DiskIndex(tmp_path).get("cd" * 32) == b"new"
    assert len(list(tmp_path.glob("quarantine/index.*"))) == 1, "the damaged one alone"
