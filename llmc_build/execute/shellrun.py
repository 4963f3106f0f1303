"""Runs the scripts of shell steps, one at a time, in a worker.

Owns what a shell request means: folders, values, environment, captured output, and what the script's end
comes to.  How processes are held together is `supervise`; the folders are `sandbox`; how values get into
a script is `shellcode`.

A short script is handed to the shell as the argument of `-c`: that needs no file, and lets the shell
become its last command in place of starting it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from llmc_build.execute.capture import Capture
from llmc_build.execute.channel import Channel, ChannelClosed, Message
from llmc_build.execute.protocol import signal_name
from llmc_build.execute.sandbox import Home, InputError, OutputError, bring_in, find_output, undeclared
from llmc_build.execute.supervise import GRACE_S, TOKEN_VARIABLE, Command, Ending, Supervisor
from llmc_build.execute.values import ValueRefused, load
from llmc_build.model import Json
from llmc_build.store.cas import Cas

if TYPE_CHECKING:
    from llmc_build.execute.redact import Redactor

MAX_OUTPUT: Final = 1 << 30  # bytes of stdout and stderr together, unless the lane says otherwise
_GONE_GRACE_S = 0.5  # for a step whose build is gone
_SCRIPT_IN_ARGUMENT = 96 * 1024  # bytes; Linux takes 128 KiB in one argument
_UNDECLARED_SHOWN = 20
_TOO_LONG = "an argument or the environment is over the system's limit: use `{{ name | path }}`"


class _Refused(Exception):
    """The step can't be started.  One line."""


def serve(channel: Channel, config: Mapping[str, Json]) -> None:
    """Answers requests until the connection closes; then nothing of a step is left."""
    with _Server(channel, config) as server:
        server.loop()


class _Server:
    def __init__(self, channel: Channel, config: Mapping[str, Any]) -> None:
        self._channel = channel
        self._cas = Cas(Path(config["cas"]), spill=Path(config["spill"]) if config.get("spill") else None)
        self._max_output = int(config.get("max_output") or MAX_OUTPUT)
        self._token = str(config.get("token") or "")
        self._supervisor = Supervisor(token=self._token, interrupt_fd=channel.fileno())
        self._homes: dict[str, Home] = {}
        self._queue: deque[Message] = deque()  # requests that came while a step ran
        self._running: int | None = None
        self._reason = ""  # why the running step was cancelled
        self._idle = False
        self._terminated = False

    def __enter__(self) -> _Server:
        self._supervisor.__enter__()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's interrupt is the build's business
        signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *exc: object) -> None:
        os.chdir("/")
        for home in self._homes.values():
            home.remove()

    def loop(self) -> None:
        self._channel.send({"op": "ready", "capacity": 1})
        with contextlib.suppress(ChannelClosed):
            while True:
                message = self._next()
                if message["op"] == "run":
                    self._channel.send(self._answer(message))

    def _next(self) -> Message:
        if self._queue:
            return self._queue.popleft()
        self._idle = True
        if self._terminated:
            raise SystemExit(128 + signal.SIGTERM)
        message = self._channel.recv()
        self._idle = False
        assert message is not None
        return message

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True
        if self._idle:
            raise SystemExit(128 + number)

    def _interrupt(self) -> str | None:
        """Why the running step has to end now."""
        if self._terminated:
            return "gone"
        try:
            while (message := self._channel.recv(0)) is not None:
                if message["op"] == "run":
                    self._queue.append(message)
                elif message["op"] == "cancel" and message["id"] == self._running:
                    self._reason = str(message.get("reason") or "cancelled")
                    return "cancel"
                elif message["op"] == "cancel":
                    self._cancel_queued(message)
        except ChannelClosed:
            return "gone"
        return None

    def _cancel_queued(self, message: Message) -> None:
        for queued in self._queue:
            if queued["id"] == message["id"]:
                self._queue.remove(queued)
                self._channel.send(_done(queued["id"], "cancelled", {}, str(message.get("reason")), 0.0))
                return

    # ------------------------------------------------------------ one request

    def _answer(self, message: Message) -> dict[str, Json]:
        started = time.monotonic()
        self._running = message["id"]
        try:
            status, reply, error = self._run(message["request"], message.get("timeout_s"))
        except (_Refused, InputError, ValueRefused) as refusal:
            status, reply, error = "failed", {}, str(refusal)
        except OSError as failure:
            status, reply, error = "failed", {}, _explain(failure)
        self._running = None
        return _done(message["id"], status, reply, error, time.monotonic() - started)

    def _run(
        self, request: Mapping[str, Any], timeout_s: float | None
    ) -> tuple[str, dict[str, Json], str | None]:
        home = self._home(request["scratch"])
        sandboxed = bool(request.get("sandbox", True))
        root = home.work.path if sandboxed else str(request["workspace"])
        try:
            given = bring_in(root, request.get("inputs") or []) if sandboxed else {}
            env = self._environment(request, home)
            loaded = load(request.get("variables") or [], request.get("dash") or [], home.values.path)
            env.update(loaded.env)
            argv = _argv(request, loaded.script(request["script"]), home.values.path)
            with _captures(request, home) as (out, err):
                command = Command(
                    argv=argv,
                    env=env,
                    cwd=root,
                    stdout=out.fd,
                    stderr=err.fd,
                )
                ending = self._supervisor.run(
                    command,
                    timeout_s=timeout_s,
                    interrupt=self._interrupt,
                    check=lambda: "output" if out.size + err.size > self._max_output else None,
                    grace_s=lambda reason: _GONE_GRACE_S if reason == "gone" else GRACE_S,
                )
                step = _Step(request, root, sandboxed, ending, out, err, self._cas)
                status, error = step.verdict(timeout_s, self._reason, self._max_output)
                if sandboxed and not (home.work.untouched and not given):
                    found = undeclared(root, given, request.get("outputs") or [], _UNDECLARED_SHOWN)
                    step.reply["undeclared"] = list(found)
                if status == "ok":
                    status, error = step.collect()
                return status, step.reply, error
        finally:
            home.reset()

    def _home(self, scratch: str) -> Home:
        found = self._homes.get(scratch)
        if found is None:
            found = self._homes[scratch] = Home(scratch)
        return found

    def _environment(self, request: Mapping[str, Any], home: Home) -> dict[bytes, bytes]:
        env = {b"TMPDIR": os.fsencode(home.tmp.path)}
        for given in (request.get("env") or {}, request.get("secrets") or {}):
            for name, value in given.items():
                if "\0" in name + value or "=" in name or not name:
                    raise _Refused(f"the environment can't hold {name!r}: a NUL byte, or no name")
                env[os.fsencode(name)] = os.fsencode(value)
        env[TOKEN_VARIABLE.encode()] = self._token.encode()
        return env


class _Step:
    """A script that has ended: what it came to."""

    def __init__(
        self,
        request: Mapping[str, Any],
        root: str,
        sandboxed: bool,
        ending: Ending,
        out: Capture,
        err: Capture,
        cas: Cas,
    ) -> None:
        self._request = request
        self._root = root
        self._sandboxed = sandboxed
        self._ending = ending
        self._out, self._err = out, err
        self._cas = cas
        self.reply: dict[str, Json] = {"exit_code": ending.exit_code, "signal": ending.signal}
        self._redact()
        self.reply["stderr_tail"] = err.tail()
        self.reply["undeclared"] = []
        self.reply["missing_outputs"] = []

    def _redact(self) -> None:
        warnings: list[Json] = []
        if self._ending.left:
            warnings.append(
                f"left {_count(self._ending.left, 'process', 'processes')} running, which had to be ended: "
                "`wait` for them"
            )
        if self._ending.survivors:
            pids = ", ".join(map(str, self._ending.survivors))
            warnings.append(f"could not end all of its processes: {pids}")
        self._secrets = _redactor(self._request.get("secrets") or {})
        if self._secrets is not None:
            for name, capture in (("output", self._out), ("standard error", self._err)):
                if self._secrets.redact_file(capture.fd):
                    warnings.append(f"its {name} held a secret, which was replaced by ***")
        self.reply["warnings"] = warnings

    def verdict(self, timeout_s: float | None, reason: str, limit: int) -> tuple[str, str | None]:
        ending = self._ending
        if ending.stopped == "timeout":
            return "timeout", f"timed out after {timeout_s:g} s"
        if ending.stopped in ("cancel", "gone"):
            return "cancelled", reason or "the build is gone"
        if ending.stopped == "output" or self._out.size + self._err.size > limit:
            return "failed", f"its output is over the limit of {limit} bytes"
        if ending.signal is not None:
            return "failed", f"killed by {signal_name(ending.signal)}"
        if ending.exit_code:
            too_long = os.strerror(errno.E2BIG) in str(self.reply["stderr_tail"])
            return "failed", f"exit code {ending.exit_code}" + (f": {_TOO_LONG}" if too_long else "")
        return "ok", None

    def collect(self) -> tuple[str, str | None]:
        """Puts value and outputs into the store."""
        wanted = self._request.get("outputs") or []
        try:
            found = {path: find_output(self._root, path) for path in wanted}
            missing: list[Json] = [path for path, place in found.items() if place is None]
            if missing:
                self.reply["missing_outputs"] = missing
                names = ", ".join(f'"{path}"' for path in missing)
                return "failed", f"declared output {names} was not written"
            places = {path: place for path, place in found.items() if place is not None}
            self.reply["outputs"] = self._outputs(places)
            self.reply["value"] = self._out.content(self._cas)
            self.reply["stderr"] = self._err.content(self._cas)
        except OutputError as error:
            return "failed", str(error)
        except OSError as error:
            return "failed", f"its result could not be stored: {error.strerror or error}"
        return "ok", None

    def _outputs(self, places: Mapping[str, tuple[str, bool]]) -> list[Json]:
        names = Counter(path for path, _ in places.values())
        found: list[Json] = []
        for relative, (path, executable) in places.items():
            # A file in the workspace stays where it is; one in the sandbox is about to be removed, so the
            # store may have it, unless another declared output leads to it too.
            content = self._output(relative, path, consume=self._sandboxed and names[path] == 1)
            found.append({"path": relative, "executable": executable, "content": content})
        return found

    def _output(self, relative: str, path: str, *, consume: bool) -> dict[str, Json]:
        try:
            capture = Capture(path, fresh=False)
        except OSError as error:
            raise OutputError(f'declared output "{relative}" can\'t be read: {error.strerror}') from None
        with contextlib.closing(capture):
            if self._secrets is not None and self._secrets.found_in(capture.fd):
                raise OutputError(f'declared output "{relative}" holds a secret, which would be stored')
            return capture.content(self._cas, consume=consume)


# ---------------------------------------------------------------- parts of a request


def _argv(request: Mapping[str, Any], text: str, folder: str) -> tuple[str | bytes, ...]:
    """The command line that runs a script."""
    shell = str(request.get("shell") or "sh")
    executable = _find_shell(shell, (request.get("env") or {}).get("PATH"))
    if "\0" in text:
        raise _Refused("the script holds a NUL byte")
    script = os.fsencode(text)
    if len(script) <= _SCRIPT_IN_ARGUMENT:
        return executable, "-c", script, shell
    path = f"{folder}/script"
    with open(path, "xb") as file:
        file.write(script)
    return executable, path


@functools.lru_cache(maxsize=64)
def _find_shell(shell: str, path: str | None) -> str:
    if shell == "sh" and os.access("/bin/sh", os.X_OK):
        return "/bin/sh"
    found = shutil.which(shell, path=path or os.defpath)
    if found is None:
        raise _Refused(f'the shell "{shell}" was not found')
    return found


@contextlib.contextmanager
def _captures(request: Mapping[str, Any], home: Home) -> Iterator[tuple[Capture, Capture]]:
    """The files for stdout and stderr: among the logs, or the home's own, which serve every step."""
    logs = request.get("logs")
    if logs:
        os.makedirs(logs, mode=0o700, exist_ok=True)
        for name, text in (("script", request["script"]), ("action.json", request.get("action") or "{}")):
            with contextlib.closing(Capture(f"{logs}/{name}")) as file:
                os.write(file.fd, os.fsencode(text))
    if logs and not request.get("secrets"):
        with (
            contextlib.closing(Capture(f"{logs}/stdout")) as out,
            contextlib.closing(Capture(f"{logs}/stderr")) as err,
        ):
            yield out, err
        return
    out, err = home.captures()
    yield out, err
    if logs:  # what holds secrets is among the logs only once they were taken out
        out.copy_to(f"{logs}/stdout")
        err.copy_to(f"{logs}/stderr")
    out.empty()
    err.empty()


def _redactor(secrets: Mapping[str, str]) -> Redactor | None:
    if not secrets:
        return None
    from llmc_build.execute.redact import Redactor  # slow to import, and seldom needed

    return Redactor(secrets.values()) or None


def _done(
    task_id: int, status: str, reply: dict[str, Json], error: str | None, wall_s: float
) -> dict[str, Json]:
    return {"op": "done", "id": task_id, "status": status, "reply": reply, "error": error, "wall_s": wall_s}


def _explain(failure: OSError) -> str:
    """Why a step couldn't be started, or what it wrote couldn't be kept."""
    if failure.errno == errno.E2BIG:
        return _TOO_LONG
    if failure.errno == errno.ETXTBSY:
        return f"{failure.filename or 'the shell'} is being written by another process"
    where = f": {failure.filename}" if failure.filename else ""
    return f"the step could not be run: {failure.strerror or failure}{where}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
