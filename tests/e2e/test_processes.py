"""llmc as a process: interrupts, kills, and several at once on one store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmc_build.api import clean
from llmc_build.errors import StoreError
from tests.conftest import Space

LLMC = [sys.executable, "-m", "llmc_build"]


def start(space: Space, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LLMC, "build", *args, "--json"],
        cwd=space.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CI": "true", "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )


def wait_for(path: Path) -> None:
    limit = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < limit, f"{path} never came"
        time.sleep(0.01)


def processes(marker: str) -> list[str]:
    """Command lines that hold a marker, of processes that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marker in line:
            found.append(line)
    return found


def gone(marker: str) -> bool:
    limit = time.monotonic() + 15
    while processes(marker) and time.monotonic() < limit:
        time.sleep(0.05)
    return not processes(marker)


def slow(space: Space, marker: str) -> Path:
    """A quick step, then one that marks its start and sleeps; two more wait behind."""
    mark = space.root / "started"
    space.write(
        "flow.yaml",
        f"""
        name: w
        steps:
          - {{name: quick, command: echo quick}}
          - {{name: slow, command: 'echo > {mark}; setsid sleep {marker} & sleep {marker}'}}
          - {{name: after, command: echo after}}
        """,
    )
    return mark


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_clean_waits_for_the_end_of_a_build(space: Space, end: signal.Signals) -> None:
    mark = slow(space, f"1000.{int(end)}661")
    build = start(space, "flow.yaml")
    wait_for(mark)
    with pytest.raises(StoreError, match=rf"a build \(process {build.pid}\) is at work in this workspace"):
        clean(workspace=space.root)
    assert (space.root / ".llmc" / "out" / "w" / "quick").read_text() == "quick\n"
    build.send_signal(end)
    build.communicate(timeout=60)
    clean(workspace=space.root)
    assert not (space.root / ".llmc" / "out").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_what_runs_keeps_what_is_done_and_records_the_run(
    space: Space, number: signal.Signals, code: int
) -> None:
    marker = f"1000.{int(number)}771"
    mark = slow(space, marker)
    process = start(space, "flow.yaml")
    wait_for(mark)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code
    report = json.loads(out)
    assert report["exit_code"] == code
    assert {t["target"]: t["status"] for t in report["targets"]} == {
        "w.quick": "ran",
        "w.slow": "cancelled",
        "w.after": "cancelled",
    }
    assert gone(marker)
    assert json.loads((space.root / ".llmc/runs/latest/run.json").read_text())["exit_code"] == code
    space.edit("flow.yaml", f"sleep {marker} & sleep {marker}", "true")
    space.build("flow.yaml")
    assert space.ran == ["w.after", "w.slow"]


def test_a_second_interrupt_ends_at_once(space: Space) -> None:
    marker = "1000.8822"
    mark = space.root / "started"
    space.write(
        "flow.yaml",
        f"""
        name: w
        steps:
          - {{name: stubborn, command: 'trap "" INT TERM; echo > {mark}; while :; do sleep {marker}; done'}}
        """,
    )
    process = start(space, "flow.yaml")
    wait_for(mark)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - began < 1.9, "it waited for the step's grace period"
    assert gone(marker)


def test_after_kill_9_nothing_is_left_running_and_what_was_done_is_kept(space: Space) -> None:
    marker = "1000.9933"
    mark = slow(space, marker)
    process = start(space, "flow.yaml")
    wait_for(mark)
    assert process.stderr is not None
    assert any("ran w.quick" in line for line in process.stderr)  # what comes after it may begin before that
    process.kill()
    process.communicate(timeout=30)
    assert gone(marker)
    space.edit("flow.yaml", f"sleep {marker} & sleep {marker}", "true")
    space.build("flow.yaml")
    assert space.ran == ["w.after", "w.slow"]
    assert space.cached == ["w.quick"]


def test_several_at_once_on_one_store_run_an_action_once(tmp_path: Path) -> None:
    spaces = []
    count = tmp_path / "count"
    for i in range(4):
        space = Space(tmp_path / f"ws{i}")
        space.root.mkdir()
        space.write(
            "flow.yaml",
            f"""
            name: w{i}
            order: dataflow
            steps:
              - {{name: a, command: 'echo a >> {count}; sleep 0.5; echo a'}}
              - {{name: b, command: 'echo b >> {count}; sleep 0.3; echo b'}}
            """,
        )
        spaces.append(space)
    running = [start(space, "flow.yaml", "--cache-dir", str(tmp_path / "store")) for space in spaces]
    reports = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    assert [report["exit_code"] for report in reports] == [0, 0, 0, 0]
    assert sorted(count.read_text().split()) == ["a", "b"]
    assert sum(report["counts"]["ran"] for report in reports) == 2


def test_an_output_that_a_killed_build_had_placed_goes_with_its_step(space: Space) -> None:
    """Else it would stay for ever, where a glob of another step finds it."""
    mark = space.root / "started"
    space.write(
        "flow.yaml",
        f"""
        name: w
        steps:
          - {{name: page, command: echo page > page.md, outputs: [page.md]}}
          - {{name: slow, command: 'echo > {mark}; sleep 1000.4477'}}
        """,
    )
    process = start(space, "flow.yaml")
    wait_for(mark)
    process.kill()
    process.communicate(timeout=30)
    assert gone("1000.4477")
    assert space.read("page.md") == "page\n"
    space.write(
        "flow.yaml",
        "name: w\nsteps:\n  - {name: all, command: 'ls -1 | grep md || true', inputs: ['*.md']}\n",
    )
    space.build("flow.yaml")
    assert not (space.root / "page.md").exists()
    assert space.value("w.all") == ""  # the output of a step that is gone is no input
