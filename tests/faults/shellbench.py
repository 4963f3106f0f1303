"""Runs rewritten scripts with a value, as a step would run them; for the tests of values in commands.

A script runs in a folder of its own, with the value in its environment or in a file; the file CANARY in that
folder is what hostile values try to make.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmc_build.execute.values import write_newlines
from llmc_build.filters import apply_filters
from llmc_build.shellcode.prelude import Load, with_prelude
from llmc_build.shellcode.rewrite import Script

BENIGN = b"BENIGN"


@dataclass(frozen=True)
class Shell:
    name: str
    command: tuple[str, ...]
    language: str  # what it can run: "sh" or "bash"
    locale: str = "C.UTF-8"

    def takes(self, value: bytes) -> bool:
        """yash works with characters: where bytes are none, the prelude ends the script."""
        return "yash" not in self.command[0] or value.decode("utf-8", "replace").encode() == value


def shells() -> Iterator[Shell]:
    """Every shell of this machine that scripts are meant for."""
    yield Shell("sh", ("/bin/sh",), "sh")
    for name in ("dash", "mksh", "yash"):
        path = shutil.which(name)
        if path and Path(path).resolve() != Path("/bin/sh").resolve():
            yield Shell(name, (path,), "sh")
    if path := shutil.which("busybox"):
        yield Shell("busybox", (path, "sh"), "sh")
    if path := shutil.which("bash"):
        yield Shell("bash", (path,), "bash")
        yield Shell("bash-posix", (path, "--posix"), "sh")
        yield Shell("bash-C", (path,), "bash", "C")
    for command in filter(None, os.environ.get("LLMC_SHELLS", "").split(":")):
        yield Shell(command, tuple(command.split()), "sh")


@dataclass(frozen=True)
class Ended:
    stdout: bytes
    stderr: bytes
    code: int | None  # None: it ran longer than it may


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """The exit code of a child, None where it runs on.  `Popen.wait` with a limit sleeps and looks again."""
    if hasattr(os, "pidfd_open"):
        fd = os.pidfd_open(process.pid)
        try:
            ready, _, _ = select.select([fd], [], [], limit_s)
        finally:
            os.close(fd)
        return process.wait() if ready else None
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None


class Bench:
    """A folder in which scripts run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        self.runs = 0

    @property
    def canary(self) -> bool:
        return (self.work / "CANARY").exists()

    def clear(self) -> None:
        """Leave an empty folder to work in."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def run(
        self,
        shell: Shell,
        script: Script,
        value: bytes,
        kind: str,
        *,
        env: Mapping[str, str] | None = None,
        limit_s: float = 60,
    ) -> Ended:
        """`kind`: whether a value comes in the environment or in a file."""
        loads = []
        given: dict[bytes, bytes] = {}
        for number, variable in enumerate(script.variables):
            data = value if variable.path else apply_filters(value, variable.filters)
            file = self.folder / f"value {number}"
            if variable.path or kind == "file":
                file.write_bytes(data)
                (self.folder / f"{file.name}.newlines").unlink(missing_ok=True)
                newlines = "" if variable.path else write_newlines(str(file), data)
                loads.append(Load(variable.name, "path" if variable.path else "file", str(file), newlines))
            else:
                given[f"LLMC_V{number}".encode()] = data
                loads.append(Load(variable.name, "environment", f"LLMC_V{number}"))
        return self.run_text(shell, with_prelude(script.text, loads), given, env=env, limit_s=limit_s)

    def run_text(
        self,
        shell: Shell,
        text: str | bytes,
        given: Mapping[bytes, bytes] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        limit_s: float = 60,
    ) -> Ended:
        """Run a script as it stands; whatever it left behind ends with it."""
        code = self.folder / "script"
        code.write_bytes(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
        environment = {
            b"PATH": os.environb[b"PATH"],
            b"LC_ALL": shell.locale.encode(),
            b"HOME": os.fsencode(self.folder),
            b"TMPDIR": os.fsencode(self.folder),
            **{name.encode(): data.encode() for name, data in (env or {}).items()},
            **(given or {}),
        }
        self.runs += 1
        with (self.folder / "out").open("w+b") as out, (self.folder / "err").open("w+b") as err:
            process = subprocess.Popen(
                [*shell.command, str(code)],
                cwd=self.work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            ended = _wait(process, limit_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            out.seek(0)
            err.seek(0)
            return Ended(out.read(), err.read(), ended)

    def parses(self, shell: Shell, text: str) -> bool:
        """Whether the shell itself can read a script."""
        code = self.folder / "parsed"
        code.write_bytes(text.encode("utf-8", "surrogateescape"))
        done = subprocess.run([*shell.command, "-n", str(code)], capture_output=True, timeout=60)
        return done.returncode == 0
