"""Stores that are damaged between two builds: no wrong value is ever shown, and the next build mends it."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc_build.model import State
from tests.faults.house import STEPS, House

# ---------------------------------------------------------------- what lies outside

PRECIOUS = b"somebody else's, which links lead to: " + b"precious " * 2000


def outside(path: Path) -> Path:
    """A file outside of workspace and store. Only what this test has made may ever be the end of a link."""
    root = next(parent for parent in path.parents if (parent / "side").is_dir())
    folder = root / "outside"
    if not folder.is_dir():
        folder.mkdir()
        (folder / "precious").write_bytes(PRECIOUS)
    return folder / "precious"


def is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size > 0


def untouched(house: House) -> bool:
    """Whether nothing was written through a link."""
    folder = outside(house.work).parent
    return [path.name for path in folder.iterdir()] == ["precious"] and (
        folder / "precious"
    ).read_bytes() == PRECIOUS


# ---------------------------------------------------------------- blobs


def writable(path: Path) -> bytes:
    """What a file holds; it may be written now. A link is never followed: tests run as root too."""
    assert path.is_file(), path
    assert not path.is_symlink(), path
    data = path.read_bytes()
    path.chmod(0o600)
    return data


def truncate(path: Path, chance: random.Random, other: Path) -> None:
    data = writable(path)
    path.write_bytes(data[: chance.randrange(len(data))])


def lengthen(path: Path, chance: random.Random, other: Path) -> None:
    path.write_bytes(writable(path) + b"\0" * chance.randint(1, 5000))


def flip(path: Path, chance: random.Random, other: Path) -> None:
    data = bytearray(writable(path))
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def flip_unseen(path: Path, chance: random.Random, other: Path) -> None:
    """With the times that it had."""
    before = path.stat()
    flip(path, chance, other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def zero(path: Path, chance: random.Random, other: Path) -> None:
    data = bytearray(writable(path))
    at = chance.randrange(len(data)) // 512 * 512
    data[at : at + 512] = bytes(len(data[at : at + 512]))
    path.write_bytes(data)


def empty(path: Path, chance: random.Random, other: Path) -> None:
    writable(path)
    path.write_bytes(b"")


def swap(path: Path, chance: random.Random, other: Path) -> None:
    away = path.with_name("away")
    path.rename(away)
    other.rename(path)
    away.rename(other)


def delete(path: Path, chance: random.Random, other: Path) -> None:
    path.unlink()


def link_to_right(path: Path, chance: random.Random, other: Path) -> None:
    elsewhere = path.parents[2] / "elsewhere"
    shutil.copy(path, elsewhere)
    path.unlink()
    path.symlink_to(elsewhere)


def link_to_wrong(path: Path, chance: random.Random, other: Path) -> None:
    path.unlink()
    path.symlink_to(outside(path))


def folder(path: Path, chance: random.Random, other: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "in it").write_text("x")


def fifo(path: Path, chance: random.Random, other: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def unreadable(path: Path, chance: random.Random, other: Path) -> None:
    path.chmod(0)


def shard_is_a_link(path: Path, chance: random.Random, other: Path) -> None:
    elsewhere = path.parents[2] / f"shard{chance.random()}"
    path.parent.rename(elsewhere)
    flip(next(elsewhere.iterdir()), chance, other)
    path.parent.symlink_to(elsewhere)


BLOBS = [
    truncate, lengthen, flip, flip, flip_unseen, zero, empty, swap, delete, link_to_right, link_to_wrong, folder,
    fifo, unreadable, shard_is_a_link,
]  # fmt: skip


def rebuild(house: House, what: str, chance: random.Random) -> Counter[str]:
    """A build after a damage, often without anything but the store: all must be right. What ran in it."""
    if chance.random() < 0.7:  # nothing in place: everything comes from the store
        shutil.rmtree(house.work / ".llmc" / "out", ignore_errors=True)
        (house.work / "gen" / "big.out").unlink(missing_ok=True)
    if chance.random() < 0.5:
        shutil.rmtree(house.work / ".llmc" / "state", ignore_errors=True)
    before = house.executions()
    report = house.build_here()
    assert report.exit_code == 0, (what, [t.error for t in report.targets])
    assert house.seen() == house.expected(), what
    return house.executions() - before


@pytest.mark.timeout(200)
def test_a_damaged_blob_is_never_shown(
    tmp_path: Path, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    """Only steps whose blobs were damaged may run again."""
    house = House(tmp_path)
    assert house.build_here().exit_code == 0
    done, wanted = 0, amount(60, 5000)
    while done < wanted:
        blobs = sorted(filter(is_plain, house.cache.glob("cas/*/*")))
        assert len(blobs) >= 2
        names = []
        for path in chance.sample(blobs, chance.randint(1, 2)):
            damage = chance.choice(BLOBS)
            others = [blob for blob in blobs if blob != path and is_plain(blob)]
            if is_plain(path) and others:
                damage(path, chance, chance.choice(others))
                names.append(damage.__name__)
        done += len(names)
        again = rebuild(house, f"{names} (after {done})", chance)
        assert again.keys() <= {"large", "reads"}, (names, again)
        assert all(count == 1 for count in again.values()), (names, again)
        assert untouched(house), names
        tally["blobs damaged"] += len(names)
        tally["steps that ran again"] += again.total()
    assert len(list((house.cache / "quarantine").iterdir())) <= 1000


# ---------------------------------------------------------------- the index


def on_index(house: House, statement: str, *values: object) -> None:
    with sqlite3.connect(index_file(house)) as db:
        db.execute(statement, values)
    db.close()


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)


def index_file(house: House) -> Path:
    """The database; it is no link, nor is anything beside it."""
    folder = house.cache / "index"
    assert not folder.is_symlink()
    assert not any(path.is_symlink() for path in folder.glob("*"))
    return folder / "cache.db"


def index_bytes(house: House, chance: random.Random) -> None:
    path = index_file(house)
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 10, 1000])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(data)


def index_page(house: House, chance: random.Random) -> None:
    path = index_file(house)
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data)) // 4096 * 4096
    data[at : at + 4096] = chance.choice([bytes(4096), chance.randbytes(4096)])
    path.write_bytes(data)


def index_truncated(house: House, chance: random.Random) -> None:
    path = index_file(house)
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def index_zeroed(house: House, chance: random.Random) -> None:
    path = index_file(house)
    path.write_bytes(bytes(path.stat().st_size))


def index_deleted(house: House, chance: random.Random) -> None:
    index_file(house).unlink()


def index_folder_deleted(house: House, chance: random.Random) -> None:
    shutil.rmtree(house.cache / "index")


def index_of_others(house: House, chance: random.Random) -> None:
    index_file(house).unlink()
    with sqlite3.connect(index_file(house)) as db:
        db.execute("CREATE TABLE Cache (key, value)")
    db.close()


def log_of_others(house: House, chance: random.Random) -> None:
    for end in ("-wal", "-shm"):
        log = Path(f"{index_file(house)}{end}")
        log.unlink(missing_ok=True)
        log.write_bytes(chance.randbytes(chance.randrange(100_000)))


def log_is_a_link(house: House, chance: random.Random) -> None:
    log = Path(f"{index_file(house)}-wal")
    log.unlink(missing_ok=True)
    log.symlink_to(outside(house.cache))


def planted_pickle(house: House, chance: random.Random) -> None:
    bomb = pickle.dumps(Bomb(house.root / "canary"))
    on_index(house, "UPDATE Cache SET mode = 4, value = ?", bomb)


def planted_file(house: House, chance: random.Random) -> None:
    mode = chance.choice([1, 2, 3, 4])
    name = os.path.relpath(outside(house.cache), house.cache / "index")
    on_index(house, "UPDATE Cache SET filename = ?, mode = ?, value = NULL", name, mode)


def planted_keys(house: House, chance: random.Random) -> None:
    bomb = pickle.dumps(Bomb(house.root / "canary"))
    on_index(house, "INSERT OR REPLACE INTO Cache (key, raw, mode, value) VALUES (?, 0, 1, x'00')", bomb)
    on_index(house, "INSERT OR REPLACE INTO Cache (key, raw, mode, value) VALUES (7, 1, 1, x'00')")


def records_swapped(house: House, chance: random.Random) -> None:
    with sqlite3.connect(index_file(house)) as db:
        rows = list(db.execute("SELECT rowid, value FROM Cache"))
        values = [value for _, value in rows]
        chance.shuffle(values)
        for (row, _), value in zip(rows, values, strict=True):
            db.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (value, row))
    db.close()


def records_flipped(house: House, chance: random.Random) -> None:
    with sqlite3.connect(index_file(house)) as db:
        for row, value in list(db.execute("SELECT rowid, value FROM Cache")):
            if not isinstance(value, bytes) or not value:  # what an earlier damage left, and nobody reads
                continue
            data = bytearray(value)
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            db.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (bytes(data), row))
    db.close()


def records_emptied(house: House, chance: random.Random) -> None:
    on_index(house, "UPDATE Cache SET value = ?", chance.choice([b"", None, "text", 7]))


def planted_trigger(house: House, chance: random.Random) -> None:
    on_index(house, "CREATE TRIGGER IF NOT EXISTS t AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END")


def planted_setting(house: House, chance: random.Random) -> None:
    on_index(house, "INSERT OR REPLACE INTO Settings VALUES ('transact', 'x')")


def index_is_a_link(house: House, chance: random.Random) -> None:
    (house.cache / "index").rename(house.cache / f"elsewhere{chance.random()}")
    (house.cache / "index").symlink_to(outside(house.cache).parent)


def index_is_a_fifo(house: House, chance: random.Random) -> None:
    index_file(house).unlink()
    os.mkfifo(index_file(house))


def everything_else_is_a_link(house: House, chance: random.Random) -> None:
    for name in ("quarantine", "tmp", "uses"):
        if (house.cache / name).is_symlink():
            (house.cache / name).unlink()
        shutil.rmtree(house.cache / name, ignore_errors=True)
        if chance.random() < 0.5:
            (house.cache / name).symlink_to(outside(house.cache).parent)


INDEXES = [
    index_bytes, index_bytes, index_bytes, index_page, index_page, index_truncated, index_zeroed, index_deleted,
    index_folder_deleted, index_of_others, log_of_others, log_is_a_link, planted_pickle, planted_file, planted_keys,
    records_swapped, records_flipped, records_emptied, planted_trigger, planted_setting, index_is_a_link,
    index_is_a_fifo, everything_else_is_a_link,
]  # fmt: skip


@pytest.mark.timeout(200)
def test_a_damaged_index_is_never_believed_and_runs_nothing(
    tmp_path: Path, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    house = House(tmp_path)
    for number in range(amount(30, 500)):
        assert house.build_here().exit_code == 0
        damage = INDEXES[number % len(INDEXES)] if number < len(INDEXES) else chance.choice(INDEXES)
        try:
            damage(house, chance)
        except (sqlite3.Error, UnicodeDecodeError):  # an older damage that no build has met yet
            index_zeroed(house, chance)
        again = rebuild(house, f"{damage.__name__} (round {number})", chance)
        assert all(count == 1 for count in again.values()), (damage.__name__, again)
        assert not (tmp_path / "canary").exists(), damage.__name__
        assert untouched(house), damage.__name__
        quiet = house.build_here()
        assert not [t for t in quiet.targets if t.status is State.RAN], damage.__name__
        tally["indexes damaged"] += 1
        tally["steps that ran again"] += again.total()
        if number % 50 == 49:  # what is kept in quarantine is looked at by nobody
            shutil.rmtree(house.cache / "quarantine", ignore_errors=True)


# ---------------------------------------------------------------- the rest of .llmc

STATE = (
    "state/digests",
    "state/last",
    "state/snapshot-*",
    "placed.json",
    "runs/*/run.json",
    "out/w/*",
    ".gitignore",
)


@pytest.mark.timeout(200)
def test_damage_in_the_workspace_s_own_folder_is_mended(
    tmp_path: Path, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    """Snapshots, remembered digests, the list of what was placed, runs, values: nothing is believed that is wrong."""
    house = House(tmp_path)
    ways = [truncate, lengthen, flip, flip, zero, empty, swap, delete, link_to_wrong, folder, fifo]
    for number in range(amount(40, 1000)):
        if number % 10 == 0:
            house.edit(f"s{number}", house.more)
        assert house.build_here().exit_code == 0
        home = house.work / ".llmc"
        files = [path for pattern in STATE for path in sorted(home.glob(pattern)) if is_plain(path)]
        path, other = chance.sample(files, 2)
        way = chance.choice(ways)
        way(path, chance, other)
        before = house.executions()
        report = house.build_here()
        what = f"{way.__name__} on {path.relative_to(home)}, {other.relative_to(home)} (round {number})"
        assert report.exit_code == 0, (what, [t.error for t in report.targets])
        assert house.seen() == house.expected(), what
        assert house.executions() == before, (what, "the store had everything")
        assert untouched(house), what
        tally["files damaged"] += 1
        if number % 20 == 19:
            shutil.rmtree(home / "runs", ignore_errors=True)


def test_the_check_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that believes its blobs shows a flipped one, and the comparison sees it."""
    from llmc_build.store.cas import Cas

    house = House(tmp_path)
    assert house.build_here().exit_code == 0
    for path in house.cache.glob("cas/*/*"):
        flip(path, random.Random(1), path)
    shutil.rmtree(house.work / ".llmc" / "out")
    shutil.rmtree(house.work / ".llmc" / "state")
    monkeypatch.setattr(Cas, "_judge", lambda self, fd, digest, found: True)
    house.build_here()
    assert house.wrong()


def test_every_step_is_counted(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.build_here()
    assert house.executions() == Counter(STEPS)
