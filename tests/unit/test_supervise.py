"""Process trees: whatever a step starts, however it hides, ends with the step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmc_build.execute import cage, features, osdep
from llmc_build.execute.pool import Pool
from llmc_build.execute.protocol import Done, Lane, Status, Task, content_data
from llmc_build.execute.sweep import TOKEN_VARIABLE, end_marked

Run = Callable[..., Done]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pool, Path]]:
    folder = tmp_path_factory.mktemp("supervise")
    with Pool(1, folder / "cas") as pool:
        yield pool, folder


@pytest.fixture
def run(pool: tuple[Pool, Path]) -> Run:
    def run(script: str, timeout_s: float | None = 20, **more: Any) -> Done:
        request = {
            "script": script,
            "env": {"PATH": os.environ["PATH"]},
            "workspace": str(pool[1]),
            "scratch": str(pool[1] / "scratch"),
            **more,
        }
        pool[0].submit(Task(id=1, lane=Lane(kind="shell"), request=request, timeout_s=timeout_s))
        while True:
            for item in pool[0].wait(30):
                assert isinstance(item, Done)
                return item

    return run


@pytest.fixture
def marker(request: pytest.FixtureRequest) -> str:
    """An argument of `sleep` that no other test uses."""
    return f"1000.{os.getpid()}{abs(hash(request.node.name)) % 10**8:08}"


def running(marker: str) -> list[int]:
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


def value(done: Done) -> bytes | None:
    content = done.reply["value"]
    assert isinstance(content, dict)
    return content_data(content)


HIDING = {
    "a plain child": "sleep {} & sleep {}",
    "a child in its own session": "setsid sleep {} & sleep {}",
    "a grandchild forked twice": "(setsid sh -c '(sleep {} &)' &) ; sleep {}",
    "a child that ignores SIGTERM": "sh -c 'trap \"\" TERM; sleep {}; sleep {}' & sleep {}",
    "a child without its mark": "env -i setsid sleep {} & sleep {}",
    "a stopped child": "sleep {} & kill -STOP $!; sleep {}",
    "a script that ignores SIGTERM": "trap '' TERM HUP INT; sleep {}; sleep {}; sleep {}",
}


@pytest.mark.parametrize("how", HIDING)
def test_a_timeout_ends(run: Run, marker: str, how: str) -> None:
    done = run(HIDING[how].replace("{}", marker), timeout_s=0.3)
    assert (done.status, done.error) == (Status.TIMEOUT, "timed out after 0.3 s")
    assert not running(marker)
    assert "could not end" not in str(done.reply["warnings"])


def test_a_timeout_lets_a_script_clean_up_first(run: Run, tmp_path: Path) -> None:
    done = run(f"trap 'echo bye > {tmp_path}/said; exit 3' TERM; while :; do sleep 0.05; done", timeout_s=0.3)
    assert done.status is Status.TIMEOUT
    assert (tmp_path / "said").read_text() == "bye\n"
    assert done.wall_s < 1.5


def test_a_timeout_ends_what_forks_as_fast_as_it_can(run: Run, marker: str) -> None:
    storm = f"i=0; while [ $i -lt 300 ]; do (setsid sleep {marker} &) ; i=$((i+1)); done; sleep {marker}"
    assert run(storm, timeout_s=0.4).status is Status.TIMEOUT
    assert not running(marker)


def test_what_a_good_script_leaves_behind_ends_with_it_and_is_told(run: Run, marker: str) -> None:
    done = run(f"setsid sleep {marker} & echo fine")
    assert (done.status, value(done)) == (Status.OK, b"fine\n")
    assert done.reply["warnings"] == ["left 1 process running, which had to be ended: `wait` for them"]
    assert not running(marker)


def test_a_background_child_that_holds_the_output_open_does_not_hang_the_step(run: Run, marker: str) -> None:
    done = run(f"sleep {marker} & echo out; echo err >&2; exit 4")
    assert (done.status, done.error) == (Status.FAILED, "exit code 4")
    assert done.wall_s < 5
    assert not running(marker)


def test_a_background_child_may_finish_its_output_in_a_moment(run: Run) -> None:
    """`exec > >(tee log)` ends a moment after the script does; its output must not be cut."""
    done = run("(sleep 0.1; echo late) & echo early")
    assert value(done) == b"early\nlate\n"
    assert done.reply["warnings"] == []


def test_a_step_cannot_read_from_a_terminal_or_wait_for_input(run: Run) -> None:
    assert value(run("cat; readlink /proc/self/fd/0")) == b"/dev/null\n"


def test_a_step_inherits_no_open_files(run: Run) -> None:
    """A descriptor of the worker's connection in a step would keep a dead llmc's workers alive."""
    links = (value(run("for f in /proc/$$/fd/*; do readlink $f; done; true")) or b"").split()
    assert [link.rsplit(b"/", 1)[-1] for link in links] == [b"null", b"stdout", b"stderr"]


def test_a_step_is_killed_by_a_closed_pipe_as_usual(run: Run) -> None:
    """Python ignores SIGPIPE, and what is ignored is inherited: `yes | head` would complain."""
    done = run("yes | head -1; kill -PIPE $$; echo survived")
    assert (done.status, done.error) == (Status.FAILED, "killed by SIGPIPE")


def test_a_script_killed_by_a_signal_names_it(run: Run) -> None:
    done = run("kill -KILL $$; true")
    assert (done.status, done.error) == (Status.FAILED, "killed by SIGKILL")
    assert (done.reply["exit_code"], done.reply["signal"]) == (None, 9)


@pytest.mark.skipif(cage.place() is None, reason="no control group for processes can be made here")
@pytest.mark.parametrize(
    "script", ["b() { b | b & }; b; wait; sleep 60", "b() { b | b & }; b; sleep 0.5; exit 3"]
)
def test_what_forks_without_end_is_stopped_at_the_limit(tmp_path: Path, script: str) -> None:
    lane = Lane(kind="shell", config={"limits": {"processes": 100}})
    request = {"env": {"PATH": os.environ["PATH"]}, "workspace": str(tmp_path), "shell": "bash"}
    with Pool(1, tmp_path / "cas") as pool:
        build = pool._guardian.build

        def run(script: str) -> Done:
            task = {**request, "script": script, "scratch": str(tmp_path / "scratch")}
            pool.submit(Task(id=1, lane=lane, request=task))
            while pool.busy:
                for item in pool.wait(60):
                    assert isinstance(item, Done)
                    return item
            raise AssertionError

        run("sleep 0.5")  # by then the worker is in its group
        done = run(script)
        assert (done.error or "").startswith("it has more than 100 processes at a time\nhint: "), done.error
        done = run("seq 50 | xargs -P20 -n1 echo >/dev/null")
        assert (done.status, done.error) == (Status.OK, None), "the next step is not blamed"
    assert not [name for name in os.listdir(cage.place() or "") if build in name]


def test_what_is_in_use_is_told_for_doctor() -> None:
    names = [feature.name for feature in features.in_use()]
    assert len(names) == len(set(names)) == 6
    assert all(feature.used for feature in features.in_use())


def test_the_marked_are_found_with_their_descendants_and_nobody_else(marker: str) -> None:
    env = {"PATH": os.environ["PATH"]}
    script = f"env -i sleep {marker} & sleep {marker}"
    ours = subprocess.Popen(["sh", "-c", script], env={**env, TOKEN_VARIABLE: "aa"}, start_new_session=True)
    other = subprocess.Popen(["sh", "-c", script], env={**env, TOKEN_VARIABLE: "ab"}, start_new_session=True)
    try:
        deadline = time.monotonic() + 5
        while len(running(marker)) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert end_marked("aa") == ()
        assert len(running(marker)) == 2
        assert other.poll() is None
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
        ours.wait()


def test_descendants_are_read_from_a_list_of_processes() -> None:
    listed = [
        osdep.Process(pid, parent, 1, zombie)
        for pid, parent, zombie in [(2, 1, False), (3, 2, True), (4, 3, False), (5, 9, False), (1, 1, False)]
    ]
    assert sorted(osdep.descendants(1, listed)) == [2, 4]


def test_processes_with_odd_names_are_listed(tmp_path: Path) -> None:
    odd = tmp_path / "a ) R 1 (b"
    odd.symlink_to("/bin/sleep")
    process = subprocess.Popen([odd, "1000"])
    try:
        (found,) = [p for p in osdep.processes() if p.pid == process.pid]
        assert (found.parent, found.group, found.zombie) == (os.getpid(), os.getpgid(0), False)
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not os.access("/bin/ps", os.X_OK), reason="there is no ps here")
def test_processes_listed_by_ps_are_those_of_proc() -> None:
    """What macOS has to use."""
    me = next(p for p in osdep._from_ps() if p.pid == os.getpid())
    assert me == next(p for p in osdep.processes() if p.pid == os.getpid())._replace(started=0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_a_pool_adopts_orphans_only_while_it_is_open(tmp_path: Path) -> None:
    before = osdep.adopts_orphans()
    with Pool(1, tmp_path):
        assert osdep.adopts_orphans()
    assert osdep.adopts_orphans() == before
