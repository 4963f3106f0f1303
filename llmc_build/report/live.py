"""The region at the bottom of a terminal that shows what runs.

Theory of operation.  The build's thread tells the region of targets and tokens, which costs it a
dictionary entry.  A thread of the region's own draws: it first waits a moment, so that a build that
is over at once shows nothing, and then draws eight times a second until it is closed.  A picture is one
write: it goes up over the last one, clears it, and puts whole lines in its place, each cut to the width of
the terminal.  The cursor is never hidden, so a build that is killed leaves a usable terminal.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TextIO

from llmc_build.model import Json, State, TargetId
from llmc_build.report import TargetEvent, words
from llmc_build.report.pace import Pace

_DELAY_S = 0.2  # a build shorter than this draws nothing
_PERIOD_S = 0.125
_SHOWN = 8  # running targets; the others are counted
_BESIDE = 25  # columns for what stands beside a name


@dataclass(slots=True)
class _Running:
    since_s: float  # monotonic
    tokens: int = 0
    first_token_s: float = 0.0  # monotonic; 0: none yet


class Region:
    """Draws until it is closed; whoever makes one closes it."""

    def __init__(self, stream: TextIO, *, total: int, color: bool) -> None:
        self._stream = stream
        self._paint = words.ansi if color else words.plain
        self._total = total
        self._running: dict[TargetId, _Running] = {}
        self._ended: dict[State, int] = {}
        self._pace: Pace | None = None  # where models are asked
        self._drawn: list[str] = []  # the lines of the picture on the screen
        self._lock = threading.Lock()  # guards the stream and `_drawn`, not what is counted
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._draw_until_stopped, name="llmc-progress", daemon=True)
        with contextlib.suppress(RuntimeError):  # there can be no more threads: nothing is drawn
            self._thread.start()

    def asks(self, prompts: Collection[TargetId]) -> None:
        self._pace = Pace(prompts)

    def target(self, event: TargetEvent) -> None:
        if self._pace is not None:
            self._pace.target(event)
        if event.state is State.RUNNING:
            self._running[event.target] = _Running(time.monotonic())
        else:
            self._running.pop(event.target, None)
            self._ended[event.state] = self._ended.get(event.state, 0) + 1

    def progress(self, target: TargetId, stats: Mapping[str, Json]) -> None:
        if self._pace is not None:
            self._pace.progress(target, stats)
        running = self._running.get(target)
        tokens = stats.get("tokens")
        if running is not None and isinstance(tokens, int):
            running.tokens = tokens
            running.first_token_s = running.first_token_s or time.monotonic()

    def print(self, text: str) -> None:
        """Prints above the region; `text` is harmless and may be coloured."""
        with self._lock:
            self._show(text, self._drawn)

    def close(self) -> None:
        """Takes the region off the screen."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    # ------------------------------------------------------------ the drawing thread

    def _draw_until_stopped(self) -> None:
        try:
            if self._stop.wait(_DELAY_S):
                return
            while not self._stop.wait(_PERIOD_S):
                with self._lock:
                    self._show("", self._picture(_columns(self._stream)))
            with self._lock:
                self._show("", [])
        except OSError:
            return  # the terminal is gone; the build's thread finds that out by itself

    def _show(self, text: str, picture: list[str]) -> None:
        """`text` in place of the last picture, and the new one below it."""
        erase = f"\x1b[{len(self._drawn)}F\x1b[J" if self._drawn else ""
        shown = "".join(f"{line}\n" for line in ([text] if text else []) + picture)
        self._drawn = picture
        if erase or shown:
            self._stream.write(erase + shown)
            self._stream.flush()

    def _picture(self, columns: int) -> list[str]:
        now = time.monotonic()
        running = sorted(self._running.copy().items(), key=lambda item: item[1].since_s)
        rows = [
            (words.one_line(target), words.short_time(now - one.since_s), _rate(one, now))
            for target, one in running[:_SHOWN]
        ]
        name_width = max((words.cells(name) for name, _, _ in rows), default=0)
        name_width = max(8, min(name_width, columns - _BESIDE))
        lines = []
        for name, spent, rate in rows:
            name = words.cut(name, name_width)
            pad = " " * (name_width - words.cells(name))
            beside = f"{spent:>6} {f'{rate:.0f} tokens/s' if rate else ''}".rstrip()
            beside = beside[: max(0, columns - name_width - 4)]
            lines.append(f"  {name}{pad} {self._paint(beside, 'dim')}")
        if len(running) > _SHOWN:
            lines.append(f"  and {len(running) - _SHOWN} more")
        counts = words.progress(self._ended.copy(), self._total)
        if self._pace is not None:
            counts = f"{counts}; {self._pace.text()}"
        return [*lines, self._paint(words.cut(counts, columns - 1), "bold")]


def _rate(one: _Running, now: float) -> float:
    """Tokens a second since the first one came; 0.0 where there is nothing to divide yet."""
    lasted_s = now - one.first_token_s
    return one.tokens / lasted_s if one.first_token_s and lasted_s > 0.2 else 0.0


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
