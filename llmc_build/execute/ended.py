"""A script that has ended: what it came to, and what of it the build gets.

Owns the verdict on a step and its reply.  How scripts run is `shellrun`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llmc_build.execute.cage import MAX_PROCESSES
from llmc_build.execute.capture import Capture, pack_small
from llmc_build.execute.messages import signal_name
from llmc_build.execute.sandbox import OutputError, Stamp, find_output, undeclared
from llmc_build.execute.supervise import Ending

if TYPE_CHECKING:
    from llmc_build.execute.capture import Store
    from llmc_build.execute.redact import Redactor
    from llmc_build.model import Json

TOO_LONG: Final = "an argument or the environment is over the system's limit: use `{{ name | path }}`"
_UNDECLARED_SHOWN: Final = 20
_EMPTY: Final = pack_small(b"")
# What replies of this lane hold where they don't say otherwise.
DEFAULTS: Final[Mapping[str, Json]] = {
    "exit_code": 0,
    "signal": None,
    "stderr_tail": "",
    "warnings": [],
    "undeclared": [],
    "missing_outputs": [],
    "outputs": [],
    "stderr": _EMPTY,
}


class Limits(NamedTuple):
    """What a step may take."""

    output: int = 1 << 30  # bytes of stdout, its value
    log: int = 16 << 20  # bytes that stay of stderr, and of the stdout of a step that failed
    processes: int = MAX_PROCESSES  # at a time, threads counted


def brief(out: Capture, err: Capture, limit: int) -> dict[str, Json] | None:
    """The value of a step of which there is nothing more to say, as of most; else None."""
    data = out.small()
    if data is None or len(data) > limit or err.small() != b"":
        return None
    return pack_small(data)


class EndedStep:
    """What a script came to; `reply` is for the build."""

    def __init__(
        self,
        request: Mapping[str, Any],
        root: str,
        sandboxed: bool,
        ending: Ending,
        out: Capture,
        err: Capture,
        store: Store,
        limits: Limits,
    ) -> None:
        self._request = request
        self._root = root
        self._sandboxed = sandboxed
        self._limits = limits
        if ending.stopped is None and out.size > limits.output:
            ending = ending._replace(stopped="output")
        self._ending = ending
        self._out, self._err = out, err
        self._store = store
        self.reply: dict[str, Json] = {}  # only what differs from DEFAULTS
        if ending.exit_code != 0:
            self.reply.update(exit_code=ending.exit_code, signal=ending.signal)
        self._secrets = _redactor(request.get("secrets") or {})
        # Before all of it is looked through: a file can be made large in no time.
        err.cut(limits.log, self._secrets)
        if ending.stopped == "output":
            out.cut(limits.log, self._secrets)
        self._warn()
        self._stdout, self._stderr = out.small(), err.small()
        if self._stderr != b"":
            self.reply["stderr_tail"] = err.tail()

    def _warn(self) -> None:
        """Takes secrets out of what was written, and says what was odd."""
        warnings: list[Json] = []
        if self._ending.left:
            warnings.append(
                f"left {_count(self._ending.left, 'process', 'processes')} running, which had to be ended: "
                "`wait` for them"
            )
        if self._ending.survivors:
            pids = ", ".join(map(str, self._ending.survivors))
            warnings.append(f"could not end all of its processes: {pids}")
        if self._secrets is not None:
            for name, capture in (("output", self._out), ("standard error", self._err)):
                if self._secrets.redact_file(capture.fd):
                    warnings.append(f"its {name} held a secret, which was replaced by ***")
        if warnings:
            self.reply["warnings"] = warnings

    def ran_out_of_processes(self) -> None:
        """It failed, and was refused a process: whatever its exit code is, that is why."""
        self._ending = self._ending._replace(stopped="processes")

    def verdict(self, timeout_s: float | None, reason: str | None) -> tuple[str, str | None]:
        ending = self._ending
        failed = ending.stopped in ("timeout", "processes") or ending.signal is not None or ending.exit_code
        if failed and not str(self.reply.get("stderr_tail", "")).strip():
            self.reply["stderr_tail"] = self._out.tail()  # many programs say there what is wrong
        if ending.stopped == "timeout":
            return "timeout", f"timed out after {timeout_s:g} s"
        if ending.stopped in ("cancel", "gone"):
            return "cancelled", reason or "the build is gone"
        if ending.stopped == "output":
            hint = "write a file and declare it in `outputs`, or raise `output` under `limits` in llmc.yaml"
            return "failed", f"its output is over the limit of {size_of(self._limits.output)}\nhint: {hint}"
        if ending.stopped == "processes":
            hint = "`wait` for what it starts, or raise `processes` under `limits` in llmc.yaml"
            return "failed", f"it has more than {self._limits.processes} processes at a time\nhint: {hint}"
        if ending.signal is not None:
            return "failed", f"killed by {signal_name(ending.signal)}"
        if ending.exit_code:
            too_long = os.strerror(errno.E2BIG) in str(self.reply.get("stderr_tail"))
            return "failed", f"exit code {ending.exit_code}" + (f": {TOO_LONG}" if too_long else "")
        return "ok", None

    def look_for_undeclared(self, given: dict[str, Stamp]) -> None:
        found = undeclared(self._root, given, self._request.get("outputs") or [], _UNDECLARED_SHOWN)
        if found:
            clean = self._secrets.redact_text if self._secrets is not None else str
            self.reply["undeclared"] = [clean(path) for path in found]

    def collect(self) -> tuple[str, str | None]:
        """Puts value and outputs into the store."""
        wanted = self._request.get("outputs")
        try:
            if wanted:
                missing = self._collect_outputs(wanted)
                if missing:
                    names = ", ".join(f'"{path}"' for path in missing)
                    what, verb = ("output", "was") if len(missing) == 1 else ("outputs", "were")
                    return "failed", f"declared {what} {names} {verb} not written"
            self.reply["value"] = self._content(self._out, self._stdout)
            if self._stderr != b"":
                self.reply["stderr"] = self._content(self._err, self._stderr)
        except OutputError as error:
            return "failed", str(error)
        except OSError as error:
            return "failed", f"its result could not be stored: {error.strerror or error}"
        return "ok", None

    def _content(self, capture: Capture, data: bytes | None) -> dict[str, Json]:
        return capture.content(self._store) if data is None else pack_small(data)

    def _collect_outputs(self, wanted: list[str]) -> list[str]:
        """Puts declared outputs into the store; those that are missing."""
        found = {path: find_output(self._root, path) for path in wanted}
        missing = [path for path, place in found.items() if place is None]
        if missing:
            self.reply["missing_outputs"] = list(missing)
            return missing
        places = {path: place for path, place in found.items() if place is not None}
        self.reply["outputs"] = self._outputs(places)
        return []

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
            return capture.content(self._store, consume=consume)


def _redactor(secrets: Mapping[str, str]) -> Redactor | None:
    """What takes them out; None where there is nothing to look for."""
    if not secrets:
        return None
    from llmc_build.execute.redact import Redactor  # slow to import, and seldom needed

    return Redactor(secrets.values()) or None


def size_of(number: int) -> str:
    """`1 GiB`; what is no whole number of a unit, in bytes."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 1 << power and number % (1 << power) == 0:
            return f"{number >> power} {unit}"
    return f"{number} bytes"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
