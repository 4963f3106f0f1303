"""`llmc cache verify` and `gc`: what is damage, what goes, and what must stay."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from llmc_build.errors import StoreError
from llmc_build.model import ActionResult
from llmc_build.store import Record, Store, upkeep, uses
from llmc_build.store.aside import Quarantine

LARGE = 100_000


def key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def put(store: Store, name: str, large: str | None = None) -> None:
    value = store.add((large or name).encode() * LARGE)
    store.commit(
        [
            Record(
                key=key(name),
                components={"name": name},
                result=ActionResult(value=value, stderr=store.add(b"")),
                created=time.time(),
            )
        ]
    )


def opened(root: Path) -> Store:
    return Store.open(root, note=lambda text: None)


def age(root: Path, **days: float) -> None:
    """As if these had last been used so many days ago, and their contents written then."""
    with sqlite3.connect(root / "index" / "cache.db") as db:
        for name, number in days.items():
            then = time.time() - number * 86400
            db.execute("UPDATE Cache SET access_time = ? WHERE key = ?", (then, key(name)))
    db.close()
    for path in root.glob("cas/*/*"):
        os.utime(path, (1e9, 1e9))


def names(root: Path) -> set[str]:
    store = opened(root)
    found = {name for name in "abcdef" if store.lookup(key(name)) is not None}
    store.close()
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = opened(tmp_path / "store")
    for name in "abc":
        put(store, name)
    store.close()
    age(tmp_path / "store", a=30, b=20, c=10)
    return tmp_path / "store"


# ---------------------------------------------------------------- verify


def test_a_whole_store_is_found_whole(root: Path) -> None:
    found = upkeep.verify(root)
    assert (found.bad, found.records, found.blobs, found.bytes) == ([], 3, 3, 3 * LARGE)


def test_every_damaged_blob_is_named_and_nothing_is_changed(root: Path) -> None:
    flipped, cut, *_ = sorted(root.glob("cas/*/*"))
    flipped.chmod(0o600)
    flipped.write_bytes(b"x" + flipped.read_bytes()[1:])
    cut.chmod(0o600)
    cut.write_bytes(b"")
    (root / "cas" / "aa").mkdir(exist_ok=True)
    (root / "cas" / "aa" / "alien").symlink_to(root.parent)
    before = sorted(root.rglob("*"))
    found = upkeep.verify(root)
    assert sum("cas/" in line for line in found.bad) == 3
    assert sum("lost or damaged" in line for line in found.bad) == 2
    assert [path for path in sorted(root.rglob("*")) if "index/" not in str(path)] == [
        path for path in before if "index/" not in str(path)
    ]


def test_repair_sets_damage_aside_and_keeps_the_rest(root: Path) -> None:
    victim = next(root.glob("cas/*/*"))
    victim.unlink()
    victim.mkdir()
    assert len(upkeep.verify(root, repair=True).bad) == 2
    assert upkeep.verify(root).bad == []
    assert len(names(root)) == 2


def test_a_damaged_index_is_repaired_with_what_can_be_read_of_it(root: Path) -> None:
    with sqlite3.connect(root / "index" / "cache.db") as db:
        db.execute("INSERT INTO Cache (key, raw, mode, value) VALUES ('planted', 1, 4, x'80')")
    db.close()
    assert any("never written" in line for line in upkeep.verify(root).bad)
    upkeep.verify(root, repair=True)
    assert upkeep.verify(root).bad == []
    assert names(root) == {"a", "b", "c"}


def test_a_destroyed_index_is_told_and_not_touched(root: Path) -> None:
    (root / "index" / "cache.db").write_bytes(b"nothing of it" * 1000)
    assert any(line.startswith("index:") for line in upkeep.verify(root).bad)
    assert (root / "index" / "cache.db").read_bytes().startswith(b"nothing")


def test_a_folder_that_is_no_store_is_an_error(tmp_path: Path) -> None:
    for use in (upkeep.verify, upkeep.collect):
        with pytest.raises(StoreError, match="there is no store"):
            use(tmp_path)


# ---------------------------------------------------------------- gc


def test_without_limits_only_what_no_result_needs_goes(root: Path) -> None:
    orphan = root / "cas" / "00" / ("00" + "1" * 62)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"nobody's")
    os.utime(orphan, (1e9, 1e9))
    (root / "quarantine").mkdir(exist_ok=True)
    (root / "quarantine" / "old").write_bytes(b"set aside")
    done = upkeep.collect(root)
    assert (done.records_removed, done.blobs_removed, done.records) == (0, 1, 3)
    assert done.bytes_freed == len("nobody's") + len("set aside")
    assert names(root) == {"a", "b", "c"}


def test_what_was_not_used_for_long_goes(root: Path) -> None:
    assert upkeep.collect(root, max_age_s=15 * 86400).records_removed == 2
    assert names(root) == {"c"}
    assert len(list(root.glob("cas/*/*"))) == 1


def test_a_hit_is_a_use(root: Path) -> None:
    store = opened(root)
    assert store.lookup(key("a")) is not None
    store.close()
    upkeep.collect(root, max_age_s=15 * 86400)
    assert names(root) == {"a", "c"}


def test_the_oldest_go_until_the_rest_is_small_enough(root: Path) -> None:
    done = upkeep.collect(root, max_bytes=2 * LARGE + 5000)
    assert done.bytes <= 2 * LARGE + 5000
    assert names(root) == {"b", "c"}


def test_a_content_that_another_result_shares_stays(root: Path) -> None:
    store = opened(root)
    put(store, "d", large="a")
    store.close()
    age(root, d=1)
    upkeep.collect(root, max_age_s=15 * 86400)
    assert names(root) == {"c", "d"}


def test_everything_goes_where_nothing_may_stay(root: Path) -> None:
    done = upkeep.collect(root, max_bytes=0)
    assert (done.records, done.bytes, done.records_removed, done.blobs_removed) == (0, 0, 3, 3)


def test_what_a_running_build_has_found_or_stored_stays(root: Path) -> None:
    """Also a content without a record: the record may be on its way."""
    store = opened(root)
    assert store.lookup(key("a")) is not None
    put(store, "d")
    store.add(b"on its way" * LARGE)
    assert upkeep.collect(root, max_bytes=0).records == 2
    assert store.lookup(key("a")) is not None
    assert store.lookup(key("d")) is not None
    assert len(list(root.glob("cas/*/*"))) == 3
    store.close()
    assert names(root) == {"a", "d"}


def test_a_content_that_a_running_build_takes_over_stays(root: Path) -> None:
    """It lay there, of no record, and a build makes the same: it is not written again."""
    store = opened(root)
    store.add(b"x" * LARGE)
    store.close()
    age(root)
    running = opened(root)
    digest = running.add(b"x" * LARGE)
    upkeep.collect(root, max_bytes=0)
    assert running.cas.owns(digest)
    running.close()


def test_a_content_that_a_running_build_wrote_long_ago_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record may still be to come: what counts is when the build began, not when the clean-up did."""
    running = opened(root)
    digest = running.add(b"on its way" * LARGE)
    later = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(upkeep.time, "time_ns", lambda: later)
    upkeep.collect(root, max_bytes=0)
    assert running.cas.owns(digest)
    running.close()
    upkeep.collect(root, max_bytes=0)
    assert not opened(root).cas.owns(digest), "the control: it goes when that build has ended"


def test_a_content_that_is_taken_over_while_it_is_removed_is_put_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build makes it young again between the look and the removal."""
    store = opened(root)
    digest = store.add(b"x" * LARGE)
    store.close()
    age(root)
    running = opened(root)
    rename = os.rename

    def late(source: str, dest: str) -> None:
        if source.endswith(digest.hash):
            monkeypatch.setattr(os, "rename", rename)
            running.add(b"x" * LARGE)
        rename(source, dest)

    monkeypatch.setattr(os, "rename", late)
    upkeep.collect(root, max_bytes=0)
    assert running.cas.owns(digest)
    running.close()


def test_a_build_whose_file_was_taken_for_a_dead_one_makes_another(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock somebody may look: what the build relies on must still be told."""
    flock, taken = uses.fcntl.flock, []

    def late(fd: int, operation: int) -> None:
        if not taken:
            taken.append(os.readlink(f"/proc/self/fd/{fd}"))
            os.unlink(taken[0])
        flock(fd, operation)

    monkeypatch.setattr(uses.fcntl, "flock", late)
    running = opened(root)
    assert running.lookup(key("a")) is not None
    assert taken
    assert upkeep.collect(root, max_bytes=0).records == 1
    assert running.lookup(key("a")) is not None
    running.close()


def test_a_record_found_while_it_was_being_removed_is_put_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build looks it up between the choice of the victims and their removal."""
    running: list[Store] = []
    real = upkeep._remove_records

    def late(*args: object) -> object:
        running.append(opened(root))
        assert running[0].lookup(key("a")) is not None
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(upkeep, "_remove_records", late)
    done = upkeep.collect(root, max_bytes=0)
    assert (done.records_removed, done.records) == (2, 1)
    assert running[0].lookup(key("a")) is not None
    running[0].close()


def test_what_a_dead_build_relied_on_may_go(root: Path) -> None:
    (root / "uses").mkdir(exist_ok=True)
    (root / "uses" / ".llmc-1-aaaa-0").write_text(f"1\n{key('a')}\n")
    assert upkeep.collect(root, max_bytes=0).records == 0
    assert not list((root / "uses").iterdir())


def test_two_do_not_clean_up_at_the_same_time(root: Path) -> None:
    with upkeep._alone(root), pytest.raises(StoreError, match="another llmc"):
        upkeep.collect(root)


# ---------------------------------------------------------------- quarantine


def test_quarantine_is_bounded_and_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmc_build.store.aside.MOST_BYTES", 1000)
    (tmp_path / "quarantine").mkdir()
    quarantine = Quarantine(str(tmp_path), lambda: str(tmp_path / "quarantine"))
    for number in range(10):
        quarantine.keep(f"thing{number}", b"x" * 300)
        time.sleep(0.01)
    left = sorted(path.name.partition(".")[0] for path in (tmp_path / "quarantine").iterdir())
    assert left == ["thing7", "thing8", "thing9"]
