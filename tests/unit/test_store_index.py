"""The contract of an index, over every backend; and what only the one on the disk has to withstand."""

from __future__ import annotations

import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmc_build.store.database import vet
from llmc_build.store.index import DiskIndex, Index, IndexUnavailableError, MemoryIndex

KEY = "ab" * 32
OTHER = "cd" * 32


@pytest.fixture(params=["memory", "disk"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Index]:
    found: Index = MemoryIndex() if request.param == "memory" else DiskIndex(tmp_path)
    yield found
    found.close()


# ---------------------------------------------------------------- the contract


def test_what_was_put_is_got_byte_for_byte(index: Index) -> None:
    values = {KEY: b"", OTHER: bytes(range(256)) * 40, "ef" * 32: b"\x80\x04pickle-like."}
    index.put_many(values.items())
    assert {key: index.get(key) for key in values} == values
    assert index.get_many([*values, "00" * 32]) == values


def test_what_was_never_put_is_absent(index: Index) -> None:
    assert index.get(KEY) is None
    assert index.get_many([KEY, OTHER]) == {}
    assert len(index) == 0
    assert list(index.keys()) == []


def test_the_last_put_wins(index: Index) -> None:
    index.put_many([(KEY, b"old")])
    index.put_many([(KEY, b"new")])
    assert index.get(KEY) == b"new"
    assert len(index) == 1


def test_a_deleted_key_is_absent_and_may_be_put_again(index: Index) -> None:
    index.delete(KEY)
    index.put_many([(KEY, b"1"), (OTHER, b"2")])
    index.delete(KEY)
    assert (index.get(KEY), list(index.keys())) == (None, [OTHER])
    index.put_many([(KEY, b"3")])
    assert index.get(KEY) == b"3"


def test_a_put_is_all_or_nothing(index: Index) -> None:
    """A group of results is reported done when its commit returns; half a group must not be there."""

    def items() -> Iterator[tuple[str, bytes]]:
        yield KEY, b"1"
        raise RuntimeError("the caller failed")

    with pytest.raises(RuntimeError):
        index.put_many(items())
    assert index.get(KEY) is None


@pytest.mark.parametrize(("key", "value"), [(1, b"x"), (b"k", b"x"), (KEY, "text"), (KEY, None), (KEY, [1])])
def test_only_text_keys_and_bytes_values_are_taken(index: Index, key: object, value: object) -> None:
    with pytest.raises(TypeError):
        index.put_many([(key, value)])  # type: ignore[list-item]
    assert len(index) == 0


def test_thousands_of_keys_are_found_in_one_call(index: Index) -> None:
    items = {f"{i:064x}": b"%d" % i for i in range(2500)}
    index.put_many(items.items())
    assert index.get_many(list(items)) == items
    assert len(index) == 2500


def test_a_closed_index_opens_again(index: Index) -> None:
    index.put_many([(KEY, b"1")])
    index.close()
    assert index.get(KEY) == b"1"


# ---------------------------------------------------------------- on the disk


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def open_disk(tmp_path: Path, notes: list[str]) -> Iterator[Callable[..., DiskIndex]]:
    made: list[DiskIndex] = []

    def make(**options: object) -> DiskIndex:
        made.append(DiskIndex(tmp_path, note=notes.append, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for index in made:
        index.close()


def put_and_close(index: DiskIndex) -> None:
    index.put_many([(KEY, b"good"), (OTHER, b"other")])
    index.close()


def test_an_index_that_is_only_read_leaves_no_trace(
    tmp_path: Path, open_disk: Callable[..., DiskIndex]
) -> None:
    index = open_disk()
    assert index.get(KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_the_schema_that_is_checked_is_the_one_that_diskcache_makes(
    tmp_path: Path, open_disk: Callable[..., DiskIndex]
) -> None:
    put_and_close(open_disk())
    with sqlite3.connect(tmp_path / "index" / "cache.db") as db:
        vet(db)
        settings = dict(db.execute("SELECT key, value FROM Settings"))
    assert settings["sqlite_synchronous"] == 2
    assert settings["eviction_policy"] == "none"
    assert settings["cull_limit"] == 0
    assert settings["sqlite_journal_mode"] == "wal"


def test_reading_does_not_import_diskcache(tmp_path: Path, open_disk: Callable[..., DiskIndex]) -> None:
    """It is slow to import, and a build with nothing to do is measured in hundredths of a second."""
    put_and_close(open_disk())
    code = (
        "import sys; from pathlib import Path; from llmc_build.store.index import DiskIndex\n"
        f"print(DiskIndex(Path({str(tmp_path)!r})).get({KEY!r}), 'diskcache' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "b'good' False\n"


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no database, but it is long enough to look like a page" * 200)


def flip_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[16:40] = os.urandom(24)
    path.write_bytes(bytes(data))


def flip_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def leave_only_a_log(path: Path) -> None:
    path.rename(path.with_name("cache.db-wal"))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere.db")
    path.symlink_to(path.parent.parent / "elsewhere.db")


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def other_schema(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE Cache RENAME TO Cash")


def plant_trigger(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TRIGGER t AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END")


def undecodable_schema(path: Path) -> None:
    """SQLite names the object in its error, and the name is no UTF-8."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA writable_schema = 1")
        db.execute(
            "UPDATE sqlite_master SET name = CAST(x'97ff' AS TEXT), sql = 'CREATE nonsense' WHERE name = 'Cache_key_raw'"
        )


def plant_setting(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO Settings VALUES ('transact', 'x')")


def plant_pragma(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE Settings SET value = 'delete' WHERE key = 'sqlite_journal_mode'")


DAMAGES = [
    overwrite, flip_header, flip_pages, truncate, empty, leave_only_a_log, make_folder, make_link, make_fifo,
    other_schema, undecodable_schema, plant_trigger, plant_setting, plant_pragma,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("first", ["read", "write"])
def test_a_damaged_index_is_set_aside_and_a_fresh_one_works(
    tmp_path: Path,
    notes: list[str],
    open_disk: Callable[..., DiskIndex],
    damage: Callable[[Path], None],
    first: str,
) -> None:
    """Whatever happened to the file: no wrong value, a note, and the next result is stored.

    What can still be read of it is taken over.
    """
    put_and_close(open_disk())
    damage(tmp_path / "index" / "cache.db")
    index = open_disk()
    readable = damage in (plant_setting, plant_pragma)
    if first == "read":
        assert index.get(KEY) == (b"good" if readable else None)
    index.put_many([(KEY, b"again")])
    assert index.get(KEY) == b"again"
    assert index.get(OTHER) == (b"other" if readable else None)
    assert len(notes) == 1
    assert notes[0].startswith("the index of the store was damaged (")
    assert len(list((tmp_path / "quarantine").iterdir())) == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_damage_that_shows_while_open_is_handled_too(
    tmp_path: Path, notes: list[str], open_disk: Callable[..., DiskIndex]
) -> None:
    index = open_disk()
    index.put_many([(f"{i:064x}", os.urandom(500)) for i in range(2000)])
    index.close()
    assert index.get(f"{5:064x}") is not None
    flip_pages(tmp_path / "index" / "cache.db")
    index.get_many([f"{i:064x}" for i in range(2000)])
    index.put_many([(KEY, b"again")])
    assert index.get(KEY) == b"again"
    assert len(notes) == 1


def test_a_repaired_index_is_not_set_aside_by_another_process(
    tmp_path: Path, notes: list[str], open_disk: Callable[..., DiskIndex]
) -> None:
    """Two processes find the same damage; the second must not throw away the first one's new index."""
    put_and_close(open_disk())
    first, second = open_disk(), open_disk()
    assert first.get(KEY) == second.get(KEY) == b"good"
    overwrite(tmp_path / "index" / "cache.db")
    (tmp_path / "index" / "cache.db-wal").unlink(missing_ok=True)
    first.close()
    first.put_many([(KEY, b"repaired")])
    second.put_many([(OTHER, b"kept")])
    assert first.get_many([KEY, OTHER]) == second.get_many([KEY, OTHER]) == {KEY: b"repaired", OTHER: b"kept"}
    assert len(notes) == 1


def test_an_index_deleted_under_an_open_store_is_made_again(
    tmp_path: Path, open_disk: Callable[..., DiskIndex]
) -> None:
    import shutil

    index = open_disk()
    index.put_many([(KEY, b"1")])
    shutil.rmtree(tmp_path / "index")
    assert index.get(KEY) is None
    index.put_many([(KEY, b"2")])
    other = open_disk()
    assert other.get(KEY) == b"2"


# ---------------------------------------------------------------- planted rows


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def plant(tmp_path: Path, **columns: object) -> None:
    with sqlite3.connect(tmp_path / "index" / "cache.db") as db:
        names = ", ".join(f"{name} = ?" for name in columns)
        db.execute(f"UPDATE Cache SET {names} WHERE key = ?", [*columns.values(), KEY])
    db.close()


@pytest.mark.parametrize("mode", [2, 3, 4])
def test_a_planted_row_is_a_miss_and_runs_nothing(
    tmp_path: Path, open_disk: Callable[..., DiskIndex], mode: int
) -> None:
    """diskcache would unpickle the value, or open the file that the row names."""
    canary, secret = tmp_path / "canary", tmp_path / "secret"
    secret.write_bytes(b"not yours")
    put_and_close(open_disk())
    plant(tmp_path, mode=mode, value=pickle.dumps(Canary(canary)), filename=None)
    index = open_disk()
    assert index.get(KEY) is None
    assert index.get(OTHER) == b"other"
    index.close()
    plant(tmp_path, mode=mode, value=None, filename=str(secret))
    assert index.get(KEY) is None
    assert OTHER in list(index.keys())
    assert KEY not in list(index.keys())
    index.put_many([(KEY, b"new")])  # diskcache would delete the file of the row it replaces
    assert index.get(KEY) == b"new"
    index.close()
    plant(tmp_path, filename=str(secret))
    index.delete(KEY)
    assert index.get(KEY) is None
    assert secret.read_bytes() == b"not yours"
    assert not canary.exists()


def test_a_planted_pickled_key_runs_nothing(tmp_path: Path, open_disk: Callable[..., DiskIndex]) -> None:
    canary = tmp_path / "canary"
    put_and_close(open_disk())
    plant(tmp_path, key=pickle.dumps(Canary(canary)), raw=0)
    index = open_disk()
    assert list(index.keys()) == [OTHER]
    assert len(index) == 1
    assert not canary.exists()


def test_diskcache_itself_refuses_what_is_not_raw(
    tmp_path: Path, open_disk: Callable[..., DiskIndex]
) -> None:
    """Reading goes around diskcache; should a change lead through it, it refuses at both ends."""
    from llmc_build.store.rawdisk import RefusedError, open_cache

    canary = tmp_path / "canary"
    put_and_close(open_disk())
    plant(tmp_path, mode=4, value=pickle.dumps(Canary(canary)))
    cache = open_cache(tmp_path / "index", timeout_s=1)
    with pytest.raises(RefusedError):
        cache.get(KEY)
    plant(tmp_path, mode=2, value=None, filename="/etc/hostname")
    with pytest.raises(RefusedError):
        cache.get(KEY)
    for key, value in [((1, 2), b"x"), (KEY, {"a": 1}), (KEY, "text")]:
        with pytest.raises(RefusedError):
            cache.set(key, value)
    cache.close()
    plant(tmp_path, key=pickle.dumps(Canary(canary)), raw=0)
    with pytest.raises(RefusedError):
        list(open_cache(tmp_path / "index", timeout_s=1))
    assert not canary.exists()


# ---------------------------------------------------------------- when it can't be written


def test_a_busy_database_is_waited_for_and_then_given_up(
    tmp_path: Path, open_disk: Callable[..., DiskIndex]
) -> None:
    put_and_close(open_disk())
    index = open_disk(busy_s=0.2)
    blocker = sqlite3.connect(tmp_path / "index" / "cache.db", isolation_level=None)
    index.put_many([(OTHER, b"1")])
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(IndexUnavailableError, match="locked"):
        index.put_many([(KEY, b"2")])
    blocker.execute("ROLLBACK")
    blocker.close()
    index.put_many([(KEY, b"2")])
    assert index.get(KEY) == b"2"


def test_a_read_only_index_is_read_and_never_written(
    tmp_path: Path, open_disk: Callable[..., DiskIndex]
) -> None:
    put_and_close(open_disk())
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir()}
    index = open_disk(read_only=True)
    assert index.get(KEY) == b"good"
    with pytest.raises(IndexUnavailableError, match="read-only"):
        index.put_many([(KEY, b"bad")])
    index.close()
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir()}
    assert before["cache.db"] == after["cache.db"]


def test_a_damaged_read_only_index_is_unavailable(
    tmp_path: Path, open_disk: Callable[..., DiskIndex]
) -> None:
    put_and_close(open_disk())
    overwrite(tmp_path / "index" / "cache.db")
    with pytest.raises(IndexUnavailableError, match="damaged"):
        open_disk(read_only=True).get(KEY)


def test_a_folder_that_diskcache_would_rename_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diskcache expands variables in paths: it would open a database elsewhere."""
    monkeypatch.setenv("LLMC_TEST_ELSEWHERE", "elsewhere")
    index = DiskIndex(tmp_path / "$LLMC_TEST_ELSEWHERE")
    with pytest.raises(IndexUnavailableError, match="variable"):
        index.put_many([(KEY, b"1")])
    assert not (tmp_path / "elsewhere").exists()


def test_rows_are_written_as_diskcache_writes_them(tmp_path: Path) -> None:
    """New rows, rows that are replaced, rows of another kind that were planted; and what the triggers count."""
    from llmc_build.store.rawdisk import _ROWS, open_cache, put_rows

    rows = [(f"key {i}", b"value %d" % i) for i in range(2 * _ROWS + 7)]
    found = []
    for name in ("set", "rows"):
        (tmp_path / name).mkdir()
        cache = open_cache(tmp_path / name, timeout_s=1.0)
        planted = "UPDATE Cache SET value = ?, mode = 4, filename = 'x', expire_time = 1, tag = 't', size = 9"
        for _ in range(2):
            with cache.transact():
                if name == "rows":
                    put_rows(cache, rows)
                else:
                    for key, value in rows:
                        cache.set(key, value)
            columns = "key, raw, expire_time, access_count, tag, size, mode, filename, value, typeof(value)"
            state = [
                cache._sql(f"SELECT {columns} FROM Cache ORDER BY rowid").fetchall(),
                cache._sql("SELECT key, value FROM Settings ORDER BY key").fetchall(),
                cache._sql(
                    "SELECT COUNT(*) FROM Cache WHERE typeof(store_time) = 'real' AND store_time = access_time"
                ).fetchall(),
            ]
            found.append(state)
            cache._sql(planted, [b"planted"])
        cache.close()
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert len(found[0][0]) == len(rows)


def test_a_search_for_many_keys_walks_through_no_table(tmp_path: Path) -> None:
    """Else a build's questions would cost the more the more there is in the store."""
    from llmc_build.store.database import FILTER

    DiskIndex(tmp_path).put_many([("a", b"b")])
    with sqlite3.connect(tmp_path / "index" / "cache.db") as db:
        for count in (1, 2, 10, 300, 900):
            marks = ",".join("?" * count)
            statement = f"EXPLAIN QUERY PLAN SELECT key, value FROM Cache WHERE key IN ({marks}) AND {FILTER}"
            (step,) = [row[3] for row in db.execute(statement, ["k"] * count)]
            assert step == "SEARCH Cache USING INDEX Cache_key_raw (key=? AND raw=?)"
    db.close()
