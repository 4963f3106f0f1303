"""A real `llmc build` as a tree of processes, for tests that kill parts of it."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import Space

HERE = str(Path(__file__).parents[2])
LLMC = [sys.executable, "-m", "llmc_build"]
BEHIND_S = 20.0  # for what is killed to be gone


def start(space: Space, *args: str, **options: Any) -> subprocess.Popen[str]:
    """`llmc build ARGS --json` in a workspace, in a session of its own."""
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "start_new_session": True,
        "env": {**os.environ, "CI": "true", "PYTHONPATH": HERE},
        **options,
    }
    process = subprocess.Popen([*LLMC, "build", *args, "--json"], cwd=space.root, text=True, **options)
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    """Of a test that failed: nobody waits for its build any more."""
    if process.poll() is None:
        process.terminate()


def ended(process: subprocess.Popen[str], limit_s: float = 60.0) -> tuple[dict[str, Any] | None, str]:
    """(its report, where it printed one; its standard error)."""
    out, err = process.communicate(timeout=limit_s)
    return (json.loads(out) if out.strip() else None), err


def until(condition: Callable[[], object], what: str, limit_s: float = 30.0) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, f"{what} never came"
        time.sleep(0.002)


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as /proc shows it."""

    pid: int
    parent: int
    argv: tuple[str, ...]


def everything() -> list[Seen]:
    """Every process that is alive and no zombie."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                line = Path(f"/proc/{name}/stat").read_bytes()
                argv = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            state, parent = line[line.rindex(b")") + 2 :].split()[:2]
            if state not in (b"Z", b"X"):
                words = tuple(word.decode(errors="replace") for word in argv)
                found.append(Seen(int(name), int(parent), words))
    return found


def with_marker(marker: str) -> list[Seen]:
    """Processes whose command line has a marker somewhere: it survives whatever else they do."""
    return [process for process in everything() if any(marker in word for word in process.argv)]


def are_gone(find: Callable[[], list[Seen]], limit_s: float = BEHIND_S) -> list[Seen]:
    """What is still there when the time is over; empty as soon as nothing is."""
    limit = time.monotonic() + limit_s
    while (left := find()) and time.monotonic() < limit:
        time.sleep(0.02)
    return left


def workers(llmc: int) -> list[int]:
    """The shell workers of a running llmc."""
    return [p.pid for p in everything() if p.parent == llmc and any("execute.worker" in w for w in p.argv)]


def until_it_works(process: subprocess.Popen[str]) -> None:
    until(lambda: process.poll() is not None or workers(process.pid), "a worker")


def guardian(llmc: int) -> list[int]:
    return [p.pid for p in everything() if p.parent == llmc and p.argv[-2:-1] == ("guardian",)]


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
