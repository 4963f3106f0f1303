"""How fast models answer and what is left, as a person sees it; and what a step cost, with -v."""

from __future__ import annotations

import io

from llmc_build.model import State
from llmc_build.report import TargetEvent
from llmc_build.report.console import Console, Look
from llmc_build.report.pace import Pace, facts


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def event(name: str, state: State, **stats: object) -> TargetEvent:
    return TargetEvent(target=name, state=state, stats=stats)  # type: ignore[arg-type]


STATS = {
    "prompt_tokens": 44,
    "reused_tokens": 30,
    "generated_tokens": 12,
    "ttft_s": 0.314,
    "tokens_per_s": 45.21,
}


def test_the_time_left_is_that_of_the_prompts_to_go_at_the_pace_of_those_answered() -> None:
    clock = Clock()
    pace = Pace([f"w.s{i}" for i in range(12)], clock)
    assert pace.text() == "prompts 0/12"
    pace.target(event("w.s0", State.CACHED))
    pace.target(event("w.s1", State.CACHED))
    for name in ("w.s2", "w.s3", "w.s4", "w.s5", "w.shell"):
        pace.target(event(name, State.RUNNING))
    for i in range(2, 6):
        clock.now += 1.0
        pace.progress(f"w.s{i}", {"tokens": 20})
        pace.progress(f"w.s{i}", {"tokens": 30})
        pace.target(event(f"w.s{i}", State.RAN, generated_tokens=40))
    assert pace.left_s == 6.0  # 6 to go, one a second; those from the store took no time
    assert pace.tokens_per_s == 40.0
    assert pace.text() == "prompts 6/12, 40 tokens/s, 6.0s left"
    clock.now += 60
    assert pace.tokens_per_s == 0.0  # nothing came lately


def test_nothing_is_said_of_the_time_left_while_nobody_can_tell() -> None:
    clock = Clock()
    pace = Pace(["a.x", "a.y"], clock)
    pace.target(event("a.x", State.RUNNING))
    clock.now += 5
    assert pace.left_s is None
    pace.target(event("a.x", State.FAILED))
    assert pace.text() == "prompts 1/2"
    assert Pace([], clock).text() == ""


def test_a_large_build_off_a_terminal_says_it_in_its_few_lines() -> None:
    clock, stream = Clock(), io.StringIO()
    console = Console(stream, Look(), clock=clock)
    names = [f"w.s{i}" for i in range(1000)]
    console.started(len(names), "run", 2)
    console.asks(names)
    for name in names:
        console.target(event(name, State.RUNNING))
        clock.now += 0.1
        console.progress(name, {"tokens": 5})
        console.target(event(name, State.RAN, generated_tokens=8, tokens_per_s=80.0))
    lines = stream.getvalue().splitlines()
    assert len(lines) <= 200
    assert "[  11/1000] 11 ran; prompts 11/1000, 80 tokens/s, 1m38s left" in lines
    assert all(line.endswith(" left") for line in lines)


def test_what_a_step_cost_is_told_with_verbose() -> None:
    assert facts(STATS) == "44 prompt tokens (30 reused), 12 generated, first after 0.31 s, 45.2 tokens/s"
    assert facts({**STATS, "batch": 16}).endswith(" tokens/s, in a batch of 16")
    assert facts({"prompt_tokens": 5, "generated_tokens": 0, "texts": 2}) == "5 prompt tokens, 0 generated"
    assert facts({}) == ""
    for verbose, expected in (
        (0, "[1/1] ran w.s 1.50 s, 45.2 tokens/s\n"),
        (1, f"[1/1] ran w.s 1.50 s, {facts(STATS)}: why\n"),
    ):
        stream = io.StringIO()
        console = Console(stream, Look(verbose=verbose))
        console.started(1, "run", 2)
        console.target(TargetEvent(target="w.s", state=State.RAN, reason="why", wall_s=1.5, stats=STATS))  # type: ignore[arg-type]
        assert stream.getvalue() == expected
