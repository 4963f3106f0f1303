"""Small contents stay in memory within a bound, and none is lost by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc_build.model import ActionResult
from llmc_build.store import Record, Store, facade
from llmc_build.store.cas import digest_of
from llmc_build.store.contents import Contents

KEYS = [f"{i:064x}" for i in range(200)]


def value(i: int) -> bytes:
    return b"%d" % i * 400


def test_what_is_in_a_durable_record_goes_the_oldest_first() -> None:
    contents = Contents(100_000)
    for i in range(200):
        contents.put(digest_of(value(i)).hash, value(i))
        contents.recorded([digest_of(value(i)).hash], KEYS[i])
    there = [digest_of(value(i)).hash in contents for i in range(200)]
    assert there == sorted(there)
    assert 30 < sum(there) < 100
    assert contents.record(digest_of(value(0)).hash) == KEYS[0]


def test_what_has_no_record_stays_whatever_it_costs() -> None:
    contents = Contents(100_000)
    for i in range(200):
        contents.put(digest_of(value(i)).hash, value(i))
    assert all(digest_of(value(i)).hash in contents for i in range(200))


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", ["disk", "memory", "broken"])
def test_a_store_reads_what_it_let_go_from_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, again: bool
) -> None:
    """Contents that this build made, and those of records that it found."""
    monkeypatch.setattr(facade, "Contents", lambda: Contents(20_000))
    if kind == "broken":
        (tmp_path / "store").write_text("in the way")
    notes: list[str] = []
    store = Store.memory(tmp_path) if kind == "memory" else Store.open(tmp_path / "store", notes.append)
    for i, key in enumerate(KEYS):
        result = ActionResult(value=store.add(value(i)), stderr=store.add(b""))
        store.commit([Record(key=key, components={}, result=result, created=1.0)])
    if again and kind == "disk":
        store.close()
        store = Store.open(tmp_path / "store", notes.append)
        assert len(store.lookup_many(KEYS)) == len(KEYS)
    assert digest_of(value(0)).hash not in store._small
    for i in range(200):
        digest = digest_of(value(i))
        assert store.read(digest) == value(i)
        assert store.has(digest)
        assert store.place(digest, tmp_path / "placed" / str(i))
        assert (tmp_path / "placed" / str(i)).read_bytes() == value(i)
    assert store.read(digest_of(b"")) == b""
    store.close()


def test_what_was_let_go_and_is_damaged_since_is_told_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facade, "Contents", lambda: Contents(20_000))
    store = Store.open(tmp_path / "store", print)
    for i, key in enumerate(KEYS):
        result = ActionResult(value=store.add(value(i)), stderr=store.add(b""))
        store.commit([Record(key=key, components={}, result=result, created=1.0)])
    store.forget(KEYS[0])
    assert store.read(digest_of(value(0))) is None
    store.close()
