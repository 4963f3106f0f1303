"""What a person sees of a build: wording, colour, harmlessness, and the region on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import pytest

from llmc_build.errors import UsageError
from llmc_build.model import BuildReport, Digest, Location, State, TargetReport
from llmc_build.report import Reporter, Silent, TargetEvent, Tee, words
from llmc_build.report.console import Console, Look, choose_look
from llmc_build.report.events import Events, report_text

DIGEST = Digest(hash="ab" * 32, size=3)


def target(name: str, status: State, **more: object) -> TargetReport:
    if status is State.FAILED:
        more.setdefault("wall_s", 0.25)  # it ran
    return TargetReport(target=name, status=status, reason="because", **more)  # type: ignore[arg-type]


def report(
    *targets: TargetReport, exit_code: int = 0, wall_s: float = 1.234, restored: int = 0
) -> BuildReport:
    return BuildReport(
        run_id="20260101-000000-abcd", exit_code=exit_code, wall_s=wall_s, targets=targets, restored=restored
    )


def many(**counts: int) -> tuple[TargetReport, ...]:
    return tuple(
        target(f"w.{state}{number}", State(state))
        for state, count in counts.items()
        for number in range(count)
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# ---------------------------------------------------------------- the last line


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (
            report(*many(ran=3, cached=7, failed=1, poisoned=1), exit_code=1),
            "12 targets: 3 ran, 7 cached, 1 failed, 1 poisoned, 0 skipped in 1.23 s",
        ),
        (report(*many(cached=12), wall_s=0.051), "up to date: 12 targets (0.05 s)"),
        (report(*many(cached=3, skipped=1), wall_s=0.0), "up to date: 4 targets (0.00 s)"),
        (
            report(*many(cached=2), restored=2),
            "2 targets: 0 ran, 2 cached, 0 failed, 0 poisoned, 0 skipped in 1.23 s",
        ),
        (
            report(*many(ran=1, cancelled=4), exit_code=130),
            "5 targets: 1 ran, 0 cached, 0 failed, 0 poisoned, 0 skipped, 4 cancelled in 1.23 s",
        ),
        (report(), "up to date: 0 targets (1.23 s)"),
    ],
)
def test_the_last_line_has_the_words_that_scripts_read(made: BuildReport, line: str) -> None:
    assert words.last_line(made) == line


# ---------------------------------------------------------------- data is never code


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb", "a\\x0db"),
        ("a\r\nb", "a\nb"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        (b"\xff".decode("utf-8", "surrogateescape"), "\\xff"),
        ("häßlich 漢字 🙂", "häßlich 漢字 🙂"),
    ],
)
def test_a_terminal_gets_nothing_that_it_would_act_on(raw: str, shown: str) -> None:
    assert words.printable(raw) == shown


def test_no_control_character_survives_whatever_the_text() -> None:
    """Every code point below U+3000 at once: only newline and tab may come through."""
    text = words.printable("".join(map(chr, range(0x3000))))
    assert not [c for c in text if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0]


def test_names_and_errors_are_not_read_as_markup_or_escapes() -> None:
    stream = io.StringIO()
    console = Console(stream, Look())
    console.started(1, "run", 1)
    console.target(TargetEvent(target="[red]w.a[/red]", state=State.FAILED, error="\x1b[2J[bold]x[/bold]"))
    assert stream.getvalue() == "[1/1] failed [red]w.a[/red]: \\x1b[2J[bold]x[/bold]\n"


def test_a_step_cannot_give_commands_to_the_github_runner() -> None:
    """`::` at the start of a line and `##[` anywhere are commands to it."""
    stream = io.StringIO()
    console = Console(stream, Look(github=True))
    place = Location(file="a,b.yaml", line=12, column=5)
    console.started(1, "run", 1)
    console.target(TargetEvent(target="w.a", state=State.FAILED, error="::add-mask::x", location=place))
    failed = target("w.a", State.FAILED, error="::add-path::/evil ##[x]", stderr_tail="::add-path::/evil\n")
    console.finished(report(failed, exit_code=1))
    lines = stream.getvalue().splitlines()
    stop = next(line for line in lines if line.startswith("::stop-commands::"))
    token = stop.removeprefix("::stop-commands::")
    fenced = lines[lines.index(stop) + 1 : lines.index(f"::{token}::")]
    assert fenced == ["    | ::add-path::/evil"]
    outside = [line for line in lines if line not in fenced]
    commands = {line.split("::")[1].split(" ")[0] for line in outside if line.lstrip().startswith("::")}
    assert commands == {"group", "stop-commands", token, "endgroup", "error"}
    assert not any("##[" in line for line in outside if not line.startswith("::error "))
    assert "::error file=a%2Cb.yaml,line=12,title=w.a::" in stream.getvalue()


# ---------------------------------------------------------------- how to look


@pytest.mark.parametrize(
    ("environ", "option", "color", "live"),
    [
        ({"TERM": "xterm"}, "auto", True, True),
        ({"TERM": "dumb"}, "auto", False, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "auto", False, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "always", True, True),
        ({"TERM": "xterm", "CI": "true"}, "auto", True, False),
        ({"TERM": "xterm", "CI": "false"}, "auto", True, True),
        ({"TERM": "xterm"}, "never", False, True),
    ],
)
def test_a_terminal_is_used_as_the_environment_allows(
    environ: dict[str, str], option: str, color: bool, live: bool
) -> None:
    look = choose_look(Terminal(), environ, color=option)
    assert (look.color, look.live) == (color, live)


def test_a_pipe_gets_plain_text_unless_colour_is_forced() -> None:
    assert choose_look(io.StringIO(), {"TERM": "xterm"}) == Look()
    assert choose_look(io.StringIO(), {"FORCE_COLOR": "1"}) == Look(color=True)
    assert choose_look(io.StringIO(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}) == Look()


# ---------------------------------------------------------------- plain lines


def play(console: Console) -> None:
    """One build with one of everything."""
    console.started(4, "run", 2)
    console.target(TargetEvent(target="w.a", state=State.RUNNING))
    console.target(TargetEvent(target="w.a", state=State.RAN, reason="never built", wall_s=0.5))
    console.target(TargetEvent(target="w.b", state=State.CACHED, reason="found in the store"))
    place = Location(file="flow.yaml", line=9, column=5)
    console.target(
        TargetEvent(target="w.c", state=State.FAILED, error="exit status 3\n    hint: look", location=place)
    )
    console.target(TargetEvent(target="w.d", state=State.POISONED, caused_by="w.c"))
    console.finished(
        report(
            target("w.a", State.RAN, warnings=("wrote x and did not declare it",)),
            target("w.b", State.CACHED, warnings=("said when it ran",)),
            target("w.c", State.FAILED, error="exit status 3\n    hint: look", stderr_tail="cat: no\n"),
            target("w.d", State.POISONED, caused_by="w.c"),
            exit_code=1,
        )
    )


def test_a_pipe_gets_a_line_for_what_ran_or_failed_and_the_failure_last() -> None:
    stream = io.StringIO()
    play(Console(stream, Look()))
    assert stream.getvalue() == (
        "[1/4] ran w.a 0.50 s\n"
        "[3/4] failed w.c: exit status 3\n"
        "warning: w.a: wrote x and did not declare it\n"
        "error: flow.yaml:9:5: w.c: exit status 3\n"
        "    | cat: no\n"
        "    hint: look\n"
        "    log: .llmc/runs/20260101-000000-abcd/w/c/\n"
        "    poisoned by it: 1 target\n"
        "4 targets: 1 ran, 1 cached, 1 failed, 1 poisoned, 0 skipped in 1.23 s\n"
    )


def test_quiet_prints_failures_and_the_last_line_only() -> None:
    stream = io.StringIO()
    console = Console(stream, Look(quiet=True))
    console.note("a remark")
    play(console)
    assert stream.getvalue().startswith("error: flow.yaml:9:5: w.c: exit status 3\n")
    assert stream.getvalue().count("\n") == 6
    assert "warning" not in stream.getvalue()
    assert "remark" not in stream.getvalue()


def test_verbose_gives_every_target_with_its_reason() -> None:
    stream = io.StringIO()
    play(Console(stream, Look(verbose=1)))
    assert "[1/4] ran w.a 0.50 s: never built\n" in stream.getvalue()
    assert "[2/4] cached w.b: found in the store\n" in stream.getvalue()


def test_many_failures_are_cut_with_the_place_of_the_rest() -> None:
    stream = io.StringIO()
    Console(stream, Look()).finished(report(*many(failed=50), exit_code=1))
    assert stream.getvalue().count("log: ") == words.SHOWN_FAILURES
    assert "error: and 30 more failed: .llmc/runs/20260101-000000-abcd/run.json\n" in stream.getvalue()


def test_a_reader_that_leaves_does_not_stop_the_build() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    play(Console(Gone(), Look()))


# ---------------------------------------------------------------- large builds


class Clock:
    """Each look at it finds so many seconds gone."""

    def __init__(self, step_s: float) -> None:
        self.now_s, self.step_s, self.looks = 0.0, step_s, 0

    def __call__(self) -> float:
        self.looks += 1
        self.now_s += self.step_s
        return self.now_s


def log_of(total: int, look: Look, *, step_s: float = 5.0, **states: int) -> tuple[list[str], Clock]:
    """What a build writes into a log before it is over."""
    stream, clock = io.StringIO(), Clock(step_s)
    console = Console(stream, look, clock=clock)
    console.started(total, "run", 2)
    for state, count in states.items():
        for number in range(count):
            console.target(TargetEvent(target=f"w.{state}{number}", state=State(state), error="no"))
    return stream.getvalue().splitlines(), clock


@pytest.mark.parametrize("total", [201, 1000, 10_000, 100_000])
def test_a_log_gets_no_more_than_two_hundred_lines_of_progress(total: int) -> None:
    lines, clock = log_of(total, Look(), ran=total // 2, cached=total - total // 2)
    assert 150 <= len(lines) <= 201
    assert clock.looks <= 202, "nor is the clock looked at for each target"
    half = next(line for line in lines if "cached" in line)
    assert re.fullmatch(rf"\[ *\d+/{total}\] {total // 2} ran, \d+ cached", half)


def test_a_large_build_that_is_fast_says_little() -> None:
    assert len(log_of(10_000, Look(), step_s=0.025, ran=10_000)[0]) == 4


def test_a_small_build_and_a_verbose_one_have_a_line_for_each_target() -> None:
    assert len(log_of(200, Look(), ran=200)[0]) == 200
    assert len(log_of(300, Look(verbose=1), ran=200, cached=100)[0]) == 300
    assert len(log_of(300, Look(dry_run=True), ran=300)[0]) == 300, "that list is what was asked for"


def test_failures_of_a_large_build_are_told_one_by_one_until_there_are_too_many() -> None:
    lines, _ = log_of(10_000, Look(), step_s=0, failed=3)
    assert lines == [f"[{n:>5}/10000] failed w.failed{n - 1}: no" for n in (1, 2, 3)]
    lines, _ = log_of(10_000, Look(), step_s=0, failed=1000)
    assert len(lines) == 201
    assert lines[-1] == "note: more failures are not shown as they come"


def test_notes_do_not_flood_a_log() -> None:
    stream = io.StringIO()
    console = Console(stream, Look())
    for number in range(1000):
        console.note(f"w.s{number}: exit code 1; trying again")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 201
    assert lines[-1] == "note: more notes are not shown as they come"


def test_a_line_is_cut_to_the_columns_that_it_has() -> None:
    assert words.cut("abcdef", 6) == "abcdef"
    assert words.cut("abcdefg", 6) == "abcde…"
    assert words.cut("漢字漢字", 6) == "漢字…"
    assert words.cells(words.cut("e\u0301" * 9, 6)) <= 6


# ---------------------------------------------------------------- on a terminal


@pytest.fixture
def screen() -> Iterator[tuple[TextIO, int]]:
    """A pseudo-terminal: the end that a program writes to, and the one that shows it."""
    shown, written = pty.openpty()
    with os.fdopen(written, "w", buffering=1) as stream:
        yield stream, shown
    os.close(shown)


def everything(shown: int) -> str:
    """What the screen got until nothing more comes."""
    data = b""
    while select.select([shown], [], [], 0.2)[0]:
        data += os.read(shown, 1 << 16)
    return data.decode()


def test_the_region_shows_what_runs_and_leaves_a_clean_terminal(screen: tuple[TextIO, int]) -> None:
    stream, shown = screen
    console = Console(stream, Look(live=True, color=True))
    console.started(2, "run", 2)
    console.asks(["w.slow"])
    console.target(TargetEvent(target="w.slow", state=State.RUNNING))
    console.progress("w.slow", {"tokens": 1})
    time.sleep(0.6)
    console.progress("w.slow", {"tokens": 30})
    time.sleep(0.4)
    console.target(TargetEvent(target="w.slow", state=State.FAILED, error="no\x1b[2J"))
    console.finished(report(target("w.slow", State.FAILED, error="no\x1b[2J"), exit_code=1))
    text = everything(shown)
    assert "w.slow" in text
    assert re.search(r"w\.slow +\x1b\[2m +[0-9.]+s \d+ tokens/s", text)
    assert re.search(r"\[0/2\]; prompts 0/1, \d+ tokens/s", text)
    assert "\x1b[2J" not in text
    assert "\x1b[?25l" not in text, "the cursor is hidden: a killed build would leave it so"
    assert text.rstrip().endswith(
        "1 targets: 0 ran, 0 cached, 1 failed, 0 poisoned, 0 skipped in 1.23 s\x1b[0m"
    )


def test_what_is_printed_stands_above_the_region_and_the_region_goes(screen: tuple[TextIO, int]) -> None:
    """Every picture is cleared line for line before anything else is written."""
    stream, shown = screen
    console = Console(stream, Look(live=True))
    console.started(9, "run", 2)
    for number in range(9):
        console.target(TargetEvent(target=f"w.{'long' * 40}{number}", state=State.RUNNING))
    time.sleep(0.5)
    console.note("hear this")
    console.target(TargetEvent(target="w.bad", state=State.FAILED, error="no"))
    time.sleep(0.3)
    console.close()
    text = everything(shown)
    above: list[str] = []
    for part in re.split("(\x1b\\[\\d+F\x1b\\[J)", text):
        if move := re.fullmatch("\x1b\\[(\\d+)F\x1b\\[J", part):
            assert int(move[1]) == 10, "eight targets, those not shown, and the counts"
            del above[-10:]
        else:
            above += part.replace("\r", "").split("\n")[:-1]
            assert all(words.cells(line) < 80 for line in above)
    assert above == ["note: hear this", "[1/9] failed w.bad: no"]


def test_a_build_that_is_over_at_once_draws_nothing(screen: tuple[TextIO, int]) -> None:
    stream, shown = screen
    console = Console(stream, Look(live=True))
    console.started(1, "run", 1)
    console.finished(report(*many(cached=1)))
    assert everything(shown) == "up to date: 1 targets (1.23 s)\r\n"


# ---------------------------------------------------------------- for programs


def test_json_has_the_fields_of_the_contract() -> None:
    made = report(
        target("w.a", State.RAN, key="cd" * 32, output=DIGEST, wall_s=0.5),
        target("w.b", State.FAILED, error="no", wall_s=0.0),
        target("w.c", State.POISONED, caused_by="w.b"),
        exit_code=1,
    )
    form = json.loads("".join(report_text(made)))
    assert list(form) == ["schema", "run_id", "ok", "exit_code", "wall_s", "counts", "targets"]
    assert form["schema"] == "llmc-build/1"
    assert form["counts"] == {
        "total": 3, "ran": 1, "cached": 0, "failed": 1, "poisoned": 1, "skipped": 0, "cancelled": 0
    }  # fmt: skip
    assert form["targets"][0] == {
        "target": "w.a",
        "status": "ran",
        "reason": "because",
        "key": "cd" * 32,
        "output": {"sha256": "ab" * 32, "size": 3},
        "wall_s": 0.5,
        "error": None,
        "caused_by": None,
    }
    assert form["targets"][2]["caused_by"] == "w.b"


def test_events_are_a_json_object_a_line_in_the_order_of_the_build(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = Events(path, pytest.fail)
    reporter: Reporter = Tee([events, Silent()])
    reporter.started(2, "run", 3)
    reporter.target(TargetEvent(target="w.a", state=State.RUNNING, reason="new"))
    reporter.progress("w.a", {"tokens": 4})
    reporter.note("line\nbreak")
    reporter.target(TargetEvent(target="w.a", state=State.FAILED, error="no\udcff", wall_s=0.25))
    reporter.finished(report(*many(failed=1), exit_code=1))
    events.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == [
        "started",
        "target",
        "progress",
        "note",
        "target",
        "finished",
    ]
    assert lines[0]["total"] == 2
    assert lines[1]["state"] == "running"
    assert lines[4]["wall_s"] == 0.25
    assert lines[5]["exit_code"] == 1
    assert all(earlier["at_s"] <= later["at_s"] for earlier, later in pairwise(lines))


def test_events_that_cannot_be_opened_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--events: can't write"):
        Events(tmp_path / "missing" / "events", pytest.fail)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_disk_ends_the_events_and_not_the_build() -> None:
    warned: list[str] = []
    events = Events(Path("/dev/full"), warned.append)
    for _ in range(3):
        events.note("x")
    events.close()
    assert warned == ["no more events are written to /dev/full: No space left on device"]


def test_ten_thousand_events_cost_next_to_nothing() -> None:
    """A build of 10,000 cached targets has 0.1 s for everything; 10 us a target would be all of it."""
    console = Console(io.StringIO(), Look())
    console.started(10_000, "run", 2)
    events = [TargetEvent(target=f"w.s{number}", state=State.CACHED) for number in range(10_000)]
    start = time.process_time()
    for event in events:
        console.target(event)
    assert time.process_time() - start < 0.1


def test_a_failure_of_what_never_ran_names_no_log() -> None:
    out = io.StringIO()
    console = Console(out, choose_look(out, {}, color="never", verbose=0, quiet=True))
    console.finished(report(target("w.a", State.FAILED, error="no input", wall_s=0.0), exit_code=1))
    assert "log:" not in out.getvalue()
    assert "w.a: no input" in out.getvalue()
