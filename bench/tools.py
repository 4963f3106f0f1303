"""The same graph written for each tool, the command that builds it, and where its values lie.

Every tool can see that the command of a step changed: ninja and snakemake by themselves, doit by
`config_changed`, make by a file that the edited steps also depend on.  `ninja-plain` passes no value on, so
it has as many processes a step as llmc; the others need one more, `cat`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.graphs import ROOT, Edit, Graph, Step
from bench.measure import clean_environment

Write = Callable[[Path, Graph, Edit], None]


@dataclass(frozen=True)
class Tool:
    name: str
    write: Write
    command: list[str]
    goal: Callable[[str], list[str]]  # id of a step -> what the command gets in addition to build it alone
    version: list[str]
    hint: str  # how to get it
    flat: bool = True  # values are out/ID; False: .llmc/out/WORKFLOW/STEP
    passes: bool = True  # its steps read each other's values
    largest: int = 10**9  # graphs larger than this take too long
    settle: Callable[[Path, Graph], bool] | None = (
        None  # writes what a build leaves; False: can't be done here
    )

    @property
    def installed(self) -> bool:
        return shutil.which(self.command[0]) is not None

    def is_flat(self, graph: Graph) -> bool:
        return self.flat or graph.files

    def output(self, folder: Path, graph: Graph, step: str) -> Path:
        flat = self.is_flat(graph)
        return folder / "out" / step if flat else folder.joinpath(".llmc", "out", *step.split("."))


# ---------------------------------------------------------------- llmc


def _llmc_command(graph: Graph, step: Step, edit: Edit) -> str:
    if graph.files:
        made = "mkdir -p out; " if step.id == ROOT else ""
        return f"{made}{_shell(graph, step, edit)} > out/{step.id}"
    values = "".join(f"{{{{{r}}}}}" for r in step.reads)
    if graph.passes:
        return f'echo "{step.says(edit)} {values}"' if step.reads else f"echo {step.says(edit)}"
    return f'test -n "{values}" && echo {step.says(edit)}' if step.reads else f"echo {step.says(edit)}"


def write_llmc(folder: Path, graph: Graph, edit: Edit) -> None:
    with (folder / "workflow.yaml").open("w") as file:
        for n, workflow in enumerate(graph.workflows()):
            order = "order: dataflow\n" if workflow.dataflow else ""
            file.write(f"{'---' + chr(10) if n else ''}name: {workflow.name}\n{order}steps:\n")
            for step in workflow.steps:
                wait = f", wait_for: {ROOT}, wait_timeout: 600" if ROOT in step.reads else ""
                command = _llmc_command(graph, step, edit)
                more = ""
                if graph.files:
                    reads = ", ".join(f"out/{r}" for r in step.reads)
                    more = f", inputs: [{reads}], outputs: [out/{step.id}]"
                file.write(f"  - {{name: {step.name}, command: '{command}'{wait}{more}}}\n")


# ---------------------------------------------------------------- shells that read files


def _shell(graph: Graph, step: Step, edit: Edit, *, plain: bool = False) -> str:
    """The command of a step whose values are files of out/, without the redirection of its own."""
    says = f"echo {step.says(edit)}"
    if plain or not step.reads:
        return says
    values = "`cat " + " ".join(f"out/{r}" for r in step.reads) + "`"
    return f"{says} {values}" if graph.passes else f'test -n "{values}" && {says}'


def write_ninja(folder: Path, graph: Graph, edit: Edit, *, plain: bool = False) -> None:
    with (folder / "build.ninja").open("w") as file:
        file.write("rule sh\n  command = $cmd > $out\n")
        for step in graph.steps():
            reads = "".join(f" out/{r}" for r in step.reads)
            file.write(f"build out/{step.id}: sh{reads}\n  cmd = {_shell(graph, step, edit, plain=plain)}\n")


def write_make(folder: Path, graph: Graph, edit: Edit) -> None:
    with (folder / "Makefile").open("w") as file:
        file.write("all: " + " ".join(f"out/{s}" for s in graph.sinks()) + "\n")
        for step in graph.steps():
            reads = "".join(f" out/{r}" for r in step.reads) + (" edited" if step.id in edit.steps else "")
            made = "mkdir -p out; " if step.id == ROOT else ""
            file.write(f"out/{step.id}:{reads}\n\t@{made}{_shell(graph, step, edit)} > $@\n")
    (folder / "edited").touch()


DODO = """\
import json
import os
from doit.tools import config_changed
DOIT_CONFIG = {"verbosity": 0}
def task_t():
    with open("graph.json") as file:
        for name, command, reads in json.load(file):
            yield dict(name=name, actions=[command + " > out/" + name], targets=["out/" + name],
                       file_dep=["out/" + r for r in reads], uptodate=[config_changed(command)])
"""


def write_doit(folder: Path, graph: Graph, edit: Edit) -> None:
    (folder / "dodo.py").write_text(DODO)
    (folder / "out").mkdir(exist_ok=True)
    rows = [(step.id, _shell(graph, step, edit), step.reads) for step in graph.steps()]
    (folder / "graph.json").write_text(json.dumps(rows))


def write_snakemake(folder: Path, graph: Graph, edit: Edit) -> None:
    with (folder / "Snakefile").open("w") as file:
        goals = [f"out/{s}" for s in graph.sinks()]
        file.write(f"rule all:\n    input: {goals}\n")
        for step in graph.steps():
            reads = "".join(f'"out/{r}", ' for r in step.reads)
            given = f"    input: {reads}\n" if reads else ""
            command = _shell(graph, step, edit).replace('"', '\\"')
            file.write(f'rule {step.id.replace(".", "_")}:\n{given}    output: "out/{step.id}"\n')
            file.write(f'    shell: "{command} > {{output}}"\n')


# ---------------------------------------------------------------- what a build leaves, without building


def _write_outputs(folder: Path, graph: Graph, *, passes: bool) -> None:
    """Every output, in an order in which none is older than what it is made of."""
    (folder / "out").mkdir()
    for workflow in graph.workflows():
        here = {ROOT: "root"}
        for step in workflow.steps:
            passed = [here[r] for r in step.reads] if passes and graph.passes else []
            here[step.id] = " ".join([step.says(Edit()), *passed])
            (folder / "out" / step.id).write_text(here[step.id] + "\n")


def settle_make(folder: Path, graph: Graph) -> bool:
    """make keeps no state: files in the right order are all that a build leaves."""
    _write_outputs(folder, graph, passes=True)
    return True


NINJA_HEADER = "# ninja log v5\n"


def ninja_hash(command: bytes) -> int:
    """What ninja logs of a command, up to version 1.11: MurmurHash64A, https://github.com/aappleby/smhasher."""
    mask, m = 2**64 - 1, 0xC6A4A7935BD1E995
    h = 0xDECAFBADDECAFBAD ^ (len(command) * m & mask)
    whole = len(command) & ~7
    for at in range(0, whole, 8):
        k = int.from_bytes(command[at : at + 8], "little") * m & mask
        h = (h ^ ((k ^ (k >> 47)) * m & mask)) * m & mask
    if whole < len(command):
        h = (h ^ int.from_bytes(command[whole:], "little")) * m & mask
    h = (h ^ (h >> 47)) * m & mask
    return h ^ (h >> 47)


def ninja_logs_so() -> bool:
    """Whether the ninja installed writes the log that settle_ninja writes: one step is built to see."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = "echo this is as long as a command"
        (folder / "build.ninja").write_text(
            f"rule sh\n  command = $cmd > $out\nbuild out/x: sh\n  cmd = {command}\n"
        )
        done = subprocess.run(["ninja"], cwd=folder, env=clean_environment(), capture_output=True)
        log = folder / ".ninja_log"
        text = log.read_text() if log.is_file() else ""
    expected = f"{ninja_hash(f'{command} > out/x'.encode()):x}"
    return done.returncode == 0 and text.startswith(NINJA_HEADER) and text.split()[-1] == expected


def settle_ninja(folder: Path, graph: Graph, *, plain: bool = False) -> bool:
    if not ninja_logs_so():
        return False
    _write_outputs(folder, graph, passes=not plain)
    now = time.time_ns()
    with (folder / ".ninja_log").open("w") as log:
        log.write(NINJA_HEADER)
        for n, step in enumerate(graph.steps()):
            digest = ninja_hash(f"{_shell(graph, step, Edit(), plain=plain)} > out/{step.id}".encode())
            log.write(f"{n}\t{n + 1}\t{now}\tout/{step.id}\t{digest:x}\n")
    return True


# ---------------------------------------------------------------- the tools

DEBIAN = "on Debian and Ubuntu: apt-get install ninja-build make"
PYPI = "`make bench` installs it into .venv-bench, from bench/requirements.txt"


def write_ninja_plain(folder: Path, graph: Graph, edit: Edit) -> None:
    write_ninja(folder, graph, edit, plain=True)


def settle_ninja_plain(folder: Path, graph: Graph) -> bool:
    return settle_ninja(folder, graph, plain=True)


def all_tools(jobs: int, llmc: list[str] | None = None) -> dict[str, Tool]:
    """`llmc`: the words of its command, where it is not this Python's."""
    program, *words = llmc or [sys.executable, "-m", "llmc_build"]
    llmc = [os.path.abspath(program) if "/" in program else program, *words]  # it runs in other folders
    own = Path(__file__).parent.parent / ".venv-bench" / "bin"
    ninja, make = ["ninja", f"-j{jobs}"], ["make", "-rR", f"-j{jobs}"]
    doit, snakemake = [str(own / "doit"), "run", "-n", str(jobs)], [str(own / "snakemake"), "-j", str(jobs)]
    tools = [
        Tool(
            "llmc", write_llmc, [*llmc, "build", "-q", f"-j{jobs}"],
            lambda s: ["-t", s], [*llmc, "--version"], "`make setup`", flat=False,
        ),
        Tool("ninja", write_ninja, ninja, _out, ["ninja", "--version"], DEBIAN, settle=settle_ninja),
        Tool(
            "ninja-plain", write_ninja_plain, ninja, _out, ["ninja", "--version"], DEBIAN,
            passes=False, settle=settle_ninja_plain,
        ),
        Tool("make", write_make, make, _out, ["make", "--version"], DEBIAN, settle=settle_make),
        Tool("doit", write_doit, doit, lambda s: [f"t:{s}"], [doit[0], "--version"], PYPI, largest=10_100),
        Tool("snakemake", write_snakemake, snakemake, _out, [snakemake[0], "--version"], PYPI, largest=1_100),
    ]  # fmt: skip
    return {tool.name: tool for tool in tools}


def _out(step: str) -> list[str]:
    return [f"out/{step}"]


def version_of(tool: Tool) -> str:
    done = subprocess.run(tool.version, env=clean_environment(), capture_output=True, text=True)
    words = (done.stdout.splitlines() or ["unknown"])[0].split()
    return words[-1] if words else "unknown"
