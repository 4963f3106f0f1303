"""Which models are in memory at the same time.

Owns the decision whether a lane's worker may start now, and which idle workers have to go for it.  Starting
and ending them is `pool`.

A worker on a model takes memory for itself and shares the weights with other workers on the same file.  One
that does not fit beside the others waits until enough of them are idle, and then those that are idle longest
end first.  A worker with tasks is never ended, so what was begun goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmc_build.execute.lane import LaneState
from llmc_build.execute.process import WorkerProcess
from llmc_build.execute.protocol import Lane
from llmc_build.frozen import frozen
from llmc_build.llm.memory import size


@frozen(kw_only=True)
class Room:
    """What there is for workers of the kind "model"."""

    memory: int | None = None  # bytes; None: no limit
    workers: int | None = None  # at a time; None: no limit
    note: Callable[[str], object] = lambda text: None  # told which model goes for which


ENDLESS = Room()


def victims(room: Room, lane: Lane, states: Iterable[LaneState]) -> list[WorkerProcess] | None:
    """The workers that must end before one of the lane starts; None: it has to wait for busy ones."""
    if lane.kind != "model":
        return []
    loaded = [w for state in states if state.lane.kind == "model" for w in state.workers]
    idle = sorted((w for w in loaded if not w.flights), key=lambda w: w.idle_since)
    for count in range(len(idle) + 1):
        staying = [w for w in loaded if w not in idle[:count]]
        if not staying or _fit(room, [lane, *(w.lane for w in staying)]):
            return idle[:count]
    return None


def announce(room: Room, gone: Iterable[WorkerProcess], lane: Lane) -> None:
    """Tells of a swap."""
    for worker in gone:
        room.note(
            f"model {_called(worker.lane)} is unloaded to make room for model {_called(lane)}: "
            + (
                "one model at a time"
                if room.memory is None or room.workers is not None
                else f"models may take {size(room.memory)} of memory together"
            )
        )


def _fit(room: Room, lanes: list[Lane]) -> bool:
    if room.workers is not None and len(lanes) > room.workers:
        return False
    if room.memory is None:
        return True
    weights = {str(lane.config.get("path")): _bytes(lane, "weights") for lane in lanes}
    return sum(weights.values()) + sum(_bytes(lane, "memory") for lane in lanes) <= room.memory


def _bytes(lane: Lane, name: str) -> int:
    found = lane.config.get(name)
    return found if isinstance(found, int) else 0


def _called(lane: Lane) -> str:
    total = _bytes(lane, "weights") + _bytes(lane, "memory")
    return f"{lane.config.get('label') or lane.name} ({size(total)})"
