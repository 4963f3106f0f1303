"""Runs the scripts of shell steps, one at a time, in a worker.

Owns what a shell request means: folders, values, environment, captured output, and when answers are sent.
What a script's end comes to is `ended`; how processes are held together is `supervise`; the folders are
`sandbox`; how values get into a script is `shellcode`.

A short script is handed to the shell as the argument of `-c`: that needs no file, and lets the shell
become its last command in place of starting it.

A worker is given the next steps while one runs, so that it never waits.  It gathers the answers of steps that
end within `GATHER_S` into one message; and when a step takes longer than `HOLD_S` it gives back those that
wait behind it, for another worker to run.  It says which step it has begun in a page that it shares with llmc
(`begun`), which must know whom to blame when the worker dies.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import mmap
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from llmc_build.execute.cage import Refusals
from llmc_build.execute.capture import Capture, encoded, log_files
from llmc_build.execute.channel import Channel, ChannelClosed, Message
from llmc_build.execute.ended import DEFAULTS, TOO_LONG, EndedStep, Limits, brief
from llmc_build.execute.messages import BEGUN, restored
from llmc_build.execute.sandbox import Home, InputError, Stamp, bring_in
from llmc_build.execute.supervise import FINE, GRACE_S, Command, Ending, Supervisor
from llmc_build.execute.sweep import TOKEN_VARIABLE
from llmc_build.execute.values import ValueRefused, load

if TYPE_CHECKING:
    from llmc_build.model import Json
    from llmc_build.store.cas import Cas

GATHER_S: Final = 0.003  # for which an answer may wait for others while there is more to do
HOLD_S: Final = 0.02  # for which a step may keep others waiting behind it
_GARBAGE = 20_000  # objects more before cycles are looked for: a step leaves next to none
_LOOKS: Final = (HOLD_S,)
_LOOKS_TO_SEND: Final = (GATHER_S, HOLD_S)
_GONE_GRACE_S = 0.5  # for a step whose build is gone
_OUTPUT_GRACE_S = 0.1  # for one that writes without end
_SCRIPT_IN_ARGUMENT = 96 * 1024  # bytes; Linux takes 128 KiB in one argument


class _Refused(Exception):
    """The step can't be started.  One line."""


def serve(channel: Channel, config: Mapping[str, Json]) -> None:
    """Answers requests until the connection closes; then nothing of a step is left."""
    gc.freeze()  # what was imported stays
    gc.set_threshold(_GARBAGE)
    with _Server(channel, config) as server:
        server.loop()


class _Server:
    def __init__(self, channel: Channel, config: Mapping[str, Any]) -> None:
        self._channel = channel
        self._config = config
        self._cas: Cas | None = None
        self._limits = Limits(**(config.get("limits") or {}))
        self._refusals = Refusals(config.get("group"))
        self._refused = 0  # before the running step
        self._token = str(config.get("token") or "")
        self._supervisor = Supervisor(token=self._token, interrupt_fd=channel.fileno())
        self._homes: dict[str, Home] = {}
        self._queue: deque[tuple[Message, Mapping[str, Any]]] = deque()  # "run" messages and their requests
        self._last: Mapping[str, Any] = {}  # the last request that came
        self._inside: tuple[str, int] | None = None  # the working folder that this process is in
        self._running: int | None = None
        self._began = 0.0
        self._reason: str | None = None  # why the running step was cancelled
        self._answers: list[Message] = []  # that were not yet sent
        self._since = 0.0  # when the first of them was there
        self._page = mmap.mmap(config["begun"], BEGUN.size)
        os.close(config["begun"])  # what a step inherited would show it to the step
        self._idle = False
        self._terminated = False
        self._surroundings: tuple[object, object, Home | None] = (None, None, None)
        self._base: dict[bytes, bytes] = {}  # the environment that belongs to them
        self._captures: tuple[Capture, Capture]  # of the running step

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
        self._channel.send({"op": "ready", "capacity": 1, "defaults": dict(DEFAULTS)})
        with contextlib.suppress(ChannelClosed):
            while True:
                if not self._queue or self._terminated:
                    self._await_work()
                    continue
                message, request = self._queue.popleft()
                answer, now = self._answer(message, request)
                self._say(answer, now)
                if self._queue and now - self._since >= GATHER_S:
                    self._send_answers()

    # ------------------------------------------------------------ the connection

    def _await_work(self) -> None:
        """Sends what is to be said, and sleeps until there is something to do."""
        self._send_answers()
        self._idle = True
        if self._terminated:
            raise SystemExit(128 + signal.SIGTERM)
        messages = self._channel.take()
        self._idle = False
        for message in messages:
            self._hear(message)

    def _hear(self, message: Message) -> None:
        if message["op"] == "run":
            self._last = restored(message, self._last)
            self._queue.append((message, self._last))
        elif message["op"] == "cancel":
            reason = str(message.get("reason") or "cancelled")
            if message["id"] == self._running:
                self._reason = reason
            for queued in self._queue:
                if queued[0]["id"] == message["id"]:
                    self._queue.remove(queued)
                    self._say(_done(message["id"], "cancelled", {}, reason, 0.0), time.monotonic())
                    break

    def _say(self, answer: Message, now: float) -> None:
        if not self._answers:
            self._since = now
        self._answers.append(answer)

    def _send_answers(self) -> None:
        if self._answers:
            answers, self._answers = self._answers, []
            self._channel.send(*answers)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True
        if self._idle:
            raise SystemExit(128 + number)

    def _interrupt(self) -> str | None:
        """Why the running step has to end now; sees to everything else that can't wait for its end."""
        if self._terminated:
            return "gone"
        try:
            for message in self._channel.take(0):
                self._hear(message)
            now = time.monotonic()
            if self._answers and now - self._since >= GATHER_S:
                self._send_answers()
            if self._queue and now - self._began >= HOLD_S:
                back: list[Json] = [message["id"] for message, _ in self._queue]
                self._queue.clear()
                self._answers.append({"op": "back", "ids": back})
                self._send_answers()
        except ChannelClosed:
            self._queue.clear()
            return "gone"
        return None if self._reason is None else "cancel"

    # ------------------------------------------------------------ one request

    def _answer(self, message: Message, request: Mapping[str, Any]) -> tuple[Message, float]:
        """What is to be said of a step that is run here, and when it ended."""
        self._began = time.monotonic()
        self._running, self._reason = message["id"], None
        BEGUN.pack_into(self._page, 0, message["id"])
        try:
            status, reply, error = self._run(request, message.get("timeout_s"))
        except (_Refused, InputError, ValueRefused) as refusal:
            status, reply, error = "failed", {}, str(refusal)
        except OSError as failure:
            status, reply, error = "failed", {}, _explain(failure)
        self._running = None
        now = time.monotonic()
        return _done(message["id"], status, reply, error, now - self._began), now

    def _run(
        self, request: Mapping[str, Any], timeout_s: float | None
    ) -> tuple[str, dict[str, Json], str | None]:
        get = request.get
        home = self._home(request["scratch"])
        sandboxed = get("sandbox", True)
        untouched, anew = not sandboxed, False
        given: dict[str, Stamp] = {}
        try:
            root = home.work.path
            if not sandboxed:
                root = str(request["workspace"])
            elif get("inputs"):
                given = bring_in(root, request["inputs"])
            script, env = request["script"], self._environment(request, home)
            if get("variables"):
                loaded = load(request["variables"], get("dash") or (), home.values)
                script = loaded.script(script)
                env = {**env, **loaded.env}
            argv = _argv(script, get("shell") or "sh", get("env"), home.values)
            if sandboxed == "strict":
                argv, env = _strictly(argv, env, home)
            out, err = self._captures = _open_captures(request, home)
            step: EndedStep | None = None
            try:
                made = home.work.made if sandboxed else 0
                anew = bool(sandboxed)  # should it not be seen to its end
                ending = self._supervise(argv, env, root, made, timeout_s, sandboxed == "strict")
                anew = bool(ending.survivors) or not self._supervisor.adopts
                if sandboxed:
                    untouched = not given and home.work.untouched
                    if untouched and ending is FINE and not (get("secrets") or get("outputs")):
                        value = brief(out, err, self._limits.output)
                        if value is not None:
                            return "ok", {"value": value}, None
                step = EndedStep(request, root, bool(sandboxed), ending, out, err, self._store, self._limits)
                if ending.exit_code and self._refusals.count() > self._refused:
                    step.ran_out_of_processes()
                status, error = step.verdict(timeout_s, self._reason)
                if not untouched:
                    step.look_for_undeclared(given)
                if status == "ok":
                    status, error = step.collect()
                if status != "ok":
                    out.cut(self._limits.log)
                return status, step.reply, error
            finally:
                _close_captures(request, out, err, clean=step is not None)
        finally:
            home.reset(untouched=untouched, anew=anew)

    def _supervise(
        self,
        argv: tuple[str | bytes, ...],
        env: Mapping[bytes, bytes],
        root: str,
        made: int,
        timeout_s: float | None,
        strict: bool,
    ) -> Ending:
        """`made`: which folder of that name `root` is; 0: one that may become another at any time."""
        cwd = None if made and self._inside == (root, made) else root
        self._inside = None
        out, err = self._captures
        self._refused = self._refusals.count()
        ending = self._supervisor.run(
            Command(argv, env, cwd, out.fd, err.fd, holds=strict),
            timeout_s=timeout_s,
            interrupt=self._interrupt,
            check=self._check,
            grace_s=_grace,
            looks=_LOOKS_TO_SEND if self._answers else _LOOKS,
        )
        self._inside = (root, made) if made else None
        return ending

    def _check(self) -> str | None:
        out, err = self._captures
        err.hollow(self._limits.log)
        if out.size > self._limits.output:
            return "output"
        return "processes" if self._refusals.count() > self._refused else None

    def _store(self) -> Cas:
        """Where large contents go; opened when there are any."""
        if self._cas is None:
            from pathlib import Path

            from llmc_build.store.cas import Cas

            spill = self._config.get("spill")
            self._cas = Cas(Path(self._config["cas"]), spill=Path(spill) if spill else None)
        return self._cas

    def _home(self, scratch: str) -> Home:
        found = self._homes.get(scratch)
        if found is None:
            found = self._homes[scratch] = Home(scratch)
        return found

    def _environment(self, request: Mapping[str, Any], home: Home) -> Mapping[bytes, bytes]:
        """What the request says of the environment; most steps have that of the step before."""
        env, secrets = request.get("env"), request.get("secrets")
        known_env, known_secrets, known_home = self._surroundings
        if env is known_env and secrets is known_secrets and home is known_home:
            return self._base
        base = {b"TMPDIR": os.fsencode(home.tmp.path)}
        for given in (env or {}, secrets or {}):
            for name, value in given.items():
                if "\0" in name + value or "=" in name or not name:
                    raise _Refused(f"the environment can't hold {name!r}: a NUL byte, or no name")
                base[os.fsencode(name)] = os.fsencode(value)
        base[TOKEN_VARIABLE.encode()] = self._token.encode()
        self._surroundings, self._base = (env, secrets, home), base
        return base


# ---------------------------------------------------------------- parts of a request


def _grace(reason: str) -> float:
    return {"gone": _GONE_GRACE_S, "output": _OUTPUT_GRACE_S}.get(reason, GRACE_S)


def _argv(
    text: str, shell: str, env: Mapping[str, str] | None, folder: Callable[[], str]
) -> tuple[str | bytes, ...]:
    """The command line that runs a script."""
    executable = _find_shell(shell, env.get("PATH") if env else None)
    if "\0" in text:
        raise _Refused("the script holds a NUL byte")
    script = encoded(text)
    if len(script) <= _SCRIPT_IN_ARGUMENT:
        return executable, "-c", script, shell
    path = f"{folder()}/script"
    with open(path, "xb") as file:
        file.write(script)
    return executable, path


@functools.lru_cache(maxsize=64)
def _find_shell(shell: str, path: str | None) -> str:
    if shell == "sh" and os.access("/bin/sh", os.X_OK):
        return "/bin/sh"
    import shutil  # slow to import, and seldom needed

    found = shutil.which(shell, path=path or os.defpath)
    if found is None:
        raise _Refused(f'the shell "{shell}" was not found')
    return found


def _strictly(
    argv: tuple[str | bytes, ...], env: Mapping[bytes, bytes], home: Home
) -> tuple[tuple[str | bytes, ...], Mapping[bytes, bytes]]:
    from llmc_build.execute import strict

    try:
        argv = strict.wrapped(argv, work=home.work.path, tmp=home.tmp.path, values=home.values_there)
    except strict.NoStrictSandbox as why:
        raise _Refused(str(why)) from None
    return argv, strict.environment({**env})


def _open_captures(request: Mapping[str, Any], home: Home) -> tuple[Capture, Capture]:
    """The files for stdout and stderr: among the logs, or the home's own, which serve every step.

    What may hold secrets is in files without names until they were taken out.
    """
    logs = request.get("logs")
    if logs:
        log_files(logs, (("script", request["script"]), ("action.json", request.get("action") or "{}")))
    if request.get("secrets"):
        return Capture(f"{home.path}/out", hidden=True), Capture(f"{home.path}/err", hidden=True)
    return (Capture(f"{logs}/stdout"), Capture(f"{logs}/stderr")) if logs else home.captures()


def _close_captures(request: Mapping[str, Any], out: Capture, err: Capture, *, clean: bool) -> None:
    """`clean`: no secret is in them any more."""
    logs, secrets = request.get("logs"), request.get("secrets")
    if logs and secrets and clean:
        out.copy_to(f"{logs}/stdout")
        err.copy_to(f"{logs}/stderr")
    if logs or secrets:
        out.close()
        err.close()
    else:
        out.empty()
        err.empty()


def _done(task_id: int, status: str, reply: dict[str, Json], error: str | None, wall_s: float) -> Message:
    return {"op": "done", "id": task_id, "status": status, "reply": reply, "error": error, "wall_s": wall_s}


def _explain(failure: OSError) -> str:
    """Why a step couldn't be started, or what it wrote couldn't be kept."""
    if failure.errno == errno.E2BIG:
        return TOO_LONG
    if failure.errno == errno.ETXTBSY:
        return f"{failure.filename or 'the shell'} is being written by another process"
    where = f": {failure.filename}" if failure.filename else ""
    return f"the step could not be run: {failure.strerror or failure}{where}"
