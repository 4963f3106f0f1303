"""Remembered digests: never another content's, whatever happens to the file or to what is remembered."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from llmc_build.snapshot import stamps
from llmc_build.store import files, state
from llmc_build.store.cas import digest_of
from llmc_build.store.state import FileDigests


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, in order."""
    seen: list[str] = []
    real = state._hash

    def spy(name: str) -> object:
        seen.append(os.path.basename(name))
        return real(name)

    monkeypatch.setattr(state, "_hash", spy)
    return seen


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A file that has not changed for a while."""
    path = tmp_path / "input"
    path.write_bytes(b"content")
    time.sleep(stamps.TICK_NS * 2 / 1e9)
    return path


def test_a_digest_is_remembered_within_and_across_processes(
    tmp_path: Path, old_file: Path, hashed: list[str]
) -> None:
    memory = tmp_path / ".llmc" / "state" / "digests"
    digests = FileDigests(memory)
    for _ in range(3):
        assert digests.digest(old_file) == digest_of(b"content")
    digests.save()
    assert FileDigests(memory).digest(old_file) == digest_of(b"content")
    assert hashed == ["input"]


@pytest.mark.parametrize("same_size", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_change_is_seen(tmp_path: Path, old_file: Path, same_size: bool, in_place: bool) -> None:
    digests = FileDigests(tmp_path / "digests")
    before = digests.digest(old_file)
    new = b"CONTENT" if same_size else b"longer content"
    times = old_file.stat().st_atime_ns, old_file.stat().st_mtime_ns
    if in_place:
        old_file.write_bytes(new)
    else:
        (tmp_path / "new").write_bytes(new)
        (tmp_path / "new").rename(old_file)
    os.utime(old_file, ns=times)  # a tool may set the old time again: the change time shows it
    assert digests.changed(old_file, before)
    assert digests.digest(old_file) == digest_of(new)


def test_a_file_that_changed_just_now_is_read_again(tmp_path: Path, hashed: list[str]) -> None:
    """It may change once more within the same tick of the clock, and look the same."""
    path = tmp_path / "input"
    digests = FileDigests(tmp_path / "digests")
    path.write_bytes(b"content")
    digests.digest(path)
    digests.digest(path)
    assert hashed == ["input", "input"]


def test_a_second_change_within_one_tick_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The racy case itself: equal size, inode and times, different bytes."""
    path = tmp_path / "input"
    path.write_bytes(b"first")
    digests = FileDigests(tmp_path / "digests")
    stamp = digests_stamp(path)
    monkeypatch.setattr(state.files, "stamp", lambda found: stamp)
    monkeypatch.setattr(state.time, "time_ns", lambda: stamp[4] + stamps.TICK_NS // 2)
    assert digests.digest(path) == digest_of(b"first")
    path.write_bytes(b"other")
    assert digests.digest(path) == digest_of(b"other")


def digests_stamp(path: Path) -> tuple[int, int, int, int, int]:
    found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@pytest.mark.parametrize(
    ("mtime", "ctime", "began", "fresh"),
    [
        (1_500_000_001, 1_500_000_001, 1_500_000_001 + stamps.TICK_NS, True),
        (1_500_000_001, 1_500_000_001, 1_500_000_002 + stamps.TICK_NS, False),
        (1, 1_500_000_001, 1_500_000_001, True),
        (10_000_000_001, 1, 9_000_000_000, True),  # a time in the future
        (5_000_000_000, 5_000_000_000, 6_999_999_999, True),  # whole seconds: a coarse clock
        (5_000_000_000, 5_000_000_000, 7_000_000_001, False),
    ],
)
def test_fresh_means_within_the_granularity_of_the_clock(
    mtime: int, ctime: int, began: int, fresh: bool
) -> None:
    assert state._is_fresh((1, 1, 1, mtime, ctime), began) is fresh


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, old_file: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
) -> None:
    real = state.files.digest_fd

    def busy(fd: int) -> object:
        found = real(fd)
        with old_file.open("ab") as file:
            file.write(b"+")
        return found

    monkeypatch.setattr(state.files, "digest_fd", busy)
    digests = FileDigests(tmp_path / "digests")
    digests.digest(old_file)
    monkeypatch.undo()
    assert digests.digest(old_file) == digest_of(old_file.read_bytes())


def test_what_is_not_there_has_no_digest(tmp_path: Path, old_file: Path) -> None:
    digests = FileDigests(tmp_path / "digests")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "nowhere", tmp_path / "dangling", old_file / "below"):
        assert digests.digest(path) is None
    assert digests.digest(old_file) is not None
    old_file.unlink()
    assert digests.digest(old_file) is None
    assert not digests.changed(old_file, None)


@pytest.mark.timeout(20)
def test_only_files_have_digests(tmp_path: Path) -> None:
    """A pipe would be waited for, a device may do anything."""
    digests = FileDigests(tmp_path / "digests")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(IsADirectoryError):
        digests.digest(tmp_path)
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a plain file"):
            digests.digest(path)
        assert digests.changed(path, None)


def test_a_symlink_to_a_file_has_the_digest_of_the_file(tmp_path: Path, old_file: Path) -> None:
    (tmp_path / "link").symlink_to(old_file)
    assert FileDigests(tmp_path / "digests").digest(tmp_path / "link") == digest_of(b"content")


@pytest.mark.parametrize("damage", ["empty", "cut", "flip", "garbage", "folder", "other shape"])
def test_a_damaged_memory_is_forgotten(
    tmp_path: Path, old_file: Path, hashed: list[str], damage: str
) -> None:
    """A flipped bit in a remembered digest would otherwise be a wrong result."""
    memory = tmp_path / "digests"
    digests = FileDigests(memory)
    digests.digest(old_file)
    digests.save()
    data = memory.read_bytes()
    if damage == "folder":
        memory.unlink()
        memory.mkdir()
    elif damage == "other shape":
        state._write(memory, {str(old_file): [1, 2], "x": None, "y": [1, 2, 3, 4, 5, "no hash"]})
    else:
        at = data.index(digest_of(b"content").hash.encode()) + 3
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        memory.write_bytes({"empty": b"", "cut": data[:-9], "garbage": b"\xff" * 99}.get(damage, flipped))
    assert FileDigests(memory).digest(old_file) == digest_of(b"content")
    assert hashed == ["input", "input"]


def test_nothing_new_writes_nothing(tmp_path: Path, old_file: Path) -> None:
    memory = tmp_path / "digests"
    digests = FileDigests(memory)
    digests.digest(old_file)
    digests.save()
    before = files.stamp(memory.stat())
    again = FileDigests(memory)
    again.digest(old_file)
    again.save()
    assert files.stamp(memory.stat()) == before


def test_files_of_other_builds_stay_remembered(tmp_path: Path, old_file: Path, hashed: list[str]) -> None:
    memory = tmp_path / "digests"
    other = tmp_path / "other"
    other.write_bytes(b"x")
    time.sleep(stamps.TICK_NS * 2 / 1e9)
    for path in (old_file, other, old_file):
        digests = FileDigests(memory)
        digests.digest(path)
        digests.save()
    assert hashed == ["input", "other"]


def test_what_is_remembered_holds_for_one_start_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a file may have lost its bytes and kept its times: it is hashed again."""
    source = tmp_path / "source"
    source.write_text("x")
    os.utime(source, ns=(10**18 + 123, 10**18 + 123))
    time.sleep(0.05)
    digests = FileDigests(tmp_path / "digests")
    digests.digest(source)
    digests.save()
    assert state._load_digests(tmp_path / "digests")
    monkeypatch.setattr(state, "boot", lambda: "another start")
    assert not state._load_digests(tmp_path / "digests")
