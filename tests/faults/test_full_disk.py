"""Builds whose store, or whole workspace, lies on a disk that is full, has no inodes left, or is read-only."""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.house import HONEST, House


@contextlib.contextmanager
def disk(where: Path, options: str) -> Iterator[Path]:
    """A small tmpfs; a visible skip where it may not be mounted."""
    where.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "llmc-test", str(where)]
    tried = subprocess.run(command, capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"may not mount a tmpfs here: {tried.stderr.decode(errors='replace').strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=False)


def change(where: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(where)], check=True)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("place", ["store", "workspace"])
@pytest.mark.parametrize("what", ["size", "nr_inodes"])
def test_a_disk_of_any_size_gets_full(
    tmp_path: Path,
    amount: Callable[[int, int], int],
    chance: random.Random,
    tally: Counter[str],
    place: str,
    what: str,
) -> None:
    """Of any size from nothing to enough: the values are right or the error says why; with room, all heals.

    A store that is full costs no build: it goes on uncached and says so.
    """
    for number in range(amount(2, 13)):
        most = {"size": 600, "nr_inodes": 90}[what]
        limit = chance.randrange(4 if what == "size" else 2, most)
        options = f"size={limit}k" if what == "size" else f"size=50m,nr_inodes={limit}"
        home = tmp_path / f"{number}"
        home.mkdir()
        with disk(tmp_path / f"disk{number}", "size=50m") as where:
            house = (
                House(home, cache=where / "store") if place == "store" else House(home, work=where / "work")
            )
            if chance.random() < 0.5:
                assert house.build().code == 0
                house.edit(f"s{number}", f"m{number}")
            used = int(
                subprocess.check_output(
                    ["df", "--output=" + ("used" if what == "size" else "iused"), str(where)]
                ).split()[-1]
            )
            change(where, f"size={used + limit}k" if what == "size" else f"nr_inodes={used + limit}")
            ended = house.build()
            before = house.executions()
            what_for = f"{options} for the {place}"
            assert ended.code in ({0} if place == "store" else HONEST), (what_for, ended)
            assert "Traceback" not in ended.stderr, (what_for, ended.stderr)
            assert "internal error" not in ended.stderr, (what_for, ended.stderr)
            if ended.code == 0:
                assert house.seen() == house.expected(), what_for
            else:
                assert ended.stderr.strip(), what_for
                tally["ended in an error"] += 1
            tally["went on uncached, and said so"] += "goes on uncached" in ended.stderr
            change(where, "size=50m" if what == "size" else "nr_inodes=100000")
            house.heals(ended, before)
            assert not list(house.spill.glob("llmc-*"))
            tally["full disks"] += 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("place", ["store", "workspace"])
def test_a_disk_becomes_read_only(
    tmp_path: Path, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str], place: str
) -> None:
    """A store that can only be read still serves hits; a workspace that can't be written is an error, exit 8."""
    for number in range(amount(2, 25)):
        home = tmp_path / f"{number}"
        home.mkdir()
        with disk(tmp_path / f"disk{number}", "size=50m") as where:
            house = (
                House(home, cache=where / "store") if place == "store" else House(home, work=where / "work")
            )
            filled = chance.random() < 0.7
            if filled:
                assert house.build().code == 0
                if place == "store":
                    house.edit(house.source, f"m{number}")
            change(where, "ro")
            before = house.executions()
            ended = house.build()
            after = house.executions() - before
            if place == "store":
                assert ended.code == 0, ended.stderr
                assert "goes on uncached" in ended.stderr
                assert house.seen() == house.expected()
                assert after.keys() <= {"reads", "steady", "after"} or not filled, after
            else:
                # what is up to date need not write, but for the record of the run
                assert ended.code in ({0, 8} if filled else {8}), ended
                assert not after
            change(where, "rw")
            house.heals(ended, house.executions())
            tally["read-only disks"] += 1
