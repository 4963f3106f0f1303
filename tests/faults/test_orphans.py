"""No descendant of a step outlives its build, however it hides and whatever is killed.

A scenario is a way of hiding and a way in which the build ends.  The hidden processes are known by a word of their
command line that no other process has, which survives what they do to their environment, session, files and
parents; that they were all there before the end is checked first.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Space
from tests.faults import trees

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

DAEMON = """import os, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.chdir("/"); os.umask(0); os.closerange(0, 256)
os.execve("/bin/sleep", ["sleep", sys.argv[1]], dict())
"""
CLOSED = "</dev/null >/dev/null 2>&1 3>&- 4>&-"
# MARKER: the marked duration.  Each must have its processes running within a moment.
HIDING = {
    "a plain child": "sleep MARKER &",
    "a child in its own session": "setsid sleep MARKER &",
    "a child without hangup": "nohup sleep MARKER >/dev/null 2>&1 &",
    "a double fork": "( (setsid sleep MARKER &) & )",
    "a cleared environment": "env -i setsid sleep MARKER &",
    "a double fork with a cleared environment and closed files": f"(env -i setsid sh -c '(sleep MARKER {CLOSED} &)' &)",
    "a daemon by the book": f"{sys.executable} -I -S -c '{DAEMON}' MARKER",
    "a child that ignores signals": "(trap '' TERM HUP INT; env -i setsid sleep MARKER &)",
    "a stopped child": "env -i setsid sleep MARKER & sleep 0.2; kill -STOP $!",
    "one that starts another whenever it dies": (
        "env -i setsid sh -c 'trap \"\" TERM HUP; while :; do (sleep MARKER &); sleep MARKER; done' &"
    ),
    "many": "i=0; while [ $i -lt 40 ]; do (env -i setsid sleep MARKER &); i=$((i+1)); done",
    "another subreaper": (
        f"{sys.executable} -I -S -c 'import ctypes, subprocess; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); "
        'subprocess.run(["/bin/sh", "-c", "(setsid sleep MARKER &); sleep MARKER"], env=dict())\' &'
    ),
}


class Scene:
    """A build whose step has hidden processes and goes on."""

    def __init__(self, space: Space, hiding: str, marker: str, *, timeout: str = "none") -> None:
        self.space, self.marker = space, marker
        mark = space.root / f"there-{marker}"
        script = HIDING[hiding].replace("MARKER", marker)
        space.write("hide.sh", script + "\n")
        space.write(
            "flow.yaml",
            f"""
            name: w
            order: dataflow
            steps:
              - {{name: before, command: echo before}}
              - name: hides
                timeout: {timeout}
                needs: before
                sandbox: false
                command: |
                  . ./hide.sh
                  : > {mark}
                  while :; do sleep 8{marker}; done
              - {{name: beside, command: 'sleep 9{marker}'}}
            """,
        )
        self.process = trees.start(space, "flow.yaml", "-j2")
        trees.until(lambda: (mark.exists() and self.hidden) or self.process.poll() is not None, hiding)
        assert self.process.poll() is None, self.process.communicate()

    def marked(self) -> list[trees.Seen]:
        return trees.with_marker(self.marker)

    @property
    def hidden(self) -> list[trees.Seen]:
        return [process for process in self.marked() if self.marker in process.argv]

    @property
    def llmc(self) -> int:
        return self.process.pid

    @property
    def workers(self) -> list[int]:
        return trees.workers(self.llmc)


def by_interrupt(scene: Scene, chance: random.Random) -> None:
    scene.process.send_signal(chance.choice([signal.SIGINT, signal.SIGTERM]))


def by_two_interrupts(scene: Scene, chance: random.Random) -> None:
    scene.process.send_signal(signal.SIGINT)
    time.sleep(chance.random() * 0.5)
    trees.kill([scene.llmc], signal.SIGTERM)


def by_hangup(scene: Scene, chance: random.Random) -> None:
    scene.process.send_signal(signal.SIGHUP)


def by_kill(scene: Scene, chance: random.Random) -> None:
    trees.kill([scene.llmc])


def by_kill_of_a_worker(scene: Scene, chance: random.Random) -> None:
    """Only the worker's steps end; the build goes on with the other, and is then ended."""
    trees.kill([chance.choice(scene.workers)])
    trees.kill(scene.workers)
    scene.process.wait(timeout=60)


def by_kill_of_llmc_and_all_workers(scene: Scene, chance: random.Random) -> None:
    trees.kill(chance.sample(pids := [scene.llmc, *scene.workers], len(pids)))


def by_kill_of_llmc_and_the_guardian(scene: Scene, chance: random.Random) -> None:
    trees.kill([*trees.guardian(scene.llmc), scene.llmc])


def by_kill_of_workers_and_the_guardian(scene: Scene, chance: random.Random) -> None:
    trees.kill([*trees.guardian(scene.llmc), *scene.workers])
    scene.process.wait(timeout=60)


def by_kill_while_workers_are_stopped(scene: Scene, chance: random.Random) -> None:
    workers = scene.workers
    trees.kill(workers, signal.SIGSTOP)
    trees.kill([scene.llmc])


def by_kill_of_all_that_has_llmc_in_its_name(scene: Scene, chance: random.Random) -> None:
    """What `pkill -9 -f llmc` does; of this build only, since others may run here."""
    listed = trees.everything()
    known = {scene.llmc}
    for process in sorted(listed, key=lambda process: process.pid):
        if process.parent in known:
            known.add(process.pid)
    trees.kill(p.pid for p in listed if p.pid in known and any("llmc" in word for word in p.argv))


def by_kill_of_everything_at_once(scene: Scene, chance: random.Random) -> None:
    """Nobody is left to look: the next build of the workspace does."""
    trees.kill([*trees.guardian(scene.llmc), *scene.workers, scene.llmc])
    scene.process.wait(timeout=60)
    scene.space.write("next.yaml", "name: n\nsteps:\n  - {name: a, command: echo a}\n")
    scene.space.build("next.yaml")


ENDINGS: tuple[Callable[[Scene, random.Random], None], ...] = (
    by_kill,
    by_kill_of_llmc_and_all_workers,
    by_kill_of_a_worker,
    by_kill_of_workers_and_the_guardian,
    by_kill_of_llmc_and_the_guardian,
    by_kill_of_everything_at_once,
    by_kill_of_all_that_has_llmc_in_its_name,
    by_kill_while_workers_are_stopped,
    by_interrupt,
    by_two_interrupts,
    by_hangup,
)


def test_nothing_of_a_step_outlives_its_build(
    space: Space,
    amount: Callable[[int, int], int],
    chance: random.Random,
    tally: Counter[str],
) -> None:
    every = [(hiding, ending) for hiding in HIDING for ending in ENDINGS]
    count = amount(8, 300)
    chosen = [*chance.sample(every, min(count, len(every))), *chance.choices(every, k=count)][:count]
    for number, (hiding, ending) in enumerate(chosen):
        scene = Scene(space, hiding, f"1000.{os.getpid()}{number:04}")
        there = len(scene.marked())
        time.sleep(chance.random() * 0.1)
        ending(scene, chance)
        left = trees.are_gone(scene.marked)
        trees.kill(process.pid for process in left)
        _bury(scene.process)
        assert not left, f"{hiding}, ended {ending.__name__}: {left}"
        tally["orphan scenarios"] += 1
        tally["processes that had to end"] += there
        tally["left running"] += len(left)


def test_a_timeout_leaves_nothing(
    space: Space, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    for number in range(amount(2, 40)):
        hiding = chance.choice(list(HIDING))
        scene = Scene(space, hiding, f"1000.7{os.getpid()}{number:04}", timeout="3s")
        report, _ = _end_of_beside(scene)
        assert not scene.marked(), hiding
        assert report is not None
        assert {t["target"]: t["error"] for t in report["targets"]}["w.hides"] == "timed out after 3 s"
        tally["timeouts"] += 1


def _end_of_beside(scene: Scene) -> tuple[dict[str, Any] | None, str]:
    """Waits until the step that hides things is over, and ends the one beside it, which a build waits for."""
    trees.until(lambda: len(scene.marked()) <= 2, "the step's end", 60)
    assert all(f"9{scene.marker}" in " ".join(process.argv) for process in scene.marked()), scene.marked()
    trees.kill(process.pid for process in scene.marked())
    return trees.ended(scene.process)


def _bury(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
