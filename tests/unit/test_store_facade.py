"""`Store`: what counts as a hit, and that a build goes on where the disk does not."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmc_build.errors import StoreError, UsageError
from llmc_build.model import ActionResult, Digest, OutputFile
from llmc_build.store import INLINE, Record, Store
from llmc_build.store.cas import Cas, digest_of
from llmc_build.store.index import DiskIndex, IndexUnavailableError
from llmc_build.store.opening import expunge
from llmc_build.store.record import RecordError

LARGE = b"large content\n" * 1000
KEYS = [f"{i:064x}" for i in range(50)]


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def open_store(tmp_path: Path, notes: list[str]) -> Iterator[Callable[[], Store]]:
    made: list[Store] = []

    def make() -> Store:
        made.append(Store.open(tmp_path / "store", notes.append))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()


def record(
    store: Store, key: str = KEYS[0], value: bytes = b"value\n", output: bytes | None = LARGE
) -> Record:
    outputs = ()
    if output is not None:
        outputs = (OutputFile(path="out/large.txt", digest=store.add(output), executable=True),)
    result = ActionResult(value=store.add(value), stderr=store.add(b""), outputs=outputs)
    return Record(key=key, components={"rule": "shell"}, result=result, created=1.0)


# ---------------------------------------------------------------- hits


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_what_was_committed_is_found_with_all_its_contents(
    tmp_path: Path, open_store: Callable[[], Store], kind: str
) -> None:
    store = open_store() if kind == "disk" else Store.memory(tmp_path / "scratch")
    kept = record(store)
    assert store.lookup(kept.key) is None
    store.commit([kept])
    seen = store if kind == "memory" else open_store()
    assert seen.lookup(kept.key) == kept
    assert seen.read(kept.result.value) == b"value\n"
    assert seen.read(kept.result.stderr) == b""
    assert seen.read(kept.result.outputs[0].digest) == LARGE
    for digest, content in ((kept.result.value, b"value\n"), (kept.result.outputs[0].digest, LARGE)):
        assert seen.place(digest, tmp_path / "ws" / "out", executable=True)
        assert (tmp_path / "ws" / "out").read_bytes() == content
        assert stat.S_IMODE((tmp_path / "ws" / "out").stat().st_mode) == 0o755


def test_small_contents_are_in_the_record_and_large_ones_in_the_cas(store: Store) -> None:
    border, above = b"x" * INLINE, b"x" * (INLINE + 1)
    store.commit([record(store, value=border, output=above)])
    assert [size for _, size in store.cas.blobs()] == [INLINE + 1]
    assert store.file(digest_of(border)) is None
    assert store.file(digest_of(above)) == store.cas.path(digest_of(above))


def test_a_small_content_that_a_worker_put_into_the_cas_is_taken_from_there(
    store: Store, open_store: Callable[[], Store]
) -> None:
    digest = Cas(store.cas_root).put_bytes(b"small")
    store.commit([replace(record(store), result=ActionResult(value=digest, stderr=store.add(b"")))])
    shutil.rmtree(store.root / "cas")
    assert open_store().lookup(KEYS[0]) is not None


def test_many_are_looked_up_at_once(store: Store, open_store: Callable[[], Store]) -> None:
    store.commit([record(store, key, value=key.encode()) for key in KEYS[:30]])
    assert sorted(open_store().lookup_many(KEYS)) == KEYS[:30]


@pytest.mark.parametrize("lacks", ["small", "large"])
def test_a_result_whose_content_lacks_is_not_committed(store: Store, lacks: str) -> None:
    missing = digest_of(b"never added" * (1 if lacks == "small" else 1000))
    bad = replace(record(store), result=ActionResult(value=missing, stderr=store.add(b"")))
    with pytest.raises(StoreError, match=missing.hash):
        store.commit([record(store, KEYS[1]), bad])
    assert store.lookup(KEYS[1]) is None


def test_an_output_that_leaves_the_workspace_is_not_committed(store: Store) -> None:
    output = OutputFile(path="../x", digest=store.add(b"x"))
    bad = replace(
        record(store), result=ActionResult(value=store.add(b""), stderr=store.add(b""), outputs=(output,))
    )
    with pytest.raises(RecordError):
        store.commit([bad])


def flip(path: Path) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[77] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: os.truncate(path, 5)])
def test_a_hit_with_a_damaged_blob_is_a_miss(
    store: Store, open_store: Callable[[], Store], damage: Callable[[Path], None]
) -> None:
    """A hit is served only when every byte of it verifies."""
    store.commit([record(store)])
    damage(store.cas.path(digest_of(LARGE)))
    other = open_store()
    assert other.lookup(KEYS[0]) is None
    other.commit([record(other)])
    assert open_store().lookup(KEYS[0]) is not None


def test_without_verifying_only_presence_and_size_count(
    store: Store, open_store: Callable[[], Store]
) -> None:
    store.commit([record(store)])
    flip(store.cas.path(digest_of(LARGE)))
    other = open_store()
    found = other.lookup(KEYS[0], verify=False)
    assert found is not None
    assert not other.verify(found)


def test_a_damaged_record_is_a_miss_dropped_and_set_aside(
    store: Store, open_store: Callable[[], Store]
) -> None:
    store.commit([record(store), record(store, KEYS[1], value=b"other")])
    store.close()
    with sqlite3.connect(store.root / "index" / "cache.db") as db:
        (data,) = db.execute("SELECT value FROM Cache WHERE key = ?", [KEYS[0]]).fetchone()
        db.execute("UPDATE Cache SET value = ? WHERE key = ?", [data.replace(b"shell", b"sHell"), KEYS[0]])
    db.close()
    other = open_store()
    assert sorted(other.lookup_many(KEYS)) == [KEYS[1]]
    assert other.stats()["records"] == 1
    assert other.stats()["quarantined"] == 1


def test_where_there_can_be_no_thread_results_are_kept_all_the_same(
    open_store: Callable[[], Store], no_threads: None, notes: list[str]
) -> None:
    store = open_store()
    store.commit([record(store)])
    store.commit_soon(record(store, KEYS[1], value=b"other"))
    assert store.committing
    assert store.committed() == [KEYS[1]]
    assert not store.committing
    store.close()
    assert sorted(open_store().lookup_many(KEYS)) == sorted(KEYS[:2])
    assert notes == []


def test_where_there_can_be_no_thread_and_nothing_is_written_the_build_goes_on(
    open_store: Callable[[], Store], no_threads: None, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(index: DiskIndex, items: object) -> None:
        raise IndexUnavailableError("the disk is full")

    store = open_store()
    monkeypatch.setattr(DiskIndex, "put_many", fails)
    store.commit([record(store)])
    assert store.lookup(KEYS[0]) is not None
    assert notes == ["the store can't be written (the disk is full): the build goes on uncached"]


def test_a_record_under_a_wrong_key_is_a_miss(store: Store, open_store: Callable[[], Store]) -> None:
    store.commit([record(store)])
    store.close()
    with sqlite3.connect(store.root / "index" / "cache.db") as db:
        db.execute("UPDATE Cache SET key = ?", [KEYS[1]])
    db.close()
    assert open_store().lookup_many(KEYS) == {}


def test_a_forgotten_result_is_a_miss(store: Store, open_store: Callable[[], Store]) -> None:
    store.commit([record(store)])
    store.forget(KEYS[0])
    store.forget(KEYS[1])
    assert open_store().lookup(KEYS[0]) is None


def test_stats_count_what_is_there(store: Store) -> None:
    store.commit([record(store, key) for key in KEYS[:3]])
    assert store.stats() == {"records": 3, "blobs": 1, "bytes": len(LARGE), "quarantined": 0}


# ---------------------------------------------------------------- going on without a disk


def assert_goes_on(store: Store, tmp_path: Path) -> None:
    """Everything a build needs works; nothing of it outlives the store."""
    kept = record(store, value=b"v" * 10_000)
    store.commit([kept])
    store.commit([record(store, KEYS[1])])
    assert store.lookup(KEYS[0]) == kept
    assert store.read(kept.result.value) == b"v" * 10_000
    assert store.place(kept.result.outputs[0].digest, tmp_path / "placed")
    by_worker = Cas(store.cas_root, spill=store.spill).put_bytes(b"w" * 9_000)
    assert store.has(by_worker)
    assert store.read(by_worker) == b"w" * 9_000
    assert store.file(by_worker) is not None
    store.forget(KEYS[0])
    assert store.lookup(KEYS[0]) is None
    assert store.spill is not None
    store.close()
    assert not store.spill.exists()


def test_a_folder_that_can_not_be_made(tmp_path: Path, notes: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_goes_on(Store.open(tmp_path / "file" / "store", notes.append), tmp_path)
    assert len(notes) == 1
    assert "the build goes on uncached" in notes[0]


def test_a_store_of_another_version_is_left_alone(tmp_path: Path, notes: list[str]) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "VERSION").write_text("llmc-store/2\n")
    assert_goes_on(Store.open(tmp_path / "store", notes.append), tmp_path)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["VERSION"]
    assert len(notes) == 1
    assert "llmc-store/2" in notes[0]


def test_an_index_that_can_not_be_written(
    tmp_path: Path, store: Store, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit([record(store, KEYS[5])])

    def full(index: DiskIndex, items: object) -> None:
        raise IndexUnavailableError("database or disk is full")

    monkeypatch.setattr(DiskIndex, "put_many", full)
    assert store.lookup(KEYS[5]) is not None
    assert_goes_on(store, tmp_path)
    assert notes == ["the store can't be written (database or disk is full): the build goes on uncached"]


def test_a_cas_that_can_not_be_written(
    tmp_path: Path, store: Store, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit([record(store, KEYS[5], output=None)])

    def full(self: Cas, fd: int, temp: str, digest: Digest) -> None:
        if self.root == store.root:
            raise OSError(28, "No space left on device")
        real(self, fd, temp, digest)

    real = Cas._adopt
    monkeypatch.setattr(Cas, "_adopt", full)
    assert_goes_on(store, tmp_path)
    assert len(notes) == 1
    monkeypatch.undo()
    again = Store.open(tmp_path / "store", notes.append)
    assert sorted(again.lookup_many(KEYS)) == [KEYS[5]], "no record may name a blob that was thrown away"
    again.close()


def test_no_cache_leaves_nothing_but_its_scratch(tmp_path: Path) -> None:
    store = Store.memory(tmp_path / "scratch")
    store.commit([record(store)])
    assert store.lookup(KEYS[0]) is not None
    assert store.try_lock(KEYS[0])
    store.unlock(KEYS[0])
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    assert Store.memory(tmp_path / "scratch").lookup(KEYS[0]) is None


# ---------------------------------------------------------------- one process for one action

HOLD = """
import sys; from pathlib import Path; from llmc_build.store import Store
store = Store.open(Path(sys.argv[1]), print)
print(store.try_lock(sys.argv[2]), flush=True)
sys.stdin.read()
"""


def other_process(store: Store, key: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root), key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=30)


def test_an_action_is_locked_by_one_process_until_it_lets_go(store: Store) -> None:
    assert store.try_lock(KEYS[3])
    assert store.try_lock(KEYS[3]), "a lock that we hold is ours"
    process, got = other_process(store, KEYS[3])
    assert got == "False"
    end(process)
    process, got = other_process(store, "f" * 64)
    assert got == "True", "another action is free"
    assert not store.try_lock("f" * 64)
    end(process)
    assert store.try_lock("f" * 64), "the kernel drops the locks of a killed process"
    store.unlock(KEYS[3])
    process, got = other_process(store, KEYS[3])
    assert got == "True"
    end(process)


def test_two_stores_of_one_process_exclude_each_other_and_keep_their_locks(
    store: Store, open_store: Callable[[], Store]
) -> None:
    """Closing any descriptor of a file drops a process's POSIX locks on it: closing one store must not."""
    second = open_store()
    assert store.try_lock(KEYS[3])
    assert not second.try_lock(KEYS[3])
    second.unlock(KEYS[3])
    second.close()
    process, got = other_process(store, KEYS[3])
    assert got == "False"
    end(process)
    third = open_store()
    store.close()
    assert third.try_lock(KEYS[3])


# ---------------------------------------------------------------- expunging


def test_expunging_removes_the_store_and_nothing_else(store: Store, tmp_path: Path) -> None:
    store.commit([record(store)])
    (store.root / "README.md").write_text("kept")
    store.close()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    (store.root / "quarantine").symlink_to(outside)
    assert expunge(store.root)
    assert [path.name for path in store.root.iterdir()] == ["README.md"]
    assert (outside / "precious").read_text() == "kept"


def test_expunging_removes_the_folder_where_it_is_empty(store: Store) -> None:
    store.close()
    assert expunge(store.root)
    assert not store.root.exists()
    assert not expunge(store.root)


def test_only_a_store_is_expunged(tmp_path: Path) -> None:
    (tmp_path / "cas").mkdir()
    (tmp_path / "cas" / "my file").write_text("precious")
    with pytest.raises(StoreError, match="does not look like a store"):
        expunge(tmp_path)
    assert (tmp_path / "cas" / "my file").exists()


@pytest.mark.parametrize(
    "theirs",
    [
        *("tmp/draft", "cas/notes/a", "snapshots/2024.img", "index/words", "quarantine/note.txt"),
        *("inference/results.csv", "uses/a", "lock", "gc.lock", "tmp", "index"),
    ],
)
def test_a_folder_of_others_does_not_become_a_store(tmp_path: Path, theirs: str) -> None:
    """Whoever removes the store would remove what is theirs."""
    path = tmp_path / "mine" / theirs
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(UsageError, match="is no store of llmc, and holds"):
        Store.open(tmp_path / "mine", note=lambda text: None)
    assert path.read_text() == "precious"
    assert len(list((tmp_path / "mine").iterdir())) == 1


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("README.md",),
        (".gitkeep", "lost+found/a"),
        ("cas/0f/blob", "index/cache.db", "lock"),
        ("photo.jpg",),
    ],
)
def test_a_folder_becomes_a_store_where_that_puts_nothing_at_risk(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / "store" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "store" / name).write_text("")
    Store.open(tmp_path / "store", note=lambda text: None).close()
    assert (tmp_path / "store" / "VERSION").is_file()
    assert expunge(tmp_path / "store")
    assert all(
        (tmp_path / "store" / name).exists()
        for name in names
        if not name.startswith(("cas", "index", "lock"))
    )


def test_a_store_that_lost_its_marker_is_a_store_still(store: Store) -> None:
    store.cas.put_bytes(b"x" * 10_000)
    store.cas.quarantine.keep("record.0", b"torn")
    store.close()
    (store.root / "VERSION").unlink()
    Store.open(store.root, note=lambda text: None).close()
    assert (store.root / "VERSION").is_file()
