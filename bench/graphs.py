"""llmc beside ninja and make on the same graphs: cold, nothing to do, one edit, everything cached.

    python bench/graphs.py [--sizes 1000 10000] [--rounds 3] [--tools llmc ninja ninja-plain make]

Each graph is workflows of ten steps in a chain that print; the first step of each waits for one root step.
`ninja` passes the value of a step to the next by `cat`, as a program more; `ninja-plain` has the same number
of processes as llmc and passes nothing.  The tools take turns within a round, in fresh folders, so a slow
moment of the machine meets all of them.  Prints a table of medians, ratios to ninja, and peak memory; with
--write, bench/results.md too.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHAIN = 10
JOBS = os.cpu_count() or 1


@dataclass(frozen=True)
class Run:
    seconds: float
    peak_mb: float  # of the largest process


def run(command: list[str], folder: Path) -> Run:
    """One command as a whole process; raises where it fails."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        sink = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(sink, fd)
        os.execvp(command[0], command)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{' '.join(command)} in {folder} ended with status {status}")
    return Run(seconds, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2))


# ---------------------------------------------------------------- the graphs, for each tool


def steps(targets: int) -> list[tuple[int, int, str]]:
    """(workflow, step, the step before it) of a graph with about so many targets."""
    found = []
    for w in range(max(1, targets // CHAIN)):
        found += [(w, s, f"w{w}.s{s - 1}" if s else "root.root") for s in range(CHAIN)]
    return found


def write_llmc(folder: Path, targets: int, word: str) -> None:
    lines = ["name: root", "steps:", "  - {name: root, command: echo root}"]
    for w, s, before in steps(targets):
        if s == 0:
            lines += ["---", f"name: w{w}", "steps:"]
        wait = ", wait_for: root.root, wait_timeout: 600" if s == 0 else ""
        said = word if (w, s) == (0, 5) else "hello"
        lines.append(f"  - {{name: s{s}, command: 'echo \"{said} {w} {s} {{{{{before}}}}}\"'{wait}}}")
    (folder / "workflow.yaml").write_text("\n".join(lines) + "\n")


def write_ninja(folder: Path, targets: int, word: str, *, plain: bool = False) -> None:
    lines = ["rule sh", "  command = $cmd > $out", "build out/root.root: sh", "  cmd = echo root"]
    for w, s, before in steps(targets):
        said = word if (w, s) == (0, 5) else "hello"
        value = "" if plain else f" `cat out/{before}`"
        lines += [f"build out/w{w}.s{s}: sh out/{before}", f"  cmd = echo {said} {w} {s}{value}"]
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")


def write_make(folder: Path, targets: int, word: str) -> None:
    """make does not see that a command changed: the edited step also depends on a file that is touched."""
    names = [f"out/w{w}.s{s}" for w, s, _ in steps(targets)]
    lines = ["all: " + " ".join(names), "out/root.root:", "\t@mkdir -p out; echo root > $@"]
    for w, s, before in steps(targets):
        said, more = (word, " edited") if (w, s) == (0, 5) else ("hello", "")
        lines += [f"out/w{w}.s{s}: out/{before}{more}", f"\t@echo {said} {w} {s} `cat out/{before}` > $@"]
    (folder / "Makefile").write_text("\n".join(lines) + "\n")
    (folder / "edited").touch()


@dataclass(frozen=True)
class Tool:
    write: Callable[[Path, int, str], None]
    command: list[str]


LLMC = [sys.executable, "-m", "llmc_build", "build", "-q", f"-j{JOBS}"]
TOOLS = {
    "llmc": Tool(write_llmc, LLMC),
    "ninja": Tool(write_ninja, ["ninja", f"-j{JOBS}"]),
    "ninja-plain": Tool(lambda f, n, w: write_ninja(f, n, w, plain=True), ["ninja", f"-j{JOBS}"]),
    "make": Tool(write_make, ["make", f"-j{JOBS}"]),
}


def loads(name: str, tool: Tool, folder: Path, targets: int) -> dict[str, Run]:
    """Every load of one tool on one graph, in their natural order."""
    tool.write(folder, targets, "hello")
    found = {"cold": run(tool.command, folder)}
    run(tool.command, folder)  # what a first build leaves to the second one is not the load measured
    found["nothing to do"] = run(tool.command, folder)
    tool.write(folder, targets, "changed")
    found["one edit"] = run(tool.command, folder)
    if name == "llmc":
        shutil.rmtree(folder / ".llmc" / "out")
        shutil.rmtree(folder / ".llmc" / "state")
        found["everything cached, no state"] = run(tool.command, folder)
    return found


# ---------------------------------------------------------------- the table


def table(results: dict[tuple[int, str, str], list[Run]], sizes: list[int], tools: list[str]) -> str:
    lines = ["| targets | load | tool | median s | against ninja | peak MB |", "|---|---|---|---|---|---|"]
    for size in sizes:
        for load in ("cold", "nothing to do", "one edit", "everything cached, no state"):
            base = results.get((size, load, "ninja"))
            for tool in tools:
                runs = results.get((size, load, tool))
                if not runs:
                    continue
                seconds = statistics.median(r.seconds for r in runs)
                ratio = f"{seconds / statistics.median(r.seconds for r in base):.2f}" if base else ""
                peak = max(r.peak_mb for r in runs)
                lines.append(f"| {size:,} | {load} | {tool} | {seconds:.3f} | {ratio} | {peak:.0f} |")
    return "\n".join(lines)


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs, "
        f"{memory:.0f} GiB, Python {platform.python_version()}, -j{JOBS}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--write", action="store_true", help="write bench/results.md")
    options = parser.parse_args()
    for name in options.tools:
        if shutil.which(TOOLS[name].command[0]) is None:
            raise SystemExit(
                f"{name} is not installed: on Debian and Ubuntu, apt-get install ninja-build make"
            )
    results: dict[tuple[int, str, str], list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="llmc-bench-") as scratch:
        for size in options.sizes:
            for round_ in range(options.rounds):
                for name in options.tools:
                    folder = Path(scratch) / f"{size}-{round_}-{name}"
                    folder.mkdir()
                    for load, one in loads(name, TOOLS[name], folder, size).items():
                        results[size, load, name].append(one)
                    print(f"{size} targets, round {round_ + 1}: {name} done", file=sys.stderr)
    text = f"{machine()}; {options.rounds} rounds\n\n{table(results, options.sizes, options.tools)}\n"
    print(text)
    if options.write:
        (Path(__file__).parent / "results.md").write_text(f"# What `make bench` printed\n\n{text}")


if __name__ == "__main__":
    main()
