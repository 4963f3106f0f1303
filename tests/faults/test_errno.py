"""Builds in which any system call fails: the result is right or the error honest, and the next build heals."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.house import HONEST, House
from tests.faults.points import Points, injected, needs_strace, was_hit

DISK = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOMEM")
OPENING = (
    "ENOSPC",
    "EIO",
    "EDQUOT",
    "EROFS",
    "EACCES",
    "EMFILE",
    "ENFILE",
    "ENOMEM",
    "EINTR",
    "ENOENT",
    "ELOOP",
)
WRITING = ("ENOSPC", "EIO", "EDQUOT", "EINTR", "ENOMEM", "EFBIG", "EAGAIN")
READING = ("EIO", "EINTR", "EACCES", "ENOMEM")
LOCKING = ("EAGAIN", "EACCES", "ENOLCK", "EINTR", "EIO")
FAULTS = {
    "openat": OPENING,
    "write": ("ENOSPC", "EIO", "EDQUOT", "EFBIG", "EINTR"),
    "writev": WRITING,
    "pwrite64": WRITING,
    "fsync": ("EIO", "ENOSPC", "EDQUOT", "EROFS"),
    "fdatasync": ("EIO", "ENOSPC", "EDQUOT", "EROFS"),
    "rename": DISK,
    "renameat": DISK,
    "link": DISK,
    "linkat": DISK,
    "symlink": DISK,
    "symlinkat": DISK,
    "unlink": DISK,
    "unlinkat": DISK,
    "rmdir": DISK,
    "mkdir": DISK,
    "mkdirat": DISK,
    "ftruncate": WRITING,
    "fallocate": WRITING,
    "fchmod": DISK,
    "fchmodat": DISK,
    "fchown": DISK,
    "utimensat": DISK,
    "copy_file_range": (*WRITING, "EXDEV", "ENOSYS", "EOPNOTSUPP"),
    "fcntl": LOCKING,
    "flock": LOCKING,
    "read": READING,
    "readv": READING,
    "pread64": READING,
    "getdents64": ("EIO", "EACCES", "ENOMEM"),
    "newfstatat": ("EIO", "EACCES", "ENOMEM", "ELOOP"),
    "statx": ("EIO", "EACCES", "ENOMEM", "ELOOP"),
    "lseek": ("EIO", "EINVAL"),
    "readlink": ("EIO", "EACCES"),
    "mmap": ("ENOMEM", "EACCES", "EAGAIN"),
    "memfd_create": ("ENOMEM", "EMFILE"),
    "pipe2": ("EMFILE", "ENFILE"),
    "socketpair": ("EMFILE", "ENFILE", "ENOMEM"),
    "clone": ("EAGAIN", "ENOMEM"),
    "clone3": ("EAGAIN", "ENOMEM", "EPERM"),
    "vfork": ("EAGAIN", "ENOMEM"),
    "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "sendto": ("ENOMEM", "ENOBUFS"),
    "statfs": ("EIO", "ENOSYS"),
    "getcwd": ("ENOENT", "EACCES"),
}


@pytest.mark.timeout(250)
def test_a_build_in_which_a_system_call_fails_is_right_or_says_why(
    tmp_path: Path, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    """Once, or from some call on for ever, as on a disk that is gone."""
    needs_strace(tmp_path)
    house = House(tmp_path)
    points = Points(house, FAULTS)
    for number in range(amount(12, 1000)):
        if chance.random() < 0.4:
            house.forget()
        house.edit(f"s{number}" if chance.random() < 0.7 else house.source, f"m{number}")
        point, lasting = points.choose(chance), chance.random() < 0.3
        error = chance.choice(FAULTS[point.call])
        if lasting and error in ("EINTR", "EAGAIN"):  # what is to be tried again must succeed some day
            lasting = False
        wrap, command = injected(house, point, f"error={error}", lasting=lasting)
        what = f"{error} at {point}{' and after it' if lasting else ''} (round {number})"
        # a lock that is never had looks like one that somebody holds: the store is waited for, 60 s each time
        ended = house.build(wrap=wrap, command=command, timeout_s=400 if point.call == "fcntl" else 120)
        before = house.executions()
        assert ended.code in HONEST, (what, ended)
        assert not re.search("^Traceback", ended.stderr, re.MULTILINE), (what, ended.stderr)
        assert ended.code == 0 or ended.stderr.strip() or point.call == "write", (what, "nothing was said")
        if ended.code == 0:
            assert house.seen() == house.expected(), what
        else:
            tally["ended in an error"] += 1
        assert not {
            f"out/w/{name}" for name in ended.acknowledged if f".llmc/out/w/{name}" in house.wrong()
        }, what
        try:
            house.heals(ended, before)
        except AssertionError as failure:
            raise AssertionError(what) from failure
        tally["errors injected"] += 1
        tally[f"in {point.role}"] += 1
        tally["lasting"] += lasting
        tally["not reached"] += not was_hit(house)
    assert house.litter() == []
