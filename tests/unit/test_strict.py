"""`sandbox: strict`: nothing but the system and the inputs is seen, and an honest error where it can't be had."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmc_build.execute.pool import Pool
from llmc_build.execute.protocol import Done, Lane, Status, Task, content_data
from tests.conftest import Space


def _why_not() -> str:
    """By the program itself: a command line of ours that it does not take must fail here, not be skipped."""
    if shutil.which("bwrap") is None:
        return "no bwrap"
    plain = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    tried = subprocess.run(plain, capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else ""


there = pytest.mark.skipif(bool(_why_not()), reason=f"no strict sandbox here: {_why_not()}")
Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    (tmp_path / "given.txt").write_text("given")
    (tmp_path / "secret.txt").write_text("not given")
    with Pool(1, tmp_path / "cas") as pool:

        def run(script: str, timeout_s: float | None = 20, **more: Any) -> Done:
            request = {
                "script": script,
                "sandbox": "strict",
                "env": {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/root")},
                "workspace": str(tmp_path),
                "scratch": str(tmp_path / ".llmc/tmp/run"),
                "inputs": [["given.txt", str(tmp_path / "given.txt")]],
                **more,
            }
            pool.submit(Task(id=1, lane=Lane(kind="shell"), request=request, timeout_s=timeout_s))
            while True:
                for item in pool.wait(30):
                    assert isinstance(item, Done)
                    return item

        yield run


def value(done: Done) -> bytes | None:
    assert done.status is Status.OK, (done.error, done.reply.get("stderr_tail"))
    content = done.reply["value"]
    assert isinstance(content, dict)
    return content_data(content)


@there
def test_it_sees_its_inputs_and_nothing_else_of_the_user(run: Run, tmp_path: Path) -> None:
    script = f"cat given.txt; ls; for p in {tmp_path}/secret.txt {Path.home()} {os.getcwd()}; do [ -e $p ] && echo $p; done; true"
    assert value(run(script)) == b"givengiven.txt\n"
    # The control: in the other sandbox all of them are there for who looks.
    seen = (value(run(script, sandbox=True)) or b"").split()
    assert str(tmp_path / "secret.txt").encode() in seen


@there
def test_it_has_no_network(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        heard: list[object] = []
        threading.Thread(target=lambda: heard.append(server.accept()), daemon=True).start()
        port = server.getsockname()[1]
        connect = f"exec 3<>/dev/tcp/127.0.0.1/{port}"
        assert run(f"{connect}", shell="bash").status is Status.FAILED
        assert not heard
        assert run(f"{connect}", shell="bash", sandbox=True).status is Status.OK
        limit = time.monotonic() + 5
        while not heard and time.monotonic() < limit:
            time.sleep(0.01)
        assert heard, "the control: without it, there is a network"


@there
def test_the_system_is_read_only_and_the_step_can_write_where_it_should(run: Run) -> None:
    script = """
    for place in / /usr /etc /dev /var /home; do
      if (: > $place/canary) 2>/dev/null; then echo "wrote $place"; fi
    done
    echo out > out.txt; echo tmp > /tmp/t; echo shm > /dev/shm/s; echo "$HOME $TMPDIR"; echo x > /dev/null
    echo loud > /dev/stderr; cat /dev/shm/s
    grep CapEff /proc/self/status | cut -f2
    """
    done = run(script, outputs=["out.txt"])
    assert value(done) == b"/tmp /tmp\nshm\n0000000000000000\n"
    assert [output["path"] for output in done.reply["outputs"]] == ["out.txt"]  # type: ignore[index,call-overload,union-attr]
    assert not Path("/tmp/t").exists()
    assert value(run("ls /tmp/t 2>/dev/null || echo fresh")) == b"fresh\n"


@there
def test_settings_of_the_kernel_are_read_only_for_root_too(run: Run) -> None:
    """They ask for the user, not for capabilities: root could name a program there that the kernel starts."""
    script = """
    echo err > /proc/self/fd/2; echo out >> /dev/stdout
    for name in kernel/core_pattern vm/swappiness kernel/core_uses_pid; do
      old=$(cat /proc/sys/$name) || continue
      (printf '%s\n' "$old" > /proc/sys/$name) 2>/dev/null && echo "wrote $name"
    done
    for file in /proc/*; do
      [ -f "$file" ] && (: >> "$file") 2>/dev/null && echo "may write $file"
    done
    true
    """
    assert value(run(script)) == b"out\n"


@there
def test_it_sees_no_process_but_its_own_and_none_outlives_it(run: Run) -> None:
    marker = f"1000.{os.getpid()}99"
    done = run(f"(env -i setsid sleep {marker} &) ; setsid sleep {marker} & ls -d /proc/[0-9]* | wc -l")
    assert int(value(done) or 0) < 12
    assert subprocess.run(["pgrep", "-f", f"sleep {marker}"], stdout=subprocess.DEVNULL).returncode == 1
    done = run(f"trap 'echo bye >&2; exit 3' TERM; sleep {marker} & wait", timeout_s=1)
    assert done.status is Status.TIMEOUT
    assert done.reply["stderr_tail"] == "bye", "it may clean up before it ends"
    assert subprocess.run(["pgrep", "-f", f"sleep {marker}"], stdout=subprocess.DEVNULL).returncode == 1


@there
def test_exit_codes_and_values_come_through(run: Run, tmp_path: Path) -> None:
    assert run("exit 7").error == "exit code 7"
    assert value(run("# " + "x" * 200_000 + "\nprintf '%s' long")) == b"long"


def test_where_there_is_no_bubblewrap_the_step_fails_with_how_to_get_it(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = space.root / "bin"
    tools.mkdir()
    for name in ("sh", "echo"):
        (tools / name).symlink_to(shutil.which(name) or "")
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: s, command: echo hi, sandbox: strict}\n")
    monkeypatch.setenv("PATH", str(tools))
    assert not space.build("flow.yaml", environ={"PATH": str(tools)}).ok
    error = "`sandbox: strict` needs bubblewrap, and there is no `bwrap` here: install bubblewrap"
    assert space.of("w.s").error == error


def test_where_bubblewrap_is_not_allowed_the_step_fails_with_what_it_said(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = space.write(
        "bin/bwrap", "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    fake.chmod(0o755)
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: s, command: echo hi, sandbox: strict}\n")
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert not space.build("flow.yaml").ok
    assert space.of("w.s").error == (
        "`sandbox: strict` can't be had: this system does not let bubblewrap work "
        "(bwrap: No permissions to create new namespace)"
    )


@there
def test_strict_is_cached_and_another_action_than_the_plain_sandbox(space: Space) -> None:
    space.write("flow.yaml", "name: w\nsteps:\n  - {name: s, command: echo hi, sandbox: strict}\n")
    space.build("flow.yaml")
    assert (space.ran, space.value("w.s")) == (["w.s"], "hi\n")
    space.build("flow.yaml")
    assert space.ran == []
    space.edit("flow.yaml", "strict", "true")
    space.build("flow.yaml")
    assert space.ran == ["w.s"]
