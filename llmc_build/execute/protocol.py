"""What crosses the border between the build and what runs its tasks, as types.

Owns `Task`, `Lane`, `Done`, `Progress` and the `Executor` interface.  What they are in messages is
`messages`, how those travel is `channel`; who runs tasks is `pool` or `inline`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Protocol

from llmc_build.execute.messages import content_data, pack_content
from llmc_build.frozen import frozen
from llmc_build.model import Digest, Json

__all__ = [
    "Done",
    "Executor",
    "Lane",
    "Progress",
    "Status",
    "Task",
    "content_data",
    "content_digest",
    "pack_content",
]


@frozen(kw_only=True)
class Lane:
    """A kind of worker.  Two lanes are the same lane where kind and name are equal."""

    kind: str  # "shell", "model" or "http"
    name: str = ""  # tells lanes of one kind apart: the digest of a model
    config: Mapping[str, Json] = field(default_factory=dict, compare=False)  # given to the runner


@frozen(kw_only=True)
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


@frozen(kw_only=True)
class Done:
    """The end of a task.  Every task submitted gets exactly one."""

    id: int
    status: Status
    reply: Mapping[str, Json] = field(default_factory=dict)
    error: str | None = None  # one line; None where status is OK
    wall_s: float = 0.0


@frozen(kw_only=True)
class Progress:
    """News of a task that still runs."""

    id: int
    stats: Mapping[str, Json]  # {"tokens": 17}


class Executor(Protocol):
    """Where tasks run.  Used by one thread."""

    on_begin: Callable[
        [int], object
    ]  # called in `submit` and `wait` with the id of a task that begins to run

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


def content_digest(content: Mapping[str, Json]) -> Digest:
    """What a content says its bytes are; raises ValueError where it isn't a content."""
    name, size = content.get("hash"), content.get("size")
    if not isinstance(name, str) or not isinstance(size, int):
        raise ValueError(f"not a content: {content!r}")
    return Digest(hash=name, size=size)
