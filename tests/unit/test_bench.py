"""The bench measures what it says: its graphs are accepted, its checks catch a tool that lies, its sums are right.

Nothing here asserts a time.
"""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from bench import loads, measure, plot, report
from bench.graphs import SHAPES, Edit, Graph
from bench.loads import Folder, Limits
from bench.measure import Failed, Sample
from bench.report import Row, Section
from bench.tools import Tool, all_tools, ninja_hash, ninja_logs_so

TOOLS = all_tools(2)
LIMITS = Limits(seconds=120, repeats=1, build_up_to=10**9)


@pytest.fixture(params=SHAPES)
def graph(request: pytest.FixtureRequest) -> Graph:
    return SHAPES[request.param](100)


def installed(name: str) -> Tool:
    if not TOOLS[name].installed:
        pytest.skip(f"{name} is not installed")
    return TOOLS[name]


def ask(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, env=measure.clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---------------------------------------------------------------- graphs


def test_steps_come_after_what_they_read(graph: Graph) -> None:
    """Tools that read a file from top to bottom, and the check of values, rely on it."""
    seen: set[str] = set()
    for step in graph.steps():
        assert set(step.reads) <= seen
        assert step.id not in seen
        seen.add(step.id)
    assert len(seen) == graph.targets


def test_sinks_are_what_nothing_reads(graph: Graph) -> None:
    """make builds the sinks, so a missing one would be work left out."""
    read = {r for step in graph.steps() for r in step.reads}
    assert set(graph.sinks()) == {step.id for step in graph.steps()} - read


def test_every_command_is_another_one(graph: Graph) -> None:
    """llmc runs equal actions once, which would be a gift."""
    assert len({step.says(Edit()) for step in graph.steps()}) == graph.targets


@pytest.mark.parametrize(
    ("shape", "one", "whole"), [("chains", 5, 10), ("wide", 1, 0), ("deep", 2, 0), ("dense", 21, 40)]
)
def test_an_edit_reaches_few_steps(shape: str, one: int, whole: int) -> None:
    graph = SHAPES[shape](100)
    assert len(graph.reached(graph.one)) == one
    assert len(graph.reached(graph.whole)) == whole
    assert not graph.whole or graph.one <= graph.whole  # a later edit covers the earlier one


def test_values_are_passed_on_where_the_graph_says_so() -> None:
    graph = SHAPES["chains"](20)
    edit = Edit("new", frozenset({"w1.s1"}))
    wanted = {"w0.s1", "w1.s1", "w1.s2"}
    assert graph.values(edit, wanted) == {
        "w0.s1": "hello w0 s1 hello w0 s0 root",
        "w1.s1": "new w1 s1 hello w1 s0 root",
        "w1.s2": "hello w1 s2 new w1 s1 hello w1 s0 root",
    }
    assert graph.values(edit, {"w1.s2"}, passes=False) == {"w1.s2": "hello w1 s2"}
    assert SHAPES["deep"](20).values(edit, {"deep.s3"}) == {"deep.s3": "hello deep s3"}


# ---------------------------------------------------------------- tools accept them


def test_llmc_accepts_every_graph(graph: Graph, tmp_path: Path) -> None:
    TOOLS["llmc"].write(tmp_path, graph, Edit("new", graph.one))
    ask([sys.executable, "-m", "llmc_build", "validate"], tmp_path)


@pytest.mark.parametrize("name", ["ninja", "ninja-plain"])
def test_ninja_accepts_every_graph(graph: Graph, name: str, tmp_path: Path) -> None:
    tool = installed(name)
    tool.write(tmp_path, graph, Edit("new", graph.one))
    assert f"[{graph.targets}/{graph.targets}]" in ask(["ninja", "-n"], tmp_path)


def test_make_accepts_every_graph(graph: Graph, tmp_path: Path) -> None:
    tool = installed("make")
    tool.write(tmp_path, graph, Edit("new", graph.one))
    assert len(ask([*tool.command, "-n"], tmp_path).splitlines()) == graph.targets


def test_doit_accepts_every_graph(graph: Graph, tmp_path: Path) -> None:
    tool = installed("doit")
    tool.write(tmp_path, graph, Edit("new", graph.one))
    assert len(ask([tool.command[0], "list", "--all"], tmp_path).splitlines()) == graph.targets + 1


def test_snakemake_accepts_every_graph(graph: Graph, tmp_path: Path) -> None:
    tool = installed("snakemake")
    tool.write(tmp_path, graph, Edit("new", graph.one))
    assert f"total {graph.targets + 1}" in " ".join(ask([*tool.command, "-n"], tmp_path).split())


@pytest.mark.parametrize("name", ["ninja", "ninja-plain", "make"])
@pytest.mark.parametrize("shape", ["chains", "dense"])
def test_every_load_is_what_it_says(shape: str, name: str, tmp_path: Path) -> None:
    """The checks of every load pass with real tools."""
    folder = Folder(installed(name), SHAPES[shape](40), tmp_path / "work", LIMITS)
    folder.path.mkdir()
    assert [load for load, _ in folder.loads()] == loads.LOADS[:-1]


@pytest.mark.parametrize("name", ["ninja", "ninja-plain", "make"])
def test_what_is_set_up_is_taken_for_a_build(name: str, tmp_path: Path) -> None:
    """Had it not been, the first command would have written the outputs again, which is an error."""
    tool = installed(name)
    if "ninja" in name and not ninja_logs_so():
        pytest.skip("this ninja writes another log than version 1.11")
    folder = Folder(tool, SHAPES["chains"](40), tmp_path / "work", replace(LIMITS, build_up_to=0))
    folder.path.mkdir()
    assert [load for load, _ in folder.loads()] == loads.LOADS[1:-1]
    assert folder.set_up


def test_every_load_of_llmc_is_what_it_says(tmp_path: Path) -> None:
    folder = Folder(TOOLS["llmc"], SHAPES["dense"](60), tmp_path / "work", LIMITS)
    folder.path.mkdir()
    assert [load for load, _ in folder.loads()] == loads.LOADS


def test_commands_are_hashed_as_ninja_does() -> None:
    """Both were read in the log of ninja 1.11.1; the second has the length of two blocks and a rest."""
    assert ninja_hash(b"echo root > out/x") == 0xF3E566A85E397507
    assert ninja_hash(b"echo 1234567890 > out/y") == 0xC008871963B8CB9E


# ---------------------------------------------------------------- the checks


GRAPH = SHAPES["chains"](20)
COPY = "mkdir -p out; for f in new/*; do cmp -s $f out/${f#new/} || cp $f out/${f#new/}; done"


def pretended(script: str) -> Tool:
    """A tool that finds the values it has to make in new/, and that this script is."""

    def write(folder: Path, graph: Graph, edit: Edit) -> None:
        (folder / "new").mkdir(exist_ok=True)
        for id_, value in graph.values(edit, {s.id for s in graph.steps()}).items():
            (folder / "new" / id_).write_text(value + "\n")
        (folder / "edits").write_text(edit.word)

    return Tool("pretended", write, ["sh", "-c", script], lambda s: [s], [], "")


def test_a_tool_that_does_its_work_passes(tmp_path: Path) -> None:
    """Which also says that the cases below fail for their own reasons."""
    folder = Folder(pretended(COPY), GRAPH, tmp_path / "work", LIMITS)
    folder.path.mkdir()
    assert [load for load, _ in folder.loads()] == loads.LOADS[:-1]


@pytest.mark.parametrize(
    ("script", "done", "error"),
    [
        ("true", 0, "there are no outputs"),
        (f"{COPY}; rm out/w1.s9", 0, "20 outputs instead of 21"),
        ("mkdir -p out; cp new/* out", 1, "21 outputs were written needlessly"),
        (f"[ -e out ] || {{ {COPY}; }}", 3, "w1.s5 says"),
        (f"{COPY}; [ `cat edits` = hello ] || touch out/w0.s0", 3, "1 outputs were written needlessly"),
        (f"{COPY}; [ `cat edits` = hello ]", 3, "ended with status 1"),
    ],
)
def test_a_tool_that_does_not_is_not_timed(script: str, done: int, error: str, tmp_path: Path) -> None:
    """It stops at the first load that was not done; those before count."""
    folder = Folder(pretended(script), GRAPH, tmp_path / "work", LIMITS)
    folder.path.mkdir()
    seen = []
    with pytest.raises(Failed, match=error):
        for load, _ in folder.loads():
            seen.append(load)
    assert seen == loads.LOADS[:done]


def test_a_command_over_its_limit_is_ended(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="stopped: it took longer than 0 s"):
        measure.run(["sh", "-c", "sleep 60 & wait"], tmp_path, 0.1)


def test_memory_and_cpu_are_those_of_the_command(tmp_path: Path) -> None:
    """A process that does nothing must not be shown with the memory of the bench."""
    small = measure.run(["true"], tmp_path, 60)
    large = measure.run([sys.executable, "-c", "x = b'x' * 200_000_000"], tmp_path, 60)
    assert small.peak_mb < 50
    assert 200_000_000 / 2**20 < large.peak_mb < 300
    assert large.cpu_s > small.cpu_s


def test_make_is_not_told_of_the_make_that_started_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-n")
    monkeypatch.setenv("LLMC_CACHE_DIR", "/elsewhere")
    assert not {"MAKEFLAGS", "LLMC_CACHE_DIR"} & set(measure.clean_environment())
    assert "PATH" in measure.clean_environment()


# ---------------------------------------------------------------- numbers


def row(tool: str, seconds: list[float], *, size: int = 1000, load: str = loads.COLD) -> Row:
    samples = [Sample(s, 2 * s, 10 * s, None if s < 1 else 20 * s) for s in seconds]
    return Row("chains", size, size + 1, load, tool, samples)


def test_a_row_is_median_and_largest() -> None:
    one = row("llmc", [3.0, 1.0, 2.0, 0.5])
    assert (one.seconds, one.cpu_s, one.peak_mb, one.sum_mb) == (1.5, 3.0, 30.0, 60.0)
    assert one.per_target_us == pytest.approx(1.5e6 / 1001)
    assert row("ninja", [0.1]).sum_mb is None


def test_ratios_are_to_ninja_on_the_same_graph_and_load() -> None:
    mine = row("llmc", [4.0])
    others = [row("ninja", [1.0], size=10), row("ninja", [1.0], load=loads.ONE), row("make", [1.0])]
    assert report.ratio(mine, others) is None
    assert report.ratio(mine, [*others, row("ninja", [8.0, 8.0, 1.0])]) == 0.5


def test_the_table_of_one_graph() -> None:
    rows = [row("llmc", [1.0, 3.0, 2.0]), row("ninja", [0.5]), row("llmc", [0.25], load=loads.ONE)]
    assert report.table(rows).splitlines()[2:] == [
        "| cold | llmc | 2.00 | 1.00 .. 3.00 | 4.00 | 4.00 | 30 | 60 |",
        "| cold | ninja | 0.500 | 0.500 .. 0.500 | 1.00 | 1.00 | 5 |  |",
        "| one edit | llmc | 0.250 | 0.250 .. 0.250 |  | 0.500 | 2 |  |",
    ]


def test_the_table_of_growth_has_tools_side_by_side() -> None:
    rows = [row("llmc", [2.002]), row("ninja", [1.001]), row("llmc", [30.0], size=10_000)]
    assert report.growth_table(rows).splitlines() == [
        "| load | targets | llmc s | µs a target | MB | ninja s | µs a target | MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        "| cold | 1,000 | 2.00 | 2,000 | 20 | 1.00 | 1,000 | 10 |",
        "| cold | 10,000 | 30.0 | 3,000 | 300 |  |  |  |",
    ]


def test_digits_are_three_or_so() -> None:
    values = [12345.6, 99.94, 9.994, 0.1234, 0.01234, None]
    assert [report.digits(v) for v in values] == ["12,346", "99.9", "9.99", "0.123", "0.0123", ""]


def test_a_run_replaces_its_own_section_only(tmp_path: Path) -> None:
    first = Section("First", "a", ["m"], ["left out"], True, [row("llmc", [1.0, 2.0])])
    second = Section("Second", "b", ["m"], rows=[row("ninja", [0.5])])
    path = tmp_path / "results.json"
    report.save(path, {"first": first})
    report.save(path, {**report.load(path), "second": second})
    report.save(path, {**report.load(path), "second": replace(second, command="c")})
    found = report.load(path)
    assert found == {"first": first, "second": replace(second, command="c")}
    text = report.markdown(found)
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## First", "## Second"]
    assert "- Note: left out" in text


def test_the_plot_is_xml_with_a_line_for_each_tool() -> None:
    rows = [row(tool, [s * 1.5], size=s) for tool in ("llmc", "ninja") for s in (10, 100)]
    tree = ElementTree.fromstring(plot.svg(rows))
    lines = [e for e in tree.iter() if e.tag.endswith("polyline")]
    assert [len(e.get("points", "").split()) for e in lines] == [2] * 4  # time and memory, two tools
