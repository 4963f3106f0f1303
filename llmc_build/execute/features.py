"""What this system offers to hold processes together, for `llmc doctor`.  It changes nothing."""

from __future__ import annotations

from typing import Final, NamedTuple

from llmc_build.execute import cage, osdep, strict

STRICT: Final = "sandbox: strict"


class Feature(NamedTuple):
    """What something is done with here."""

    name: str
    used: str  # what is in use; "none"
    note: str  # what follows from that; empty: all is well


def in_use() -> list[Feature]:
    """In a fixed order, the same names on every system."""
    return [_orphans(), _mark(), _death(), _awaited(), _processes(), _strict()]


def _orphans() -> Feature:
    before = osdep.adopt_orphans(True)
    adopts = osdep.adopts_orphans()
    osdep.adopt_orphans(before)
    if adopts:
        return Feature("descendants of a step", "child subreaper", "")
    note = "what leaves its group and its parents and outlives a good end of its step is not found"
    return Feature("descendants of a step", "process groups, ancestry and environment", note)


def _mark() -> Feature:
    if osdep.can_mark():
        return Feature("mark of a step's processes", "RLIMIT_LOCKS and environment", "")
    note = "a process that clears its environment is not found when its worker is killed"
    return Feature("mark of a step's processes", "environment", note)


def _death() -> Feature:
    used = (
        "PDEATHSIG, closed connections and a guardian" if osdep.LINUX else "closed connections and a guardian"
    )
    return Feature("death of llmc", used, "")


def _awaited() -> Feature:
    return Feature("end of a process", "pidfd" if osdep.has_pidfds() else "SIGCHLD", "")


def _processes() -> Feature:
    folder = cage.place()
    if folder is not None:
        return Feature("limit on processes", f"cgroup {folder}", "")
    return Feature("limit on processes", "none", "a step that forks without end is ended by its timeout only")


def _strict() -> Feature:
    try:
        return Feature(STRICT, strict.bubblewrap(), "")
    except strict.NoStrictSandbox as why:
        return Feature(STRICT, "none", str(why))
