"""How many threads a computation is worth on this machine.

Owns nothing but that number.  Threads of llama.cpp wait for each other actively, so one more than there
are processors costs far more than one less: what the process may not use must not be counted.
"""

from __future__ import annotations

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))


def usable_cores() -> int:
    """Physical cores that this process may run on, within the time its cgroup grants; at least 1."""
    allowed = _allowed()
    cores = len({_core(cpu) for cpu in allowed}) if allowed else os.cpu_count() or 1
    quota = _quota()
    return max(1, cores if quota is None else min(cores, round(quota)))


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set()


def _core(cpu: int) -> str:
    """What names the core of a processor: the list of the processors that share it."""
    try:
        return (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text("ascii").strip()
    except (OSError, ValueError):
        return str(cpu)


def _quota() -> float | None:
    """Processors' worth of time that the cgroup grants; None without a limit."""
    try:
        granted, period = _QUOTA.read_text("ascii").split()[:2]
    except (OSError, ValueError):
        try:
            granted, period = (path.read_text("ascii").strip() for path in _QUOTA_V1)
        except (OSError, ValueError):
            return None
    try:
        limit = float(granted) / float(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return None
    return limit if limit > 0 else None
