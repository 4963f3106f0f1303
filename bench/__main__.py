"""python -m bench: measure, print, and write results.  README.md here says more."""

from __future__ import annotations

import argparse
import compileall
import os
import shlex
import shutil
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import plot, report
from bench.graphs import SHAPES
from bench.loads import Folder, Limits
from bench.measure import Failed, Sample, floor_mb
from bench.report import Row, Section
from bench.tools import all_tools, version_of

HERE = Path(__file__).parent
MILLION = 1_000_000


@dataclass(frozen=True)
class Plan:
    title: str
    cases: list[tuple[str, int]]  # shape, size
    tools: list[str]
    growth: bool = False


ALL = ["llmc", "ninja", "ninja-plain", "make", "doit", "snakemake"]
PLANS = {
    "standard": Plan("All tools, small graphs", [("chains", 1_000), ("chains", 10_000)], ALL),
    "growth": Plan("Growth", [("chains", 10**n) for n in (3, 4, 5)], ALL[:4], growth=True),
    "shapes": Plan(
        "Other shapes", [("files", 10_000), ("wide", 100_000), ("deep", 10_000), ("dense", 10_000)], ALL[:4]
    ),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("plan", nargs="?", choices=PLANS, help="measure this and write it into results.md")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["chains"], help="without a plan")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000], help="without a plan")
    parser.add_argument("--million", action="store_true", help="with the plan growth: a million targets too")
    parser.add_argument("--tools", nargs="+", choices=ALL)
    parser.add_argument("--rounds", type=int, help="default: 3, 2 from 100,000 targets, 1 from a million")
    parser.add_argument("--repeats", type=int, default=3, help="of what can be repeated within a round")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=3_600, help="seconds that one command may take")
    parser.add_argument("--build-up-to", type=int, default=200_000, metavar="TARGETS", help="see README.md")
    parser.add_argument("--llmc", type=shlex.split, metavar="COMMAND", help="default: python -m llmc_build")
    parser.add_argument("--scratch", type=Path, help="an existing folder on the file system to measure on")
    parser.add_argument("--keep", action="store_true", help="leave the folders, to look at them")
    return parser.parse_args()


def _without_paths(words: list[str]) -> list[str]:
    """The command as another machine would repeat it."""
    kept: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if not {word.split("=")[0], before} & {"--scratch", "--llmc"}:
            kept.append(word)
    return kept


def say(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


class Bench:
    """One run: its tools, its folders, and the section it fills."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        plan = PLANS.get(options.plan)
        self.cases = plan.cases if plan else [(s, n) for s in options.shapes for n in options.sizes]
        if options.million:
            self.cases = [*self.cases, ("chains", MILLION)]
        self.rounds: int | None = options.rounds
        self.limits = Limits(options.limit, options.repeats, options.build_up_to)
        self.scratch = scratch
        self.failed = False
        tools = all_tools(options.jobs, options.llmc)
        asked = [tools[name] for name in options.tools or (plan.tools if plan else ALL)]
        self.tools = [tool for tool in asked if tool.installed]
        versions = {tool.name: version_of(tool) for tool in self.tools}
        self.section = Section(
            title=plan.title if plan else "As asked for",
            command=f"python -m bench {shlex.join(_without_paths(sys.argv[1:]))}".strip(),
            machine=[
                f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
                *report.machine(scratch, options.jobs, versions, floor_mb()),
            ],
            growth=bool(plan and plan.growth),
        )
        for tool in asked:
            if not tool.installed:
                self.note(f"{tool.name} is left out: it is not installed ({tool.hint})")

    def note(self, text: str) -> None:
        if text not in self.section.notes:
            say(text)
            self.section.notes.append(text)

    def measure(self, shape: str, size: int) -> None:
        """One graph: every tool, round by round; the tool that begins changes from round to round."""
        graph = SHAPES[shape](size)
        samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        tools = []
        for tool in self.tools:
            if graph.targets > tool.largest:
                self.note(f"{tool.name} is left out above {tool.largest - 100:,} targets: it takes too long")
            else:
                tools.append(tool)
        rounds = self.rounds or (3 if size < 100_000 else 2 if size < MILLION else 1)
        stopped: set[str] = set()
        for round_ in range(rounds):
            first = round_ % len(tools) if tools else 0
            for tool in tools[first:] + tools[:first]:
                if tool.name in stopped:
                    continue
                path = self.scratch / f"{shape}-{size}-{round_}-{tool.name}"
                path.mkdir()
                folder = Folder(tool, graph, path, self.limits)
                try:
                    for load, sample in folder.loads():
                        samples[load, tool.name].append(sample)
                except Failed as error:
                    stopped.add(tool.name)
                    self.failed |= tool.name == "llmc"
                    self.note(f"{tool.name}, {shape}, {graph.targets:,} targets: ended early: {error}")
                if folder.set_up:
                    self.note(
                        f"{tool.name}, {shape}, {graph.targets:,} targets: not built cold; "
                        "what a build leaves was written instead"
                    )
                say(f"{shape} {size:,}, round {round_ + 1} of {rounds}: {tool.name} done")
        names = [tool.name for tool in tools]
        for load, tool_name in sorted(samples, key=lambda k: names.index(k[1])):
            self.section.rows.append(
                Row(shape, size, graph.targets, load, tool_name, samples[load, tool_name])
            )


def main() -> int:
    options = arguments()
    if options.scratch is None:
        options.scratch = Path(tempfile.gettempdir())
    scratch = Path(tempfile.mkdtemp(prefix="llmc-bench-", dir=options.scratch))
    compileall.compile_dir(HERE.parent / "llmc_build", quiet=1)  # as pip does, and `make setup`
    try:
        bench = Bench(options, scratch)
        for shape, size in bench.cases:
            bench.measure(shape, size)
            if options.plan:
                write(options.plan, bench.section)
    finally:
        if options.keep:
            say(f"the folders are in {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    print(report.markdown({"run": bench.section}).removeprefix(report.HEAD).lstrip())
    return 1 if bench.failed else 0


def write(name: str, section: Section) -> None:
    """The section replaces what the last run of the same plan wrote, and nothing else."""
    sections = report.load(HERE / "results.json")
    sections[name] = section
    report.save(HERE / "results.json", sections)
    (HERE / "results.md").write_text(report.markdown(sections))
    if section.growth:
        plot.write(HERE / "growth.svg", section.rows)


if __name__ == "__main__":
    sys.exit(main())
