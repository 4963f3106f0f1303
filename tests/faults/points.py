"""Faults at system calls, by strace: which calls a build makes, and how one of them is made to fail.

strace counts calls by name and by thread, so a point is the role of a thread, a call, and a number. Which points
there are is seen in the trace of one build.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.house import House

_LINE = re.compile(r"(\d+)\s+(?:<\.\.\. )?(\w+)(.*)")


def needs_strace(folder: Path) -> None:
    """Skips the test where system calls can't be tampered with."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: no fault can be injected at a system call")
    tried = subprocess.run(
        ["strace", "-f", "-o", str(folder / "tried"), "-e", "inject=getppid:error=EIO", "true"],
        capture_output=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"strace may not trace here: {tried.stderr.decode(errors='replace').strip()[:200]}")


@dataclass(frozen=True)
class Point:
    """The `number`th call of a system call by a thread in a role."""

    role: str  # main: of llmc itself; commit: its thread that writes the index; worker: starts the steps
    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.role} {self.call} {self.number}"


class Points:
    """The calls that a build of a house makes once it has begun to work: role -> call -> (first, last)."""

    def __init__(self, house: House, calls: Collection[str] | None = None) -> None:
        """`calls`: those of interest; None: every one."""
        trace = house.root / "trace"
        ended = house.build(wrap=["strace", "-f", "-o", str(trace)])
        assert ended.code == 0, ended.stderr
        self.of: dict[str, dict[str, tuple[int, int]]] = {}
        counts: Counter[tuple[str, str]] = Counter()
        first: dict[tuple[str, str], int] = {}
        roles: dict[str, str] = {}
        begun = False
        for line in trace.read_text("utf-8", "replace").splitlines():
            found = _LINE.match(line)
            if found is None or " resumed>" in line:
                continue
            thread, call, rest = found.groups()
            role = roles.setdefault(thread, "commit" if roles else "main")
            if call == "execve" and role != "main":
                role = roles[thread] = (
                    "worker" if "llmc_build.execute.worker" in rest or '"-I"' in rest else "step"
                )
            begun = begun or ".llmc/" in rest
            counts[thread, call] += 1
            if begun and role != "step" and (calls is None or call in calls):
                first.setdefault((thread, call), counts[thread, call])
        main = next(thread for thread, role in roles.items() if role == "main")
        for (thread, call), number in first.items():
            role, last = roles[thread], counts[thread, call]
            if role == "commit":  # the main thread, which counts for itself, must be past Python's own start
                number = max(number, first.get((main, call), counts[main, call] + 1))
            if number <= last and call not in ("exit", "exit_group", "execve"):
                known = self.of.setdefault(role, {}).get(call, (number, number))
                self.of[role][call] = (min(known[0], number), max(known[1], last))

    def choose(self, chance: random.Random) -> Point:
        """Any call of any role: seldom ones as often as frequent ones, for the seldom ones write."""
        role = chance.choice(["main", "main", "commit", "worker"])
        call = chance.choice(sorted(self.of[role]))
        return Point(role, call, chance.randint(*self.of[role][call]))


def injected(
    house: House, point: Point, fault: str, more: Sequence[str] = (), *, lasting: bool = False
) -> tuple[list[str], list[str]]:
    """(what to put before a command, the command of a build) with a fault at a point, or from there on.

    `fault` as strace has it: `signal=SIGKILL`, `error=ENOSPC`. A worker gets a strace of its own, for its
    parent has made most calls more often: llmc starts it by the name of its interpreter.
    """
    when = f"{point.number}+" if lasting else f"{point.number}"
    strace = ["strace", "-f", "-o", str(house.root / "injected")]
    strace += ["-e", f"trace={point.call}", "-e", f"inject={point.call}:{fault}:when={when}"]
    if point.role != "worker":
        return strace, house.command("--events", str(house.events), *more)
    python = house.root / "python"
    quoted = " ".join(f"'{word}'" for word in [*strace, "-D", sys.executable])
    python.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
    python.chmod(0o755)
    code = f"import sys; sys.executable = {str(python)!r}; from llmc_build.__main__ import main; main()"
    command = house.command("--events", str(house.events), *more)
    return [], [sys.executable, "-c", code, *command[3:]]


def was_hit(house: House) -> bool:
    """Whether the last injection came about: its call was made often enough."""
    text = (
        (house.root / "injected").read_text("utf-8", "replace") if (house.root / "injected").exists() else ""
    )
    return "(INJECTED)" in text or "killed by SIGKILL" in text
