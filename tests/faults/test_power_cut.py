"""Power cuts: the image of a disk is copied while a build writes to it, and is what the next start finds.

Nothing acknowledged is lost and nothing is wrong; with syncing turned off, the same check must fail.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.house import Ended, House
from tests.faults.points import needs_strace

WITHOUT_SYNC = ["strace", "-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]
WITHOUT_SYNC += ["-e", "inject=fsync,fdatasync:retval=0"]
CUTS = 5  # images of one build


@dataclass
class Cut:
    """The disk as it was at one moment, and what had been reported as done before."""

    image: Path
    acknowledged: set[str]


def run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stderr.decode("utf-8", "replace"))


class Disk:
    """An ext4 in a file, in memory: it is copied within a moment."""

    def __init__(self, folder: Path, where: Path) -> None:
        self.folder, self.where = folder, where
        self.image = folder / "image"
        with self.image.open("wb") as file:
            file.truncate(24 << 20)
        run("mkfs.ext4", "-q", "-b", "1024", "-J", "size=4", "-E", "lazy_itable_init=0", self.image)

    @contextlib.contextmanager
    def mounted(self, image: Path) -> Iterator[None]:
        run("mount", "-o", "loop", image, self.where)
        try:
            yield
        finally:
            run("umount", self.where)

    def cut(self, name: str) -> Path | None:
        """The image at one moment; None where it never held still for long enough."""
        copy = self.folder / name
        for _ in range(50):
            before = self.image.stat().st_mtime_ns
            shutil.copyfile(self.image, copy)
            if self.image.stat().st_mtime_ns == before:
                return copy
        copy.unlink()
        return None


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    needs_strace(tmp_path)
    for tool in ("mkfs.ext4", "fsck.ext4", "losetup", "unshare"):
        if shutil.which(tool, path=f"{os.environ['PATH']}:/sbin:/usr/sbin") is None:
            pytest.skip(f"{tool} is not installed: no disk can be made to lose its power")
    folder = Path("/dev/shm") / f"llmc-power-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (tmp_path / "disk").mkdir()
    try:
        made = Disk(folder, tmp_path / "disk")
        tried = subprocess.run(
            ["mount", "-o", "loop", str(made.image), str(made.where)], capture_output=True, check=False
        )
        if tried.returncode:
            pytest.skip(f"may not mount a loop device: {tried.stderr.decode(errors='replace').strip()}")
        run("umount", made.where)
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def house_on(disk: Disk, root: Path) -> House:
    return House(root, work=disk.where / "work")


def starts_again(house: House, number: int) -> None:
    """The machine gets another boot id, as after a real power cut."""
    fake = house.root / "boot_id"
    fake.write_text(f"00000000-0000-0000-0000-{number:012}\n")
    code = f'mount --bind "{fake}" /proc/sys/kernel/random/boot_id && exec "$@"'
    house.wrap = ["unshare", "-m", "sh", "-c", code, "sh"]


def cuts(disk: Disk, house: House, chance: random.Random, number: int, wrap: list[str]) -> list[Cut]:
    """Builds on the disk, and cuts its power at some moments."""
    found: list[Cut] = []
    house.events.unlink(missing_ok=True)
    command = [*house.wrap, *wrap, *house.command("--events", str(house.events))]
    process = subprocess.Popen(
        command, cwd=house.work, env=house.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while process.poll() is None and not house.events.exists():
            time.sleep(0.005)
        over = False
        while not over:
            if len(found) == CUTS - 1:
                process.wait(60)
            over = process.poll() is not None
            time.sleep(0 if over else chance.uniform(0, 0.3))
            acknowledged = house.ended(0, "").acknowledged
            image = disk.cut(f"cut{number}-{len(found)}")
            if image is not None:
                found.append(Cut(image, acknowledged))
    finally:
        process.wait(60)
    return found


def check(disk: Disk, house: House, cut: Cut) -> None:
    """What the next start finds on the disk."""
    try:
        with disk.mounted(cut.image):  # which replays the journal
            before = house.executions()
            house.heals(Ended(code=0, stderr="", acknowledged=cut.acknowledged), before)
        run("fsck.ext4", "-fn", cut.image)
    finally:
        cut.image.unlink()


@pytest.mark.timeout(250)
def test_a_power_cut_loses_nothing_that_was_acknowledged(
    tmp_path: Path,
    disk: Disk,
    amount: Callable[[int, int], int],
    chance: random.Random,
    tally: Counter[str],
) -> None:
    """Workspace and store on the disk; the first build there, and builds after an edit."""
    with disk.mounted(disk.image):
        house = house_on(disk, tmp_path)
        run("sync", "-f", disk.where)
    done, number, wanted = 0, 0, amount(10, 300)
    while done < wanted:
        number += 1
        starts_again(house, number)
        with disk.mounted(disk.image):
            if chance.random() < 0.4:
                house.forget()
            house.edit(f"s{number}", f"m{number}")
            run("sync", "-f", disk.where)
            found = cuts(disk, house, chance, number, [])
        starts_again(house, number + 1_000_000)
        for cut in found:
            check(disk, house, cut)
            tally["images"] += 1
            tally["results acknowledged before"] += len(cut.acknowledged)
        done += len(found)
    assert tally["results acknowledged before"] > 0


@pytest.mark.timeout(120)
def test_without_syncing_the_check_fails(
    tmp_path: Path, disk: Disk, chance: random.Random, tally: Counter[str]
) -> None:
    """The control: were results reported before they are on the disk, this would be seen."""
    with disk.mounted(disk.image):
        house = house_on(disk, tmp_path)
        run("sync", "-f", disk.where)
        found = cuts(disk, house, chance, 0, WITHOUT_SYNC)
    assert found[-1].acknowledged
    lost = 0
    for cut in found:
        try:
            check(disk, house, cut)
        except AssertionError:
            lost += 1
    tally["images without syncing"] += len(found)
    tally["of which lost something"] += lost
    assert lost
