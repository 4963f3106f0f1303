"""The pool with real worker processes: crashes, deadlines, cancels, several tasks in one worker, the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmc_build.execute import osdep
from llmc_build.execute.inline import Inline, TaskFailed
from llmc_build.execute.lane import LaneState
from llmc_build.execute.messages import restored, shortened
from llmc_build.execute.pool import Pool
from llmc_build.execute.protocol import (
    Done,
    Executor,
    Lane,
    Progress,
    Status,
    Task,
    content_data,
)

SHELL = Lane(kind="shell")
ROOT = Path(__file__).resolve().parents[2]

RUNNER = """
import ctypes, mmap, os, signal, subprocess, sys, threading, time
from llmc_build.execute.channel import ChannelClosed
from llmc_build.execute.messages import BEGUN

def serve(channel, config):
    if config.get("broken"):
        sys.exit("the model can't be loaded")
    time.sleep(config.get("slow_start", 0))
    channel.send(
        {"op": "ready", "capacity": config.get("capacity", 2), "tells": bool(config.get("tells"))}
    )
    held = set()
    try:
        while True:
            message = channel.recv()
            if message["op"] == "cancel":
                if message["id"] in held:
                    held.remove(message["id"])
                    done(channel, message["id"], "cancelled")
                continue
            request = message["request"]
            if request["do"] == "hold":
                held.add(message["id"])
            elif request["do"] == "count":
                for number in range(3):
                    channel.send({"op": "progress", "id": message["id"], "stats": {"tokens": number}})
                done(channel, message["id"], "ok", {"pid": os.getpid(), "name": request.get("name")})
            elif request["do"] == "named":
                BEGUN.pack_into(mmap.mmap(config["begun"], BEGUN.size), 0, message["id"])
                os.abort()
            elif request["do"] == "told":
                channel.send({"op": "progress", "id": message["id"], "stats": {"tokens": 0}})
                time.sleep(request["s"])
                done(channel, message["id"], "ok")
            elif request["do"] == "abort":
                print("GGML_ASSERT(n > 0) failed", file=sys.stderr, flush=True)
                os.abort()
            elif request["do"] == "segv":
                ctypes.string_at(0)
            elif request["do"] == "stuck":
                time.sleep(1000)
            elif request["do"] == "nonsense":
                channel.send({"op": "what"})
    except ChannelClosed:
        if config.get("stubborn"):
            time.sleep(1000)

def done(channel, number, status, reply={}):
    channel.send({"op": "done", "id": number, "status": status, "reply": reply, "error": None, "wall_s": 0.0})
"""


class Bench:
    """A pool, and few words to use it with."""

    def __init__(self, folder: Path, pool: Pool) -> None:
        self.folder = folder
        self.pool = pool
        self.count = 0
        self.progress: list[Progress] = []

    def shell(self, script: str, timeout_s: float | None = None, **more: Any) -> int:
        request: dict[str, Any] = {
            "script": script,
            "shell": "sh",
            "env": {"PATH": os.environ["PATH"]},
            "workspace": str(self.folder),
            "scratch": str(self.folder / "scratch"),
            **more,
        }
        return self.submit(SHELL, request, timeout_s)

    def submit(self, lane: Lane, request: dict[str, Any], timeout_s: float | None = None) -> int:
        self.count += 1
        self.pool.submit(Task(id=self.count, lane=lane, request=request, timeout_s=timeout_s))
        return self.count

    def ends(self, limit_s: float = 30.0) -> dict[int, Done]:
        """Waits until nothing is busy."""
        found: dict[int, Done] = {}
        deadline = time.monotonic() + limit_s
        while self.pool.busy:
            assert time.monotonic() < deadline, "tasks did not end"
            for item in self.pool.wait(1.0):
                if isinstance(item, Progress):
                    self.progress.append(item)
                else:
                    assert item.id not in found, "a task ended twice"
                    found[item.id] = item
        return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    (tmp_path / "runner_of_test.py").write_text(RUNNER)
    monkeypatch.syspath_prepend(str(tmp_path))
    runners = {"shell": "llmc_build.execute.shellrun", "model": "runner_of_test"}
    with Pool(2, tmp_path / "cas", runners=runners) as pool:
        yield Bench(tmp_path, pool)


def model(**config: Any) -> Lane:
    return Lane(kind="model", name="m", config=config)


def running(marker: str) -> list[int]:
    """Processes with a word in their command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if marker.encode() in words:
                found.append(int(name))
    return found


def eventually(condition: Callable[[], object], limit_s: float = 10.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def workers() -> list[int]:
    children = [p for p in osdep.processes() if p.parent == os.getpid() and not p.zombie]
    return [p.pid for p in children if b"execute.worker" in Path(f"/proc/{p.pid}/cmdline").read_bytes()]


def value(done: Done) -> bytes | None:
    content = done.reply["value"]
    assert isinstance(content, dict)
    return content_data(content)


# ---------------------------------------------------------------- shell workers


def test_tasks_run_and_their_values_come_back(bench: Bench) -> None:
    ids = [bench.shell(f"echo {number}") for number in range(5)]
    ends = bench.ends()
    assert [value(ends[task]) for task in ids] == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]


def test_no_more_tasks_run_at_a_time_than_jobs(bench: Bench) -> None:
    running = bench.folder / "running"
    running.mkdir()
    script = f"mkdir {running}/$$; ls {running} | wc -l; sleep 0.05; rmdir {running}/$$"
    ids = [bench.shell(script, sandbox=False) for _ in range(8)]
    assert len(workers()) == 2
    ends = bench.ends()
    assert max(int(value(ends[task]) or b"9") for task in ids) <= 2


def test_a_worker_killed_fails_its_task_only_and_is_replaced(bench: Bench) -> None:
    """An executor that fails everything in flight when one process dies would break promise 6."""
    marker = f"1000.{os.getpid()}01"
    victim = bench.shell(f"sleep {marker}; echo never")
    assert eventually(lambda: running(marker))
    (worker,) = workers()
    other = bench.shell("sleep 0.3; echo fine")
    os.kill(worker, signal.SIGKILL)
    ends = bench.ends()
    assert ends[victim].status is Status.CRASHED
    assert ends[victim].error == "the worker died: killed by SIGKILL"
    assert value(ends[other]) == b"fine\n"
    assert not running(marker)
    again = bench.shell("echo again")
    assert value(bench.ends()[again]) == b"again\n"
    assert not (bench.folder / "scratch" / f"shell-{worker}").exists()


def test_the_steps_of_a_killed_worker_end_even_where_they_hid(bench: Bench) -> None:
    marker = f"1000.{os.getpid()}02"
    hidden = f"1000.{os.getpid()}03"
    bench.shell(f"setsid sh -c '(sleep {hidden} &) ; sleep {marker}' & sleep {marker}")
    assert eventually(lambda: len(running(marker)) >= 2 and running(hidden))
    os.kill(workers()[0], signal.SIGKILL)
    (done,) = bench.ends().values()
    assert done.status is Status.CRASHED
    assert not running(marker)
    assert not running(hidden)


def test_a_process_that_cleared_its_environment_and_lost_its_parents_ends_with_its_worker(
    bench: Bench,
) -> None:
    """Whatever it does to itself, it has the mark that it inherited."""
    hidden = f"1000.{os.getpid()}13"
    bench.shell(f"(env -i setsid sh -c '(sleep {hidden} </dev/null >/dev/null 2>&1 &)' &) ; sleep 50")
    assert eventually(lambda: running(hidden))
    os.kill(workers()[0], signal.SIGKILL)
    (done,) = bench.ends().values()
    assert done.status is Status.CRASHED
    assert not running(hidden)


def test_a_worker_that_somebody_else_tells_to_end_has_died(bench: Bench) -> None:
    """Nobody has cancelled its step, so that must not be said of it."""
    marker = f"1000.{os.getpid()}14"
    victim = bench.shell(f"sleep {marker}")
    assert eventually(lambda: running(marker))
    os.kill(workers()[0], signal.SIGTERM)
    done = bench.ends()[victim]
    assert (done.status, done.error) == (Status.CRASHED, "the worker died: it was told to end")
    assert not running(marker)
    again = bench.shell("echo again")
    assert value(bench.ends()[again]) == b"again\n"


def test_what_a_worker_had_not_begun_is_not_blamed_for_its_death(bench: Bench) -> None:
    """Its last step was answered: the next one runs in another worker."""
    bench.shell("true")
    bench.ends()
    (worker,) = workers()
    os.kill(worker, signal.SIGSTOP)
    first, second = bench.shell("echo first"), bench.shell("echo second")
    early = {item.id: item for item in bench.pool.wait(0.1) if isinstance(item, Done)}
    os.kill(worker, signal.SIGKILL)
    ends = early | bench.ends()
    assert (value(ends[first]), value(ends[second])) == (b"first\n", b"second\n")


def test_children_of_the_program_that_uses_the_pool_are_left_alone(bench: Bench) -> None:
    """The pool adopts orphans while it is open; it must not take the host's own processes for them."""
    mine = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        marker = f"1000.{os.getpid()}04"
        bench.shell(f"sleep {marker}")
        assert eventually(lambda: running(marker))
        os.kill(workers()[0], signal.SIGKILL)
        bench.ends()
        bench.pool.close(kill=True)
        assert not running(marker)
        assert mine.poll() is None
    finally:
        mine.kill()
        mine.wait()


def test_a_timeout_ends_the_step_and_says_how_long_it_had(bench: Bench) -> None:
    marker = f"1000.{os.getpid()}05"
    task = bench.shell(f"sleep {marker}", timeout_s=0.3)
    done = bench.ends()[task]
    assert (done.status, done.error) == (Status.TIMEOUT, "timed out after 0.3 s")
    assert done.wall_s < 2
    assert not running(marker)


def test_a_stopped_worker_loses_its_task_when_the_time_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backstop: a worker that keeps no time any more can't keep a task for ever."""
    monkeypatch.setattr("llmc_build.execute.process.BACKSTOP_S", 0.2)
    monkeypatch.setattr("llmc_build.execute.process.GRACE_S", 0.2)
    monkeypatch.setattr("llmc_build.execute.pool.OBEY_S", 0.2)
    monkeypatch.setattr("llmc_build.execute.pool.GRACE_S", 0.2)
    marker = f"1000.{os.getpid()}06"
    bench.shell("true")
    bench.ends()
    task = bench.shell(f"sleep {marker}", timeout_s=0.5)
    assert eventually(lambda: running(marker))
    os.kill(workers()[0], signal.SIGSTOP)
    done = bench.ends(10)[task]
    assert (done.status, done.error) == (Status.TIMEOUT, "timed out after 0.5 s")
    assert not running(marker)


def test_cancelling_ends_what_runs_and_what_waits(bench: Bench) -> None:
    marker = f"1000.{os.getpid()}07"
    first, second, queued = (bench.shell(f"sleep {marker}") for _ in range(3))
    assert eventually(lambda: len(running(marker)) == 2)
    for task in (first, second, queued):
        bench.pool.cancel(task, "the build was stopped")
    ends = bench.ends()
    assert {done.status for done in ends.values()} == {Status.CANCELLED}
    assert {done.error for done in ends.values()} == {"the build was stopped"}
    assert not running(marker)


def test_a_cancel_that_comes_too_late_changes_nothing(bench: Bench) -> None:
    task = bench.shell("echo done")
    time.sleep(0.5)
    bench.pool.cancel(task, "too late")
    assert bench.ends()[task].status is Status.OK
    bench.pool.cancel(task, "much too late")


def test_waiting_ends_when_a_signal_comes(bench: Bench) -> None:
    """Ctrl-C must be seen at once, however long the steps take."""
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        bench.shell("sleep 30")
        subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -USR1 {os.getpid()}"]).wait()
        started = time.monotonic()
        found = bench.pool.wait(20)
        assert found == []
        assert seen
        assert time.monotonic() - started < 5
    finally:
        signal.signal(signal.SIGUSR1, before)
        bench.pool.close(kill=True)


def test_wake_ends_a_wait(bench: Bench) -> None:
    bench.shell("sleep 30")
    bench.pool.wake()
    started = time.monotonic()
    assert bench.pool.wait(20) == []
    assert time.monotonic() - started < 5
    bench.pool.close(kill=True)


def test_waiting_with_nothing_busy_returns_at_once(bench: Bench) -> None:
    started = time.monotonic()
    assert bench.pool.wait(None) == []
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("kill", [False, True])
def test_closing_leaves_no_process(bench: Bench, kill: bool) -> None:
    marker = f"1000.{os.getpid()}08{int(kill)}"
    bench.shell(f"trap '' TERM; setsid sleep {marker} & sleep {marker}; sleep {marker}")
    bench.shell("echo short")
    assert eventually(lambda: running(marker))
    started = time.monotonic()
    bench.pool.close(kill=kill)
    assert time.monotonic() - started < (1.5 if kill else 5)
    assert not running(marker)
    assert not workers()
    bench.pool.close()


def test_an_idle_pool_closes_quickly(bench: Bench) -> None:
    bench.shell("true")
    bench.submit(model(), {"do": "count"})
    bench.ends()
    started = time.monotonic()
    bench.pool.close()
    assert time.monotonic() - started < 1.5
    assert not list((bench.folder / "scratch").iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_an_llmc_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    marker = f"1000.{os.getpid()}09{int(number)}"
    program = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from llmc_build.execute.pool import Pool
        from llmc_build.execute.protocol import Lane, Task
        pool = Pool(2, Path({str(tmp_path / "cas")!r}))
        for task, script in enumerate((
            "trap '' TERM HUP; setsid sh -c '(sleep {marker} &) ; sleep {marker}' & sleep {marker}",
            "env -i setsid sleep {marker}",
        )):
            request = {{"script": script, "env": {{"PATH": "/usr/bin:/bin"}}, "workspace": "/",
                       "scratch": {str(tmp_path / "scratch")!r}}}
            pool.submit(Task(id=task, lane=Lane(kind="shell"), request=request))
        pool.wait(None)
    """
    main = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        assert eventually(lambda: len(running(marker)) >= 4)
        children = osdep.descendants(main.pid)
        os.kill(main.pid, number)
        main.wait(10)
        assert eventually(lambda: not running(marker))
        assert eventually(lambda: not set(children) & {p.pid for p in osdep.processes() if not p.zombie})
    finally:
        main.kill()
        main.wait()


# ---------------------------------------------------------------- feeding ahead


@pytest.fixture
def fed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A pool whose workers are fed ahead, as they ran short tasks; what is short is generous, for slow machines."""
    monkeypatch.setattr("llmc_build.execute.lane.AHEAD_S", 0.4)
    for _ in range(40):
        bench.shell("true")
    bench.ends()
    assert bench.pool.room(SHELL) > 4
    return bench


def test_short_tasks_are_wanted_before_workers_ask_and_long_ones_are_not(fed: Bench) -> None:
    for _ in range(8):
        fed.shell("sleep 0.6")
    fed.ends()
    assert fed.pool.room(SHELL) <= 4


def test_more_is_wanted_in_lots_unless_a_worker_is_about_to_have_nothing() -> None:
    """A message for each task would cost as much as the task's own handling."""
    state = LaneState(SHELL, 2)
    for _ in range(40):
        state.took(0.001)

    def room(*loads: int) -> int:
        state.workers = [SimpleNamespace(flights=range(load)) for load in loads]  # type: ignore[misc]
        state.flying = sum(loads)
        return state.room

    assert room(8, 8) == room(6, 6) == room(8, 3) == 0
    assert room(4, 4) == 8
    assert room(7, 2) == 7


def test_a_long_task_does_not_hold_up_those_that_were_fed_behind_it(fed: Bench) -> None:
    marker = f"1000.{os.getpid()}11"
    long = fed.shell(f"sleep {marker}")
    quick = [fed.shell(f"echo {number}") for number in range(fed.pool.room(SHELL))]
    found: dict[int, Done] = {}
    started = time.monotonic()
    while len(found) < len(quick) and time.monotonic() < started + 10:
        found.update({item.id: item for item in fed.pool.wait(1.0) if isinstance(item, Done)})
    assert sorted(found) == quick
    fed.pool.cancel(long, "enough")
    assert fed.ends()[long].status is Status.CANCELLED


def test_a_task_is_said_to_begin_when_it_does(fed: Bench) -> None:
    """What waits behind another is not running, and must not be shown as if it were."""
    begun: list[int] = []
    fed.pool.on_begin = begun.append
    slow = [fed.shell("sleep 0.3") for _ in range(fed.pool.room(SHELL))]
    assert begun == slow[:2]
    fed.pool.wait(0.1)
    assert begun == slow[:2]
    ends = fed.ends()
    assert sorted(begun) == sorted(ends) == slow  # each once


def test_tasks_begin_in_the_order_of_their_submission_even_those_given_back(tmp_path: Path) -> None:
    with Pool(1, tmp_path / "cas") as pool:
        bench = Bench(tmp_path, pool)
        quicken_one = [bench.shell("true") for _ in range(40)]
        assert len(bench.ends()) == len(quicken_one)
        order = tmp_path / "order"
        for number in range(12):
            bench.shell(f"{'sleep 0.2;' * (number % 4 == 1)} echo {number} >> {order}", sandbox=False)
        bench.ends()
        assert order.read_text().split() == [str(number) for number in range(12)]


def test_a_killed_worker_fails_what_it_ran_and_nothing_that_waited_behind_it(fed: Bench) -> None:
    """A step that ran well, or had not begun, must not be said to have failed."""
    for _ in range(5):
        before = [fed.shell(f"echo {number}") for number in range(5)]
        victim = fed.shell("kill -KILL $PPID; sleep 10")
        after = [fed.shell(f"echo {number}") for number in range(8)]
        ends = fed.ends()
        assert ends[victim].status is Status.CRASHED
        assert {ends[task].status for task in (*before, *after)} == {Status.OK}
        assert [value(ends[task]) for task in after] == [b"%d\n" % number for number in range(8)]


def test_the_time_of_a_task_does_not_run_while_it_waits_behind_another(fed: Bench) -> None:
    slow = [fed.shell("sleep 0.3", timeout_s=0.6) for _ in range(8)]
    ends = fed.ends()
    assert {ends[task].status for task in slow} == {Status.OK}


def test_what_was_fed_ahead_can_be_cancelled(fed: Bench) -> None:
    marker = f"1000.{os.getpid()}12"
    tasks = [fed.shell(f"sleep {marker}") for _ in range(fed.pool.room(SHELL))]
    for task in reversed(tasks):
        fed.pool.cancel(task, "the build was stopped")
    ends = fed.ends()
    assert {(ends[task].status, ends[task].error) for task in tasks} == {
        (Status.CANCELLED, "the build was stopped")
    }
    assert not running(marker)


def test_what_was_fed_ahead_does_not_begin_when_llmc_is_gone(bench: Bench) -> None:
    bench.shell("true")
    bench.ends()
    (worker,) = bench.pool._lanes[SHELL].workers
    marker = f"1000.{os.getpid()}13"
    begun = bench.folder / "begun"
    for number, script in enumerate((f"sleep {marker}", *[f"echo >> {begun}"] * 5)):
        worker.channel.hold({"op": "run", "id": 100 + number, "request": {"script": script}, "rest": True})
    worker.channel.flush()
    worker.channel.close()
    assert eventually(lambda: not workers())
    assert not begun.exists()
    assert not running(marker)


def test_requests_that_are_sent_shortened_arrive_whole(fed: Bench) -> None:
    scripts = []
    for number in range(30):
        env = {"PATH": os.environ["PATH"], **({"A": str(number // 4)} if number % 3 else {})}
        more: dict[str, Any] = {"dash": []} if number % 5 == 0 else {}
        scripts.append((number, fed.shell(f'echo {number} "${{A-none}}"', env=env, **more)))
    ends = fed.ends()
    for number, task in scripts:
        expected = str(number // 4) if number % 3 else "none"
        assert value(ends[task]) == f"{number} {expected}\n".encode()


def test_shortening_a_request_loses_nothing() -> None:
    chance = random.Random(7)
    sent: dict[str, Any] = {}
    received: Any = {}
    for _ in range(2000):
        request = {
            name: chance.choice([None, "x", [], ["x"], {"y": "z"}]) for name in chance.sample("abcde", 4)
        }
        fields, rest = shortened(request, sent)
        received = restored({"request": fields, "rest": rest}, received)
        assert received == request
        sent = request


# ---------------------------------------------------------------- workers that answer several tasks


def test_one_worker_answers_several_tasks_and_tells_its_progress(bench: Bench) -> None:
    tasks = [bench.submit(model(), {"do": "count", "name": number}) for number in range(5)]
    ends = bench.ends()
    assert [ends[task].reply["name"] for task in tasks] == [0, 1, 2, 3, 4]
    assert len({ends[task].reply["pid"] for task in tasks}) == 1
    assert [item.stats for item in bench.progress if item.id == tasks[0]] == [
        {"tokens": 0},
        {"tokens": 1},
        {"tokens": 2},
    ]


def test_a_lane_takes_what_its_configuration_says_until_its_runner_says_more(bench: Bench) -> None:
    lane = model(parallel=4, capacity=8)
    assert bench.pool.room(lane) == 4
    bench.submit(lane, {"do": "count"})
    assert bench.pool.room(lane) == 3
    bench.ends()
    assert bench.pool.room(lane) == 8


@pytest.mark.parametrize(
    ("do", "how"),
    [
        ("abort", "killed by SIGABRT"),
        ("segv", "killed by SIGSEGV"),
        ("nonsense", "it sent what is no answer"),
    ],
)
def test_a_crash_of_a_worker_says_how_it_died(bench: Bench, do: str, how: str) -> None:
    task = bench.submit(model(), {"do": do})
    done = bench.ends()[task]
    assert (done.status, done.error) == (Status.CRASHED, f"the worker died: {how}")
    if do == "abort":
        assert "GGML_ASSERT(n > 0) failed" in str(done.reply["stderr_tail"])
    after = bench.submit(model(), {"do": "count"})
    assert bench.ends()[after].status is Status.OK


def test_a_runner_that_cannot_start_fails_its_tasks_with_its_last_words(bench: Bench) -> None:
    lane = model(broken=True, parallel=2)
    tasks = [bench.submit(lane, {"do": "count"}) for _ in range(3)]
    ends = bench.ends()
    assert {ends[task].error for task in tasks} == {"the worker died: exit code 1"}
    assert ends[tasks[0]].reply["stderr_tail"] == "the model can't be loaded"


def test_a_request_that_a_worker_dies_of_before_it_tells_of_it_is_to_blame_and_no_other(
    bench: Bench,
) -> None:
    """Else its model would be given up, for nobody would ever be blamed."""
    lane = model(capacity=4, parallel=4, tells=True)
    before = bench.submit(lane, {"do": "told", "s": 0.2})
    bad = bench.submit(lane, {"do": "named"})
    behind = [bench.submit(lane, {"do": "count", "name": number}) for number in range(8)]
    ends = bench.ends()
    assert (ends[bad].status, ends[bad].error) == (Status.CRASHED, "the worker died: killed by SIGABRT")
    assert {ends[task].status for task in (before, *behind)} == {Status.OK}


def test_the_pool_keeps_the_time_of_tasks_whose_runner_does_not(bench: Bench) -> None:
    lane = model(capacity=4, parallel=4)
    late = bench.submit(lane, {"do": "hold"}, timeout_s=0.3)
    fine = bench.submit(lane, {"do": "count"}, timeout_s=10)
    ends = bench.ends()
    assert (ends[late].status, ends[late].error) == (Status.TIMEOUT, "timed out after 0.3 s")
    assert ends[fine].status is Status.OK


def test_loading_a_model_does_not_count_as_the_time_of_a_task(bench: Bench) -> None:
    task = bench.submit(model(slow_start=1.0), {"do": "count"}, timeout_s=0.5)
    assert bench.ends()[task].status is Status.OK


def test_a_runner_that_ignores_a_cancel_is_killed_and_its_other_tasks_run_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmc_build.execute.pool.OBEY_S", 0.3)
    lane = model(capacity=3, parallel=3)
    stuck = bench.submit(lane, {"do": "stuck"}, timeout_s=0.3)
    behind = bench.submit(lane, {"do": "count", "name": "behind"})
    ends = bench.ends()
    assert ends[stuck].status is Status.TIMEOUT
    assert (ends[behind].status, ends[behind].reply["name"]) == (Status.OK, "behind")


def test_a_runner_that_does_not_end_with_its_connection_is_ended(bench: Bench) -> None:
    bench.submit(model(stubborn=True), {"do": "count"})
    bench.ends()
    pids = workers()
    bench.pool.close()
    assert pids
    assert not workers()


# ---------------------------------------------------------------- the executor for tests


def test_the_inline_executor_answers_as_a_pool_does() -> None:
    def run(request: Any) -> Any:
        if request["fail"]:
            raise TaskFailed("no", Status.TIMEOUT)
        return {"n": request["n"]}

    inline: Executor = Inline(run, room=2)
    for number in range(3):
        inline.submit(Task(id=number, lane=SHELL, request={"n": number, "fail": number == 1}))
    inline.cancel(2, "stop")
    assert inline.busy == 3
    found = {done.id: done for done in inline.wait(None) if isinstance(done, Done)}
    assert [found[n].status for n in range(3)] == [Status.OK, Status.TIMEOUT, Status.CANCELLED]
    assert (found[0].reply, found[1].error, inline.busy) == ({"n": 0}, "no", 0)


def test_a_wake_that_comes_after_the_end_writes_into_nobodys_file(tmp_path: Path) -> None:
    """A thread may wake a pool that was closed meanwhile; by then its descriptor may be a file's."""
    pool = Pool(1, tmp_path / "cas")
    pool.close()
    files = [open(tmp_path / f"file{i}", "wb") for i in range(12)]  # noqa: SIM115 - they take the free numbers
    pool.wake()
    for file in files:
        file.close()
    assert {path.read_bytes() for path in tmp_path.glob("file*")} == {b""}
