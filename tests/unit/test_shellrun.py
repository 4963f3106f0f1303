"""Shell steps in a real worker: folders, values, outputs, secrets, and what each kind of end comes to."""

from __future__ import annotations

import base64
import html
import json
import os
import random
import re
import shlex
import stat
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from llmc_build.execute.pool import Pool
from llmc_build.execute.protocol import Done, Lane, Status, Task, content_data, content_digest
from llmc_build.execute.redact import Redactor
from llmc_build.execute.sandbox import Home, remove_tree
from llmc_build.store.cas import Cas

LIMIT = 3_000_000  # bytes of output, in these tests
LOG = 1_000_000  # bytes of standard error
OVER = (
    f"its output is over the limit of {LIMIT} bytes\n"
    "hint: write a file and declare it in `outputs`, or raise `output` under `limits` in llmc.yaml"
)


class Steps:
    """Runs shell requests in one workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.space = root / "space"
        self.scratch = root / "scratch"
        self.space.mkdir()
        self.cas = Cas(root / "cas")
        self.pool = Pool(1, root / "cas")
        self.lane = Lane(kind="shell", config={"limits": {"output": LIMIT, "log": LOG}})

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.space / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def run(self, script: str, timeout_s: float | None = 30, **more: Any) -> Done:
        names = more.pop("inputs", [])
        request = {
            "script": script,
            "shell": "sh",
            "variables": [],
            "dash": [],
            "env": {"PATH": os.environ["PATH"]},
            "secrets": {},
            "sandbox": True,
            "workspace": str(self.space),
            "scratch": str(self.scratch),
            "inputs": [[name, str(self.space / name)] for name in names],
            "outputs": [],
            "logs": None,
            **more,
        }
        self.pool.submit(Task(id=1, lane=self.lane, request=request, timeout_s=timeout_s))
        while True:
            for item in self.pool.wait(30):
                assert isinstance(item, Done)
                return item

    def bytes(self, content: Any) -> bytes:
        data = content_data(content)
        if data is None:
            found = self.cas.path(content_digest(content)).read_bytes()
            assert sha256(found).hexdigest() == content["hash"]
            return found
        return data

    def value(self, done: Done) -> bytes:
        assert done.status is Status.OK, done
        return self.bytes(done.reply["value"])

    def outputs(self, done: Done) -> dict[str, bytes]:
        assert done.status is Status.OK, done
        entries: Any = done.reply["outputs"]
        return {entry["path"]: self.bytes(entry["content"]) for entry in entries}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    steps = Steps(tmp_path_factory.mktemp("shell"))
    yield steps
    steps.pool.close()
    assert not list(steps.scratch.iterdir()), "the worker left folders behind"


@pytest.fixture
def steps(worker: Steps) -> Steps:
    remove_tree(str(worker.space))
    worker.space.mkdir()
    return worker


# ---------------------------------------------------------------- ends


def test_the_value_is_standard_output_byte_for_byte(steps: Steps) -> None:
    done = steps.run(r"printf 'a\0\377\n\n'; echo log >&2")
    assert steps.value(done) == b"a\0\xff\n\n"
    assert steps.bytes(done.reply["stderr"]) == b"log\n"
    assert (done.reply["exit_code"], done.reply["stderr_tail"]) == (0, "log")


def test_a_large_value_is_in_the_store_when_the_step_is_reported(steps: Steps) -> None:
    done = steps.run("seq 100000")
    content = done.reply["value"]
    assert isinstance(content, dict)
    assert "data" not in content
    assert steps.value(done) == b"".join(b"%d\n" % number for number in range(1, 100001))


def test_output_of_one_step_is_not_in_the_next(steps: Steps) -> None:
    steps.run("echo long text; echo error >&2")
    done = steps.run("echo x")
    assert steps.value(done) == b"x\n"
    assert steps.bytes(done.reply["stderr"]) == b""


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("seq 30; exit 3", "\n".join(str(number) for number in range(11, 31))),
        ("echo out; echo >&2; kill $$", "out"),
        ("echo out; echo err >&2; exit 1", "err"),
        ('echo "<$KEY>"; exit 1', "<***>"),
    ],
)
def test_what_fails_without_a_word_on_stderr_is_told_with_the_end_of_stdout(
    steps: Steps, script: str, told: str
) -> None:
    """Compilers, linters and test runners say there what is wrong."""
    done = steps.run(script, secrets={"KEY": "s3cr3tpass"})
    assert (done.status, done.reply["stderr_tail"]) == (Status.FAILED, told)


def test_an_exit_code_fails_with_the_end_of_stderr(steps: Steps) -> None:
    done = steps.run("seq 30 >&2; exit 3")
    assert (done.status, done.error) == (Status.FAILED, "exit code 3")
    assert done.reply["stderr_tail"] == "\n".join(str(number) for number in range(11, 31))
    assert "value" not in done.reply


@pytest.mark.parametrize(
    "script", ["yes", "yes & yes & setsid yes & wait", "trap '' TERM; while :; do echo yes; done"]
)
def test_output_without_end_is_stopped_at_the_limit(steps: Steps, script: str) -> None:
    logs = steps.root / "logs" / "w" / "endless"
    done = steps.run(script, logs=str(logs))
    assert (done.status, done.error) == (Status.FAILED, OVER)
    assert done.wall_s < 10
    log = (logs / "stdout").read_bytes()
    assert len(log) < LOG + 100, "the log of what failed is cut too"
    assert log.startswith(b"yes\n" if "echo" in script else b"y\n")
    assert b" bytes were cut out here]\n" in log


@pytest.mark.parametrize("which", ["stdout", "stderr"])
def test_a_file_made_huge_at_once_is_not_looked_through(steps: Steps, which: str) -> None:
    """Of a sparse file of a terabyte not every byte is read, not even to take secrets out."""
    logs = steps.root / "logs" / "w" / which
    script = f"echo $KEY >> /dev/{which}; truncate -s 1T /dev/{which}; echo $KEY >> /dev/{which}; echo end >> /dev/{which}"
    done = steps.run(script, secrets={"KEY": "hunter22"}, logs=str(logs))
    assert (done.status, done.error) == ((Status.FAILED, OVER) if which == "stdout" else (Status.OK, None))
    log = (logs / which).read_bytes()
    assert len(log) < LOG + 200
    assert log.startswith(b"***\n\0")
    assert log.endswith(b"\0***\nend\n")
    assert b" bytes were cut out here]\n" in log


@pytest.mark.parametrize("script", ["yes >&2", "yes >&2 & yes >&2 & wait", "cat /dev/zero >> /dev/stderr"])
def test_a_log_without_end_is_cut_and_the_step_goes_on(steps: Steps, script: str) -> None:
    logs = steps.root / "logs" / "w" / "loud"
    done = steps.run(f"{script} & sleep 1.5; kill $!; echo fine", logs=str(logs))
    assert steps.value(done) == b"fine\n"
    log = (logs / "stderr").read_bytes()
    assert len(log) < LOG + 100
    (mark,) = re.findall(rb"\n\[llmc: (\d+) bytes were cut out here\]\n", log)
    assert int(mark) > LOG


def test_a_log_with_secrets_is_cut_beside_them(steps: Steps) -> None:
    """Half a secret would not be found."""
    logs = steps.root / "logs" / "w" / "secret"
    steps.run(
        'while :; do echo "$KEY"; done >&2 & sleep 2; kill $!',
        secrets={"KEY": "abcdefghijklmnopq"},
        logs=str(logs),
    )
    log = (logs / "stderr").read_bytes()
    assert b" bytes were cut out here]\n" in log
    assert not re.findall(rb"[a-q]{2,}", re.sub(rb"\[llmc: .*\]", b"", log))


def test_a_log_keeps_its_beginning_and_its_end(steps: Steps) -> None:
    done = steps.run(
        "echo first >&2; seq 1000000 >&2; echo last >&2; exit 3", logs=str(steps.root / "logs" / "w" / "cut")
    )
    log = (steps.root / "logs/w/cut/stderr").read_bytes()
    assert log.startswith(b"first\n1\n2\n")
    assert log.endswith(b"\n999999\n1000000\nlast\n")
    before, count, after = re.split(rb"\n\[llmc: (\d+) bytes were cut out here\]\n", log)
    written = sum(len(b"%d\n" % number) for number in range(1, 1000001)) + len(b"first\nlast\n")
    assert len(before) + int(count) + len(after) == written
    assert str(done.reply["stderr_tail"]).endswith("1000000\nlast")


def test_output_over_the_limit_fails_however_fast_it_came(steps: Steps) -> None:
    assert steps.run(f"head -c {LIMIT} /dev/zero; echo 1 >&2").status is Status.OK
    done = steps.run(f"head -c {LIMIT} /dev/zero; echo 1")
    assert (done.status, done.error) == (Status.FAILED, OVER)


def test_bash_is_bash_and_an_unknown_shell_is_an_error(steps: Steps) -> None:
    assert steps.value(steps.run("a=(1 2 3); echo ${#a[@]}", shell="bash")) == b"3\n"
    done = steps.run("echo", shell="nosuchshell")
    assert (done.status, done.error) == (Status.FAILED, 'the shell "nosuchshell" was not found')


def test_a_script_too_long_for_an_argument_runs_from_a_file(steps: Steps) -> None:
    done = steps.run(f"# {'x' * 300_000}\necho $0 | grep -c script\nls")
    assert steps.value(done) == b"1\n"


def test_an_argument_over_the_systems_limit_points_to_path(steps: Steps) -> None:
    done = steps.run("v=$(head -c 200000 /dev/zero | tr '\\0' x); /bin/echo \"$v\"")
    assert done.status is Status.FAILED
    assert done.error is not None
    assert done.error.endswith(
        ": an argument or the environment is over the system's limit: use `{{ name | path }}`"
    )


def test_an_environment_over_the_systems_limit_is_told_in_one_line(steps: Steps) -> None:
    done = steps.run("true", env={"PATH": "/bin", "BIG": "x" * 200_000})
    assert (done.status, done.error) == (
        Status.FAILED,
        "an argument or the environment is over the system's limit: use `{{ name | path }}`",
    )


def test_a_nul_in_an_environment_variable_fails_the_step_and_not_the_worker(steps: Steps) -> None:
    done = steps.run("true", env={"PATH": "/bin", "A": "x\0y"})
    assert (done.status, done.error) == (
        Status.FAILED,
        "the environment can't hold 'A': a NUL byte, or no name",
    )


def test_the_environment_is_exact(steps: Steps) -> None:
    done = steps.run(
        "env", env={"PATH": "/usr/bin:/bin", "A": "1", "NAME": b"caf\xe9".decode(errors="surrogateescape")}
    )
    names = {line.split(b"=")[0] for line in steps.value(done).splitlines()}
    assert names == {b"PATH", b"A", b"NAME", b"PWD", b"TMPDIR", b"LLMC_STEP_TOKEN"}
    assert b"NAME=caf\xe9\n" in steps.value(done)


# ---------------------------------------------------------------- the sandbox


def test_a_step_sees_its_inputs_and_nothing_else(steps: Steps) -> None:
    steps.write("a.txt", "A")
    steps.write("b.txt", "B")
    steps.write("dir/run.sh", "#!/bin/sh\necho ran", mode=0o755)
    os.utime(steps.space / "a.txt", (1_000_000_000, 1_000_000_000))
    done = steps.run(
        "find . -type f | sort; cat a.txt; dir/run.sh; stat -c %a:%Y a.txt; [ -e b.txt ] || echo none",
        inputs=["a.txt", "dir/run.sh"],
    )
    assert steps.value(done) == b"./a.txt\n./dir/run.sh\nAran\n644:1000000000\nnone\n"
    assert done.reply["undeclared"] == []


def test_the_sandbox_is_fresh_private_and_gone_afterwards(steps: Steps) -> None:
    first = steps.run(
        "pwd; echo x > left; mkdir -p deep/er; echo t > $TMPDIR/temporary; chmod 777 .; chmod 000 deep"
    )
    folder = Path(steps.value(first).decode().strip())
    assert first.reply["undeclared"] == ["left"]
    second = steps.run("ls -A . $TMPDIR; stat -c %a . $TMPDIR")
    assert b"left" not in steps.value(second)
    assert b"temporary" not in steps.value(second)
    assert steps.value(second).splitlines()[-2:] == [b"700", b"700"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_made_in_the_same_instant_as_its_folder_is_noticed(steps: Steps) -> None:
    """Two events within a tick of the kernel's clock have equal times."""
    for _ in range(20):
        steps.run("mkdir d")  # so that the next step's folder is a new one
        steps.run(": > left; : > $TMPDIR/left")
        assert steps.value(steps.run("ls -A . $TMPDIR | grep left; :")) == b""


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="this system's Python has no extended attributes")
def test_what_was_done_to_the_folder_itself_does_not_reach_the_next_step(steps: Steps) -> None:
    mark = f"{sys.executable} -S -c \"import os; os.setxattr('.', 'user.mark', b'1')\""
    marked = steps.run(f"touch left; {mark}")
    if marked.status is not Status.OK:
        pytest.skip("this file system has no extended attributes")
    read = f"{sys.executable} -S -c \"import os; print(os.listxattr('.'))\""
    assert steps.value(steps.run(read)) == b"[]\n"
    size = steps.value(steps.run("stat -c %s ."))
    steps.run("seq 3000 | xargs touch")
    assert steps.value(steps.run("stat -c %s .; ls -A")) == size
    looks = "stat -c '%u %g %a' .; lsattr -d . 2>&1 | cut -d' ' -f1"
    new = steps.value(steps.run(looks))
    steps.run("touch left; chgrp 5 .; chattr +A .; :")  # as far as it may
    assert steps.value(steps.run(looks)) == new


def test_who_is_still_in_a_folder_does_not_reach_the_next_step(tmp_path: Path) -> None:
    home = Home(str(tmp_path))
    try:
        for untouched in (True, False):
            inside = [os.open(folder.path, os.O_RDONLY) for folder in (home.work, home.tmp)]
            home.reset(untouched=untouched, anew=True)
            for folder in inside:
                with pytest.raises(FileNotFoundError):
                    os.open("late", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
                os.close(folder)
            assert os.listdir(home.work.path) == os.listdir(home.tmp.path) == []
    finally:
        home.remove()


def test_a_step_that_removes_its_own_sandbox_harms_nobody(steps: Steps) -> None:
    steps.run('rm -rf "$PWD" "$TMPDIR"')
    assert steps.value(steps.run("ls -A; echo ok > $TMPDIR/x; cat $TMPDIR/x")) == b"ok\n"


def test_a_step_that_puts_a_link_in_place_of_its_sandbox_harms_nobody(steps: Steps) -> None:
    steps.write("kept/file", "text")
    kept = steps.space / "kept"
    steps.run(f'rm -rf "$PWD" "$TMPDIR"; ln -s {kept} "$PWD"; ln -s {kept} "$TMPDIR"')
    assert (kept / "file").read_text() == "text"
    assert steps.value(steps.run("ls -A . $TMPDIR | grep file; stat -c %a . $TMPDIR")) == b"700\n700\n"
    assert (kept / "file").read_text() == "text"


def test_a_tree_too_deep_for_recursion_is_removed(steps: Steps) -> None:
    deep = "import os\nfor _ in range(1100): os.mkdir('d'); os.chdir('d')"
    done = steps.run(f'{sys.executable} -S -c "{deep}"')
    assert done.status is Status.OK
    assert steps.value(steps.run("ls -A")) == b""


def test_inputs_that_were_changed_and_files_not_declared_are_named(steps: Steps) -> None:
    steps.write("kept", "1")
    steps.write("changed", "1")
    done = steps.run(
        "echo 2 > changed; mkdir d; touch d/new out; ln -s out link; for i in $(seq 30); do touch z$i; done",
        inputs=["kept", "changed"],
        outputs=["out"],
    )
    named = done.reply["undeclared"]
    assert isinstance(named, list)
    assert named[:3] == ["changed", "d/new", "link"]
    assert len(named) == 20
    assert (steps.space / "changed").read_text() == "1"


def test_an_input_that_is_gone_is_an_error_before_the_step_starts(steps: Steps) -> None:
    done = steps.run("echo ran", inputs=["missing.txt"])
    assert (done.status, done.error) == (
        Status.FAILED,
        'input "missing.txt" can\'t be copied: No such file or directory',
    )


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ""])
def test_an_input_outside_the_workspace_is_refused(steps: Steps, name: str) -> None:
    done = steps.run("echo", inputs=[name])
    assert done.error == f'input "{name}" is not a path inside the workspace'


def test_an_input_that_is_a_pipe_does_not_hang(steps: Steps) -> None:
    os.mkfifo(steps.space / "pipe")
    done = steps.run("cat pipe", inputs=["pipe"])
    assert done.error == 'input "pipe" can\'t be copied: it is neither a file nor a folder'


def test_without_a_sandbox_a_step_runs_in_the_workspace(steps: Steps) -> None:
    steps.write("a.txt", "A")
    done = steps.run("cat a.txt; pwd; echo o > out.txt", sandbox=False, outputs=["out.txt"])
    assert steps.value(done) == f"A{steps.space}\n".encode()
    assert steps.outputs(done) == {"out.txt": b"o\n"}
    assert (steps.space / "out.txt").exists()
    assert done.reply["undeclared"] == []


# ---------------------------------------------------------------- outputs


def test_declared_outputs_are_collected_with_their_mode(steps: Steps) -> None:
    done = steps.run(
        "mkdir d; echo small > d/a; seq 5000 > b; chmod 755 b; ln -s d/a link", outputs=["d/a", "b", "link"]
    )
    entries: Any = done.reply["outputs"]
    assert steps.outputs(done) == {
        "d/a": b"small\n",
        "b": b"".join(b"%d\n" % n for n in range(1, 5001)),
        "link": b"small\n",
    }
    assert [entry["executable"] for entry in entries] == [False, True, False]


def test_two_outputs_may_be_one_large_file(steps: Steps) -> None:
    done = steps.run("seq 5000 > a; ln -s a b; ln a c", outputs=["a", "b", "c"])
    assert len(set(steps.outputs(done).values())) == 1


def test_an_output_that_was_not_written_fails_the_step(steps: Steps) -> None:
    done = steps.run("echo x > a", outputs=["a", "b", "c/d"])
    assert (done.status, done.error) == (Status.FAILED, 'declared outputs "b", "c/d" were not written')
    assert done.reply["missing_outputs"] == ["b", "c/d"]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("ln -s /etc/passwd out", 'declared output "out" is a link that leads out of the sandbox'),
        ("ln -s nothing out", 'declared output "out" is a link to nothing'),
        ("mkdir out", 'declared output "out" is a folder: declare the files in it'),
        ("mkfifo out", 'declared output "out" is not a regular file'),
        ("ln -s out out", 'declared output "out" is a link to nothing'),
    ],
)
def test_an_output_must_be_a_file_of_the_sandbox(steps: Steps, script: str, error: str) -> None:
    """A link out of it would put somebody else's file into the store."""
    done = steps.run(script, outputs=["out"])
    assert done.status is Status.FAILED
    assert done.error == error


# ---------------------------------------------------------------- values


def variable(value: bytes, name: str = "x", number: int = 0, **more: Any) -> dict[str, Any]:
    content = {"data": base64.b64encode(value).decode()}
    return {
        "variable": f"v{number}",
        "slot": f"v{number}",
        "name": name,
        "filters": [],
        "path": False,
        "content": content,
        **more,
    }


@pytest.mark.parametrize("size", [0, 10, 96 * 1024, 96 * 1024 + 1, 300_000])
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_value_arrives_byte_for_byte_whatever_its_size(steps: Steps, size: int, shell: str) -> None:
    value = (b"a\xff'\"$(touch pwned)`\\\n" * (size // 10 + 1))[:size]
    done = steps.run('printf %s "${v0}"; ls >&2', shell=shell, variables=[variable(value, filters=["raw"])])
    assert steps.value(done) == value
    assert steps.bytes(done.reply["stderr"]) == b""


def test_many_values_of_middle_size_fit_together(steps: Steps) -> None:
    values = [variable(bytes([65 + n]) * 90_000, number=n) for n in range(12)]
    script = "printf %s " + " ".join(f'"${{v{n}}}"' for n in range(12)) + " | wc -c"
    assert steps.value(steps.run(script, variables=values)).strip() == b"1080000"


def test_values_are_not_in_the_environment_of_what_the_script_starts(steps: Steps) -> None:
    done = steps.run("env; : ${v0}", variables=[variable(b"private")])
    assert b"private" not in steps.value(done)


def test_values_follow_their_filters(steps: Steps) -> None:
    variables = [
        variable(b"a\n\n", number=0),
        variable(b"a\n\n", number=1, filters=["raw"]),
        variable(b" a \n", number=2, filters=["trim"]),
        variable(b'"\n', number=3, filters=["json"]),
    ]
    done = steps.run('printf "[%s]" "$v0" "$v1" "$v2" "$v3"', variables=variables)
    assert steps.value(done) == b'[a][a\n\n][a]["\\""]'


def test_a_path_value_is_a_private_file_that_holds_all_of_it(steps: Steps) -> None:
    value = b"\0bin\n\n"
    done = steps.run(
        'cat "$v0"; stat -c %a "$v0"; [ "$v0" = "$LLMC_MY_DATA_FILE" ] && echo told',
        variables=[variable(value, name="my-data", path=True)],
    )
    assert steps.value(done) == value + b"600\ntold\n"


def test_a_value_can_come_from_a_file_and_is_verified(steps: Steps) -> None:
    blob = steps.root / "blob"
    blob.write_bytes(b"stored")
    content = {"file": str(blob), "hash": sha256(b"stored").hexdigest(), "size": 6}
    assert steps.value(steps.run("echo $v0", variables=[variable(b"", content=content)])) == b"stored\n"
    blob.write_bytes(b"rotten")
    done = steps.run("echo $v0", variables=[variable(b"", content=content)])
    assert done.error == "value of {{x}} was damaged in the store: build again"


def test_a_nul_in_a_value_is_refused_with_the_way_out(steps: Steps) -> None:
    done = steps.run("echo $v0", variables=[variable(b"a\0b", name="blob")])
    assert (done.status, done.error) == (
        Status.FAILED,
        "value of {{blob}} holds a NUL byte: use {{blob | path}}",
    )


def test_a_value_that_would_be_an_option_is_refused(steps: Steps) -> None:
    more = {"dash": [["v0", "cat"]]}
    assert steps.run("cat $v0", variables=[variable(b"--help")], **more).error == (
        'value of {{x}} begins with "-", which "cat" would take for an option: write `--` before it'
    )
    assert steps.value(steps.run("echo $v0", variables=[variable(b"fine")], **more)) == b"fine\n"


@pytest.mark.parametrize(
    ("option", "value", "refused"),
    [
        ("-d", b"@/etc/passwd", True),
        ("--json", b"@x", True),
        ("-F", b"<x", True),
        ("--data-urlencode", b"a@b", True),
        ("--data-urlencode", b"a=b@c", False),
        ("-d", b"a@b", False),
        ("-d", b"-x", False),
    ],
)
def test_a_value_that_would_have_a_file_sent_is_refused(
    steps: Steps, option: str, value: bytes, refused: bool
) -> None:
    more = {"dash": [["v0", f"curl {option}"], ["v0", "true"]] if refused else [["v0", f"curl {option}"]]}
    done = steps.run('printf %s "$v0"', variables=[variable(value)], **more)
    assert ("which would send that" in str(done.error)) == refused


def test_lines_of_a_script_keep_their_numbers(steps: Steps) -> None:
    done = steps.run("true\nnosuchcommand", variables=[variable(b"x")])
    assert "sh: 2: nosuchcommand: not found" in str(done.reply["stderr_tail"])


# ---------------------------------------------------------------- logs and secrets


def test_logs_hold_output_and_script(steps: Steps) -> None:
    logs = steps.root / "logs" / "w" / "s"
    steps.run("echo out; echo err >&2", logs=str(logs), action='{"rule": "shell"}')
    assert {path.name: path.read_text() for path in logs.iterdir()} == {
        "stdout": "out\n",
        "stderr": "err\n",
        "script": "echo out; echo err >&2",
        "action.json": '{"rule": "shell"}',
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in logs.iterdir()} == {0o600}


def test_secrets_are_given_and_never_kept(steps: Steps) -> None:
    secret = "s3cr3t/+ pass"
    logs = steps.root / "logs" / "w" / "secret"
    script = (
        'echo "plain $KEY"; printf "user:%s" "$KEY" | base64; '
        "echo " + urllib.parse.quote(secret, safe="") + '; echo "$KEY" >&2; [ ${#KEY} = 13 ] && echo given'
    )
    done = steps.run(script, secrets={"KEY": secret}, logs=str(logs))
    lines = steps.value(done).splitlines()
    assert lines[0] == b"plain ***"
    assert lines[1].startswith(b"dXNlcj")
    assert b"***" in lines[1]
    assert lines[2:] == [b"***", b"given"]
    kept = steps.value(done) + steps.bytes(done.reply["stderr"]) + (logs / "stdout").read_bytes()
    assert secret.encode() not in kept + (logs / "stderr").read_bytes()
    assert done.reply["stderr_tail"] == "***"
    assert done.reply["warnings"] == [
        "its output held a secret, which was replaced by ***",
        "its standard error held a secret, which was replaced by ***",
    ]


def test_logs_never_hold_a_secret_even_while_the_step_runs(steps: Steps) -> None:
    """A build that is killed leaves its logs as they were at that moment."""
    logs = steps.root / "logs" / "w" / "live"
    steps.run(f'echo "$KEY"; cat {logs}/* > {steps.root}/seen', secrets={"KEY": "hunter22"}, logs=str(logs))
    assert "hunter22" not in (steps.root / "seen").read_text()
    assert (logs / "stdout").read_text() == "***\n"


def test_a_secret_in_a_declared_output_fails_the_step(steps: Steps) -> None:
    done = steps.run('echo "$KEY" > out', secrets={"KEY": "hunter22"}, outputs=["out"])
    assert (done.status, done.error) == (
        Status.FAILED,
        'declared output "out" holds a secret, which would be stored',
    )


def test_a_secret_is_found_where_a_file_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redactor = Redactor(["abcabd", "abcabdxyz"])
    text = b"--abcabcabdxyzabcabd--" * 50 + b"abcab"
    expected = text.replace(b"abcabdxyz", b"***").replace(b"abcabd", b"***")
    assert redactor.redact(text) == expected
    path = tmp_path / "file"
    for size in range(1, 30):
        monkeypatch.setattr("llmc_build.execute.redact._CHUNK", size)
        path.write_bytes(text)
        with open(path, "r+b") as file:
            assert redactor.redact_file(file.fileno())
        assert path.read_bytes() == expected


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
@pytest.mark.parametrize("secret", ["hunter2", "p@ss/w+rd?", "ünï"])
def test_a_secret_is_found_in_base64_at_any_place(before: str, secret: str) -> None:
    encoded = base64.b64encode(f"{before}{secret}; more".encode())
    assert b"***" in Redactor([secret]).redact(encoded)


def test_short_values_are_looked_for_as_words_only() -> None:
    assert not Redactor(["a", ""])
    assert Redactor(["abc"]).redact(b"abc abcd (abc) xabc abc") == b"*** abcd (***) xabc ***"


@pytest.mark.parametrize("secret", ["hunter2-hunter2", "it's a \"$x`\\ <b>/é", "p@ss/w+rd?&=", "k" * 90])
@pytest.mark.parametrize(
    "encode",
    [
        lambda value: base64.encodebytes(b"user:" + value),
        lambda value: base64.urlsafe_b64encode(b"u" + value + b"!"),
        lambda value: urllib.parse.quote_from_bytes(value, safe="").lower().encode(),
        lambda value: json.dumps(value.decode()).replace("/", "\\/").encode(),
        lambda value: (b"user:" + value).hex().encode(),
        lambda value: (b"user:" + value).hex(" ").upper().encode(),
        lambda value: html.escape(value.decode()).encode(),
        lambda value: b"+ curl '" + value.replace(b"'", b"'\\''") + b"'",
        lambda value: shlex.quote(value.decode()).encode(),
        lambda value: subprocess.check_output(
            ["bash", "-c", 'printf %q "$1"', "-", value], env={"LC_ALL": "C.UTF-8"}
        ),
        lambda value: subprocess.check_output(
            ["bash", "-c", 'set -x; : "$V"', "-"], env={"V": value}, stderr=-2
        ),
        lambda value: subprocess.check_output(["bash", "-c", "declare -p V", "-"], env={"V": value}),
    ],
)
def test_a_secret_is_found_as_tools_print_it(secret: str, encode: Callable[[bytes], bytes]) -> None:
    printed = encode(secret.encode())
    assert b"***" in Redactor([secret]).redact(printed), printed


def test_of_secrets_that_overlap_nothing_is_left() -> None:
    assert Redactor(["abcdef", "defghi"]).redact(b"-abcdefghi-") == b"-***-"
    assert Redactor(["aaaa"]).redact(b"-aaaaaa-") == b"-***-"


def test_pieces_are_redacted_as_the_whole_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    for _ in range(300):
        secrets = ["".join(chance.choices("ab1 /", k=chance.randint(2, 7))) for _ in range(3)]
        text = "".join(chance.choices("ab1 /\n", k=chance.randint(0, 99))).encode()
        monkeypatch.setattr("llmc_build.execute.redact._CHUNK", chance.choice([1, 2, 3, 7, 50]))
        with open(tmp_path / "file", "w+b", buffering=0) as file:
            file.write(text)
            Redactor(secrets).redact_file(file.fileno())
            assert (tmp_path / "file").read_bytes() == Redactor(secrets).redact(text), (secrets, text)


def test_lines_of_a_key_are_found_one_by_one() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n"
    assert Redactor([key]).redact(b"see kqhkiG9w0BAQEF -----END KEY-----") == b"see *** -----END KEY-----"
