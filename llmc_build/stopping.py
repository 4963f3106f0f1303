"""Signals that end a build.  World.

Owns which signals count, and what the first, the second and the third of them do while a build runs and
while its report is printed.  What ending means to what runs is `loop`'s and the pool's.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from llmc_build.errors import Interrupted, exit_code_of_signal


@dataclass(slots=True)
class Stop:
    """Whether and how the user asked for the end."""

    signals: list[int] = field(default_factory=list)
    building: bool = False  # there is something to record now: the second signal is the loop's business

    @property
    def exit_code(self) -> int | None:
        return exit_code_of_signal(self.signals[0]) if self.signals else None


@contextmanager
def signals() -> Iterator[Stop]:
    """INT, TERM and HUP end the build in order the first time, at once the second, anywhere the third.

    "At once" waits for no step, and still records the run: a signal may come between any two statements, so
    only the loop itself, between two turns, ends the build then.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def hear(number: int, frame: FrameType | None) -> None:
        stop.signals.append(number)
        if len(stop.signals) >= (3 if stop.building else 2):
            raise Interrupted(exit_code_of_signal(stop.signals[0]))

    with _heard_by(hear):
        yield stop


@contextmanager
def report_whole() -> Iterator[None]:
    """What a program reads comes whole: the first signal is not heard, but the second, should nobody read."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) > 1:
            raise Interrupted(exit_code_of_signal(heard[0]))

    with _heard_by(hear):
        yield


@contextmanager
def _heard_by(hear: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else it was started by nohup
        numbers.append(signal.SIGHUP)
    old = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
