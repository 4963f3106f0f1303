"""One command as a whole process: wall seconds, CPU seconds, memory.  Its output goes to /dev/null.

The CPU seconds are those of the whole process tree (user and system), so they say something on a busy machine
too.  The peak is that of the largest process, from the kernel.  The sum over all processes of the tree is
sampled four times a second (proportional set size: shared pages count once), on Linux only, so short commands
have none.
"""

from __future__ import annotations

import glob
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SPAWN = str(Path(__file__).with_name("spawn.py"))
SAMPLE_S = 0.25


@dataclass(frozen=True, slots=True)
class Sample:
    seconds: float
    cpu_s: float
    peak_mb: float  # of the largest process
    sum_mb: float | None  # of all processes; None: too short to be sampled


class Failed(Exception):
    """A tool did not do what it had to, so what it took says nothing."""


def clean_environment() -> dict[str, str]:
    """Without what `make bench`, or the user's settings of a tool, would say to the tools measured."""
    drop = ("MAKE", "MFLAGS", "LLMC_", "NINJA_STATUS", "SNAKEMAKE", "PYTHONSTARTUP")
    return {k: v for k, v in os.environ.items() if not k.startswith(drop)}


def run(command: list[str], folder: Path, limit_s: float) -> Sample:
    """Raises Failed where the command fails or takes longer than the limit."""
    os.sync()  # what the command before left to be written is not this one's to wait for
    spawn = subprocess.Popen(
        [sys.executable, "-I", "-S", SPAWN, *command],
        cwd=folder,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert spawn.stdout is not None
    sums: list[float] = []
    left = limit_s
    while not select.select([spawn.stdout], [], [], SAMPLE_S)[0]:
        sums += _sum_mb(spawn.pid)
        left -= SAMPLE_S
        if left < 0:
            _stop(spawn)
            raise Failed(f"stopped: it took longer than {limit_s:.0f} s")
    told = json.loads(spawn.stdout.read())
    spawn.stdout.close()
    spawn.wait()
    if told["status"]:
        words = [Path(command[0]).name, *command[1:]]
        raise Failed(f"`{' '.join(words)}` ended with status {told['status']}")
    return Sample(told["seconds"], told["cpu_s"], told["peak_kb"] / 1024, max(sums, default=None))


def floor_mb() -> float:
    """The least that a peak can be here: what a process that does nothing is shown with."""
    return run(["true"], Path.cwd(), 60).peak_mb


def _stop(spawn: subprocess.Popen[bytes]) -> None:
    """An interrupt first, so that a tool can end what it started."""
    for sign in (signal.SIGINT, signal.SIGKILL):
        for pid in _descendants(spawn.pid) or [spawn.pid]:
            try:
                os.kill(pid, sign)
            except ProcessLookupError:
                continue
        try:
            spawn.wait(10)
            return
        except subprocess.TimeoutExpired:
            continue


def _descendants(pid: int) -> list[int]:
    """Empty where there is no /proc.  Any of them may end while we look."""
    found: list[int] = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            children = [int(c) for c in Path(path).read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found


def _sum_mb(pid: int) -> list[float]:
    total = 0
    for one in _descendants(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it ended between the two looks
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return [total / 1024] if total else []
