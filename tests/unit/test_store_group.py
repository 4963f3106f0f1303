"""Group commit: what is told to be durable is, and a build neither waits for nothing nor loses a failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from llmc_build.store.group import GATHER_S, GroupCommit
from llmc_build.store.index import DiskIndex, IndexUnavailableError, MemoryIndex

ITEMS = [(f"{i:064x}", b"%d" % i) for i in range(500)]


class Slow(MemoryIndex):
    """An index on a slow disk, that counts its transactions and may break."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []
        self.gate = threading.Event()
        self.broken = False

    def put_many(self, items: Iterable[tuple[str, bytes]]) -> None:
        rows = list(items)
        assert self.gate.wait(10)
        if self.broken:
            raise IndexUnavailableError("the disk is full")
        super().put_many(rows)
        self.groups.append(len(rows))


def collect(group: GroupCommit, number: int) -> list[str]:
    keys: list[str] = []
    limit = time.monotonic() + 20
    while len(keys) < number:
        found, failed = group.ended(1.0)
        assert failed is None
        keys += found
        assert time.monotonic() < limit
    return keys


def test_a_key_is_told_only_when_its_commit_has_ended() -> None:
    index = Slow()
    group = GroupCommit(lambda: index)
    group.submit(*ITEMS[0])
    assert group.ended(0.1) == ([], None)
    assert group.busy
    index.gate.set()
    assert collect(group, 1) == [ITEMS[0][0]]
    assert index.get(ITEMS[0][0]) == ITEMS[0][1]
    assert not group.busy
    group.close()


def test_results_that_come_while_a_commit_is_on_its_way_share_the_next_one() -> None:
    """Else every short step would cost a sync of the disk."""
    index = Slow()
    group = GroupCommit(lambda: index)
    group.submit(*ITEMS[0])
    time.sleep(5 * GATHER_S)  # the first is on its way
    for item in ITEMS[1:]:
        group.submit(*item)
    index.gate.set()
    assert sorted(collect(group, len(ITEMS))) == [key for key, _ in ITEMS]
    assert index.groups == [1, len(ITEMS) - 1]
    group.close()


def test_who_waits_for_a_commit_is_told_of_it_and_others_are_woken() -> None:
    index, woken = Slow(), threading.Event()
    index.gate.set()
    group = GroupCommit(lambda: index)
    group.wake = woken.set
    group.submit(*ITEMS[0])
    assert woken.wait(10)
    assert collect(group, 1)
    group.close()


def test_a_failure_gives_back_everything_that_could_not_be_written() -> None:
    index = Slow()
    index.broken = True
    group = GroupCommit(lambda: index)
    for item in ITEMS[:3]:
        group.submit(*item)
    index.gate.set()
    keys, failed = [], None
    while failed is None:
        keys, failed = group.ended(1.0)
    assert keys == []
    assert failed == ("the disk is full", ITEMS[:3])
    assert not group.busy
    group.close()


@pytest.mark.parametrize("number", [1, 500])
def test_closing_commits_what_was_handed_in(tmp_path: Path, number: int) -> None:
    group = GroupCommit(lambda: DiskIndex(tmp_path))
    for item in ITEMS[:number]:
        group.submit(*item)
    group.close()
    assert DiskIndex(tmp_path).get_many(key for key, _ in ITEMS) == dict(ITEMS[:number])


def test_an_unforeseen_error_ends_the_commit_and_not_the_thread() -> None:
    """A thread that died would leave the build waiting for a commit that never ends."""

    class Odd(MemoryIndex):
        def put_many(self, items: Iterable[tuple[str, bytes]]) -> None:
            raise RuntimeError("never seen before")

    group = GroupCommit(Odd)
    for item in ITEMS[:2]:
        group.submit(*item)
        failed = None
        limit = time.monotonic() + 20
        while failed is None:
            _, failed = group.ended(1.0)
            assert time.monotonic() < limit
        assert failed == ("RuntimeError: never seen before", [item])
    group.close()
