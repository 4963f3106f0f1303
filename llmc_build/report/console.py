"""What a person sees of a build, on standard error.

On a terminal a region at the bottom shows what runs (`live`), and failures are printed above it as they
come.  Anywhere else, or with `CI` set, each target that ran or failed is a line; of a large build each
failure is, and now and then a line says how far it is.  Both end alike: warnings and notes, then every root
failure with the end of its standard error, then the last line.

Owns where and when things are printed; how they are worded is `words`.  Everything that came from a
file, a step or a model is made harmless before it is printed, and is never read as markup.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, TextIO

from llmc_build.frozen import frozen
from llmc_build.model import BuildReport, Json, Location, State, TargetId, TargetReport
from llmc_build.report import TargetEvent, words
from llmc_build.terminal import NO, is_terminal, wants_color

if TYPE_CHECKING:
    from llmc_build.report.live import Region
    from llmc_build.report.pace import Pace

_STYLES = {State.RAN: "green", State.FAILED: "red", State.CANCELLED: "yellow", State.SKIPPED: "dim"}
_PERIOD_S = 1.0  # between two lines that say how far a large build is


@frozen(kw_only=True)
class Look:
    """How to print, decided once."""

    color: bool = False
    live: bool = False  # a region at the bottom of a terminal
    github: bool = False  # annotations for GitHub Actions
    verbose: int = 0
    quiet: bool = False
    dry_run: bool = False  # what is reported as ran would run


def choose_look(
    stream: TextIO,
    environ: Mapping[str, str],
    *,
    color: str = "auto",
    verbose: int = 0,
    quiet: bool = False,
    dry_run: bool = False,
) -> Look:
    """Options first, then NO_COLOR, FORCE_COLOR, CI, GITHUB_ACTIONS and TERM, then what the stream is."""
    terminal = is_terminal(stream.isatty(), environ)
    ci = environ.get("CI", "").lower() not in NO
    github = environ.get("GITHUB_ACTIONS", "").lower() not in NO
    return Look(
        color=wants_color(environ, color, terminal=terminal),
        live=terminal and not ci and not github and not quiet and not dry_run,
        github=github,
        verbose=verbose,
        quiet=quiet,
        dry_run=dry_run,
    )


class Console:
    """The reporter of `llmc build`."""

    def __init__(self, stream: TextIO, look: Look, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._look = look
        self._clock = clock
        self._paint = words.ansi if look.color else words.plain
        self._region: Region | None = None
        self._gone = False  # nobody reads the stream any more
        self._total = 0
        self._ended = 0
        self._failed = 0
        self._summed: Counter[State] | None = None  # of a large build: how its targets ended
        self._pace: Pace | None = None  # of a large build that asks models
        self._due = 0  # how many have to have ended before it is said how far it is
        self._said_s = 0.0  # when that was said last
        self._noted: set[str] = set()
        self._places: dict[TargetId, Location] = {}  # of failed targets

    # ------------------------------------------------------------ while it runs

    def started(self, total: int, run_id: str, jobs: int) -> None:
        self._total = total
        if self._look.live:
            from llmc_build.report.live import Region

            self._region = Region(self._stream, total=total, color=self._look.color)
        elif total > words.SHOWN_LINES and not (self._look.verbose or self._look.quiet or self._look.dry_run):
            self._summed, self._said_s = Counter(), self._clock()

    def asks(self, prompts: Collection[TargetId]) -> None:
        if self._region is not None:
            self._region.asks(prompts)
        elif self._summed is not None:
            from llmc_build.report.pace import Pace

            self._pace = Pace(prompts, self._clock)

    def target(self, event: TargetEvent) -> None:
        state = event.state
        if self._pace is not None:
            self._pace.target(event)
        if self._region is not None:
            self._region.target(event)
        if not state.ended:
            return
        self._ended += 1
        if state is State.FAILED:
            self._failure_line(event)
        elif self._summed is None and self._worth_a_line(state):
            self._line(self._ending(event))
        if self._summed is not None:
            self._summed[state] += 1
            if self._ended >= self._due:
                self._say_how_far(self._summed)

    def progress(self, target: TargetId, stats: Mapping[str, Json]) -> None:
        for one in (self._region, self._pace):
            if one is not None:
                one.progress(target, stats)

    def note(self, text: str) -> None:
        if text in self._noted or self._look.quiet:
            return
        self._noted.add(text)
        if self._may_show(len(self._noted), "notes"):
            self._line(f"{self._paint('note:', 'blue')} {self._harmless(text)}")

    def close(self) -> None:
        """Gives the terminal back; the region may be gone already."""
        if self._region is not None:
            self._region.close()
            self._region = None

    def _worth_a_line(self, state: State) -> bool:
        look = self._look
        return not look.quiet and (look.verbose > 0 or (state is State.RAN and not look.live))

    def _failure_line(self, event: TargetEvent) -> None:
        self._failed += 1
        if event.location is not None:
            self._places[event.target] = event.location
        # in quiet, failures are told when it is over
        if not self._look.quiet and self._may_show(self._failed, "failures"):
            self._line(self._ending(event))

    def _may_show(self, count: int, what: str) -> bool:
        """Whether one more line of its kind is shown; after the last one it is said that more may come."""
        if count == words.SHOWN_LINES + 1 and not self._look.verbose:
            self._line(f"{self._paint('note:', 'blue')} more {what} are not shown as they come")
        return count <= words.SHOWN_LINES or self._look.verbose > 0

    def _say_how_far(self, ended: Mapping[State, int]) -> None:
        """After each half percent of the targets, but not too soon after the last time."""
        self._due = self._ended + max(1, self._total // words.SHOWN_LINES)
        now = self._clock()
        if now - self._said_s >= _PERIOD_S and self._ended < self._total:
            self._said_s = now
            text = words.progress(ended, self._total)
            self._line(f"{text}; {self._pace.text()}" if self._pace is not None else text)

    def _ending(self, event: TargetEvent) -> str:
        """`[3/12] ran demo.facts 0.12 s`, with what else is worth a word."""
        word = "would run" if self._look.dry_run and event.state is State.RAN else event.state.value
        word = self._paint(word, _STYLES.get(event.state, "dim"))
        width = len(str(self._total))
        text = f"[{self._ended:>{width}}/{self._total}] {word} {self._harmless(event.target)}"
        if event.wall_s and event.state in (State.RAN, State.FAILED):
            text += f" {event.wall_s:.2f} s"
        if event.state is State.RAN and event.stats:
            text += self._speed(event.stats)
        because = event.error or "" if event.state is State.FAILED else self._reason(event)
        return f"{text}: {self._harmless(because.split(chr(10), 1)[0])}" if because else text

    def _speed(self, stats: Mapping[str, Json]) -> str:
        """What a model step cost, behind a comma; empty where there is nothing to tell."""
        rate = stats.get("tokens_per_s")
        if not self._look.verbose:
            return f", {rate:.1f} tokens/s" if isinstance(rate, int | float) and rate else ""
        from llmc_build.report.pace import facts

        told = facts(stats)
        return f", {told}" if told else ""

    def _reason(self, event: TargetEvent) -> str:
        if self._look.dry_run:
            return event.reason.removeprefix("would run: ")
        return event.reason if self._look.verbose else ""

    # ------------------------------------------------------------ when it is over

    def finished(self, report: BuildReport) -> None:
        self.close()
        if self._look.verbose:
            self._unchanged(report)
        if not self._look.quiet:
            self._warnings(report)
            for note in report.notes:
                self.note(note)
        self._failures(report)
        if self._look.dry_run and not self._look.quiet:
            self._line("a dry run: nothing was run; what is counted as ran would run")
        usage = report.usage
        if usage.get("requests") and not self._look.quiet:
            self._line(words.usage(usage))
        self._line(self._paint(words.last_line(report), "green" if report.ok else "red"))

    def _unchanged(self, report: BuildReport) -> None:
        """The targets that nobody had to look at."""
        told = {target.target for target in report.news}
        for target in report.targets if report.looked_at is not None else ():
            if target.target not in told:
                word = self._paint(target.status.value, _STYLES.get(target.status, "dim"))
                self._line(f"{word} {self._harmless(target.target)}: {target.reason}")

    def _warnings(self, report: BuildReport) -> None:
        # A target served from the store warned when it ran.
        found = [
            (target.target, warning)
            for target in report.news
            if target.status is not State.CACHED
            for warning in target.warnings
        ]
        for name, warning in found[: words.SHOWN_WARNINGS]:
            self._line(f"{self._paint('warning:', 'yellow')} {self._harmless(f'{name}: {warning}')}")
        if len(found) > words.SHOWN_WARNINGS:
            self._line(f"{self._paint('warning:', 'yellow')} and {len(found) - words.SHOWN_WARNINGS} more")

    def _failures(self, report: BuildReport) -> None:
        failed = [target for target in report.news if target.status is State.FAILED]
        if not failed:
            return
        below = Counter(target.caused_by for target in report.news if target.caused_by)
        for target in failed[: words.SHOWN_FAILURES]:
            self._failure(target, report.run_id, below[target.target])
        if len(failed) > words.SHOWN_FAILURES:
            more = len(failed) - words.SHOWN_FAILURES
            self._line(
                f"{self._paint('error:', 'red')} and {more} more failed: .llmc/runs/{report.run_id}/run.json"
            )

    def _failure(self, target: TargetReport, run_id: str, poisoned: int) -> None:
        place = self._places.get(target.target)
        error = target.error or "failed"
        headline, _, rest = error.partition("\n")
        at = f"{place}: " if place else ""
        self._line(f"{self._paint('error:', 'red')} {self._harmless(f'{at}{target.target}: {headline}')}")
        if target.stderr_tail.strip():
            self._tail(target)
        if rest.strip():
            self._line(self._harmless(words.indent(rest, "" if rest.startswith(" ") else "    ")))
        if target.wall_s:  # it ran, so there is something to read
            self._line(f"    log: .llmc/runs/{run_id}/{target.target.replace('.', '/', 1)}/")
        if poisoned:
            self._line(f"    poisoned by it: {poisoned} {'target' if poisoned == 1 else 'targets'}")
        if self._look.github:
            self._line(
                words.github_error(
                    words.printable(f"{headline}\n{target.stderr_tail}".rstrip()),
                    file=place.file if place else None,
                    line=place.line if place else None,
                    title=words.printable(target.target),
                )
            )

    def _tail(self, target: TargetReport) -> None:
        """The end of what a step said."""
        tail = words.indent(words.printable(target.stderr_tail), "    | ")
        if not self._look.github:
            self._line(tail)
            return
        import secrets  # costs as much as the rest of this module

        # Whatever the step printed, the runner must not take it for its own commands.
        token = secrets.token_hex(16)
        self._line(f"::group::output of {words.printable(target.target)}\n::stop-commands::{token}")
        self._line(f"{tail}\n::{token}::\n::endgroup::")

    # ------------------------------------------------------------ printing

    def _harmless(self, text: str) -> str:
        text = words.printable(text)
        return words.github_inert(text) if self._look.github else text

    def _line(self, text: str) -> None:
        if self._gone:
            return
        try:
            if self._region is not None:
                self._region.print(text)
            else:
                self._stream.write(text + "\n")
        except OSError:  # the reader of a pipe left, a disk is full: the build goes on
            self._gone = True
