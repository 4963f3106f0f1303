"""The region at the bottom of a terminal that shows what runs.

Theory of operation.  The build's thread tells the region of targets and tokens, which costs it a
dictionary entry.  A thread of the region's own draws: it first waits a moment, so that a build that
is over at once shows nothing and never imports rich, and then draws at most ten times a second until it is
closed.  The cursor is never hidden, so a build that is killed leaves a usable terminal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from llmc_build.model import Json, State, TargetId
from llmc_build.report import TargetEvent, words

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_DELAY_S = 0.2  # a build shorter than this draws nothing
_PERIOD_S = 0.125
_SHOWN = 8  # running targets; the others are counted


@dataclass(slots=True)
class _Running:
    since_s: float  # monotonic
    tokens: int = 0
    first_token_s: float = 0.0  # monotonic; 0: none yet


class Region:
    """Draws until it is closed; whoever makes one closes it."""

    def __init__(self, stream: TextIO, *, total: int, color: bool) -> None:
        self._stream = stream
        self._color = color
        self._total = total
        self._running: dict[TargetId, _Running] = {}
        self._ended: dict[State, int] = {}
        self._live: Live | None = None
        self._lock = threading.Lock()  # guards the stream and `_live`, not what is counted
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._draw_until_stopped, name="llmc-progress", daemon=True)
        self._thread.start()

    def target(self, event: TargetEvent) -> None:
        if event.state is State.RUNNING:
            self._running[event.target] = _Running(time.monotonic())
        else:
            self._running.pop(event.target, None)
            self._ended[event.state] = self._ended.get(event.state, 0) + 1

    def progress(self, target: TargetId, stats: Mapping[str, Json]) -> None:
        running = self._running.get(target)
        tokens = stats.get("tokens")
        if running is not None and isinstance(tokens, int):
            running.tokens = tokens
            running.first_token_s = running.first_token_s or time.monotonic()

    def print(self, text: str) -> None:
        """Prints above the region; `text` is harmless and may be coloured."""
        with self._lock:
            if self._live is None:
                self._stream.write(text + "\n")
            else:
                from rich.text import Text

                self._live.console.print(Text.from_ansi(text), soft_wrap=True)

    def close(self) -> None:
        """Takes the region off the screen."""
        self._stop.set()
        self._thread.join()

    # ------------------------------------------------------------ the drawing thread

    def _draw_until_stopped(self) -> None:
        if self._stop.wait(_DELAY_S):
            return
        live = self._open()
        try:
            while not self._stop.wait(_PERIOD_S):
                with self._lock:
                    live.update(self._picture(), refresh=True)
        finally:
            with self._lock:
                self._live = None
                live.stop()

    def _open(self) -> Live:
        from rich.live import Live

        console = _console(self._stream, color=self._color)
        live = Live(
            self._picture(),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with self._lock:
            live.start()
            self._live = live
        return live

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        running = sorted(self._running.items(), key=lambda item: item[1].since_s)
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True, justify="right", style="dim")
        table.add_column(no_wrap=True, justify="right", style="dim")
        for target, one in running[:_SHOWN]:
            rate = _rate(one, now)
            spent = words.short_time(now - one.since_s)
            name = Text(f"  {words.printable(target)}")
            table.add_row(name, spent, f"{rate:.0f} tokens/s" if rate else "")
        if len(running) > _SHOWN:
            table.add_row(f"  and {len(running) - _SHOWN} more", "", "")
        total = Text(self._counts(sum(_rate(one, now) for _, one in running)), style="bold")
        return Group(table, total) if running else total

    def _counts(self, rate: float) -> str:
        ended = dict(self._ended)
        listed = [f"{ended[state]} {state.value}" for state in State if state in ended]
        if rate:
            listed.append(f"{rate:.0f} tokens/s")
        return f"[{sum(ended.values())}/{self._total}] {', '.join(listed)}".rstrip()


def _rate(one: _Running, now: float) -> float:
    """Tokens a second since the first one came; 0.0 where there is nothing to divide yet."""
    lasted_s = now - one.first_token_s
    return one.tokens / lasted_s if one.first_token_s and lasted_s > 0.2 else 0.0


def _console(stream: TextIO, *, color: bool) -> Console:
    from rich.console import Console

    class Steady(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False  # never hidden: see the theory of operation

    return Steady(
        file=stream, force_terminal=True, no_color=not color, highlight=False, markup=False, emoji=False
    )
