"""How a task ended, as the build is told: by its worker, by force, or with its worker.

Owns the texts and the shape of `Done`.  Which of these it was, is `pool`'s decision.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from llmc_build.execute.process import Flight, WorkerProcess
from llmc_build.execute.protocol import Done, Status, Task

_STATUSES: Final = {status.value: status for status in Status}


def ended(worker: WorkerProcess, flight: Flight, message: Mapping[str, Any]) -> Done:
    """What a runner's answer means, given what it was told."""
    status, error = _STATUSES[message["status"]], message.get("error")
    if status is Status.CANCELLED and flight.ending is not None:
        status, error = flight.ending, flight.reason
    elif status is Status.CANCELLED:  # nobody here has asked for it: somebody has sent the worker SIGTERM
        status, error = Status.CRASHED, "the worker died: it was told to end"
    return Done(
        id=flight.task.id,
        status=status,
        reply={**worker.defaults, **(message.get("reply") or {})},
        error=error,
        wall_s=float(message["wall_s"]),
    )


def crashed(flight: Flight, error: str, tail: str) -> Done:
    return Done(
        id=flight.task.id,
        status=Status.CRASHED,
        reply={"stderr_tail": tail} if tail else {},
        error=error,
        wall_s=time.monotonic() - flight.sent,
    )


def forced(flight: Flight) -> Done:
    status = flight.ending or Status.TIMEOUT
    return Done(
        id=flight.task.id,
        status=status,
        error=flight.reason or timed_out(flight.task),
        wall_s=time.monotonic() - flight.sent,
    )


def timed_out(task: Task) -> str:
    return f"timed out after {task.timeout_s:g} s"
