"""What crosses the border between the build and what runs its tasks: types and message shapes.

Owns `Task`, `Lane`, `Done`, `Progress`, the `Executor` interface and the encoding of contents in
messages.  How messages travel is `channel`; who runs them is `pool` or `inline`; what a request or a
reply says is the business of the lane's runner.

Messages are JSON objects.  To a runner:

    {"op": "run", "id": int, "request": {...}, "timeout_s": float | null, "rest": bool}
    {"op": "cancel", "id": int, "reason": str}

From a runner:

    {"op": "ready", "capacity": int, "defaults": {...}}     once, before anything else
    {"op": "progress", "id": int, "stats": {...}}           as often as useful
    {"op": "back", "ids": [int]}                            not begun yet: for another worker
    {"op": "done", "id": int, "status": "ok" | "failed" | "timeout" | "cancelled",
     "reply": {...}, "error": str | null, "wall_s": float}  exactly once for each "run" that wasn't given back

Requests to one worker are much alike, so a shell worker gets of each only what differs from the one
before (`shortened`): with "rest", the fields that are not in "request" are as in the last "run".  A reply's
fields are as in "defaults" where it doesn't say otherwise; "defaults", "rest" and "timeout_s" may be left
out.

A *content* in a message is {"hash": hex, "size": n, "data": base64} up to `INLINE_BYTES`, and
{"hash", "size"} above: then its bytes are already durable in the store.
"""

from __future__ import annotations

import binascii
import enum
import hashlib
import signal
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmc_build.model import Digest, Json

INLINE_BYTES = 4096  # contents up to this size travel inside messages
BEGUN = struct.Struct("q")  # in the page that llmc and a worker share: the task that was begun last, or -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A kind of worker.  Two lanes are the same lane where kind and name are equal."""

    kind: str  # "shell", "model" or "http"
    name: str = ""  # tells lanes of one kind apart: the digest of a model
    config: Mapping[str, Json] = field(default_factory=dict, compare=False)  # given to the runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request to a lane."""

    id: int  # unique among the tasks of an executor
    lane: Lane
    request: Mapping[str, Json]
    timeout_s: float | None = None  # from when a worker starts on it


class Status(enum.Enum):
    """How a task ended."""

    OK = "ok"
    FAILED = "failed"  # the runner says so: a bad exit code, a server's refusal
    TIMEOUT = "timeout"  # its `timeout_s` ran out; nothing of it runs any more
    CANCELLED = "cancelled"  # the build asked for its end; nothing of it runs any more
    CRASHED = "crashed"  # the worker's process died


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The end of a task.  Every task submitted gets exactly one."""

    id: int
    status: Status
    reply: Mapping[str, Json] = field(default_factory=dict)
    error: str | None = None  # one line; None where status is OK
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """News of a task that still runs."""

    id: int
    stats: Mapping[str, Json]  # {"tokens": 17}


class Executor(Protocol):
    """Where tasks run.  Used by one thread."""

    @property
    def busy(self) -> int:
        """Tasks submitted whose `Done` was not yet returned by `wait`."""

    def submit(self, task: Task) -> None:
        """Starts a task, or queues it behind those of its lane."""

    def room(self, lane: Lane) -> int:
        """How many more tasks are wanted now, so that no worker of the lane has to wait for one.

        It is more than run at a time where they are so short that workers are fed ahead.
        """

    def wait(self, timeout_s: float | None) -> list[Done | Progress]:
        """News since the last call; blocks up to `timeout_s` (None: no limit) while there is none.

        Returns an empty list when the time is over, when a signal arrived, or when nothing is busy.
        """

    def cancel(self, task_id: int, reason: str) -> None:
        """Asks for the end of a task; its `Done` still comes."""

    def close(self, *, kill: bool = False) -> None:
        """Ends every worker and all that they started; with `kill`, at once."""


def shortened(request: Mapping[str, Json], last: Mapping[str, Json]) -> tuple[Mapping[str, Json], bool]:
    """("request", "rest") of a message: the fields that differ from the last request, or all of them."""
    if not last or not last.keys() <= request.keys():
        return request, False
    return {name: value for name, value in request.items() if name not in last or last[name] != value}, True


def restored(message: Mapping[str, Any], last: Mapping[str, Any]) -> Mapping[str, Any]:
    """The whole request of a message; equal fields of two requests are the same objects."""
    request: Mapping[str, Any] = message["request"]
    return {**last, **request} if message.get("rest") else request


def pack_content(data: bytes, put: Callable[[bytes], object]) -> dict[str, Json]:
    """A content for a message; `put` must make large bytes durable in the store."""
    if len(data) > INLINE_BYTES:
        put(data)
        return {"hash": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return {
        "hash": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "data": binascii.b2a_base64(data, newline=False).decode("ascii"),
    }


def content_digest(content: Mapping[str, Json]) -> Digest:
    """What a content says its bytes are; raises ValueError where it isn't a content."""
    name, size = content.get("hash"), content.get("size")
    if not isinstance(name, str) or not isinstance(size, int):
        raise ValueError(f"not a content: {content!r}")
    return Digest(hash=name, size=size)


def content_data(content: Mapping[str, Json]) -> bytes | None:
    """The bytes that a content carries, verified, or None where they are in the store."""
    data = content.get("data")
    if not isinstance(data, str):
        return None
    found = binascii.a2b_base64(data)
    if "hash" in content and hashlib.sha256(found).hexdigest() != content["hash"]:
        raise ValueError(f"a content does not match its digest {content['hash']!r}")
    return found


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
