"""What a snapshot notices, what it withstands, and that its own ways agree with the thorough ones."""

from __future__ import annotations

import glob
import os
import random
import shutil
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc_build import api, errors, quick
from llmc_build import graph as graph_module
from llmc_build.graph import ActionGraph
from llmc_build.incremental.watching import folders_of
from llmc_build.model import BuildReport, Edge, EdgeKind, State
from llmc_build.snapshot import form, idle, keeping, stamps, structure, survey
from llmc_build.snapshot.selection import selected
from llmc_build.subgraph import SubGraph

ENVIRON = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "MODE": "0"}

WORKFLOWS = """\
name: root
steps:
  - {name: root, command: echo root, output: r}
---
name: a
order: dataflow
steps:
  - {name: value, command: 'echo "value {{root.root}}"'}
  - {name: input, command: 'cat notes.txt', inputs: [notes.txt]}
  - {name: word, command: 'cat word.txt || echo none'}
  - {name: globs, command: 'cat src/*.txt', inputs: ['src/*.txt']}
  - {name: folder, command: 'ls src', inputs: [src]}
  - {name: writes, command: 'echo 1 > made.txt', outputs: [made.txt]}
  - {name: big, command: 'yes | head -n 5000'}
  - {name: env, command: 'echo $MODE', env: [MODE]}
  - {name: no, command: 'echo never', if: "'x' in {{a.value}}"}
---
name: b
steps:
  - {name: first, command: 'echo "first {{a.big}}" | wc -c'}
  - {name: second, command: 'echo "second {{b.first}}"', output: v}
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that was built, and in which nothing is fresh any more."""
    (tmp_path / "workflow.yaml").write_text(WORKFLOWS)
    (tmp_path / "llmc.yaml").write_text("jobs: 2\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "1.txt").write_text("one\n")
    (tmp_path / "notes.txt").write_text("notes\n")
    monkeypatch.chdir(tmp_path)
    assert build(tmp_path).ok
    settle(tmp_path)
    return tmp_path


def build(root: Path, *targets: str, environ: dict[str, str] = ENVIRON) -> BuildReport:
    return api.build([root / "workflow.yaml"], workspace=root, jobs=2, environ=environ, targets=targets)


def settle(root: Path) -> None:
    """Takes a snapshot in which nothing is fresh."""
    time.sleep(stamps.TICK_NS / 1e9 * 2)
    (root / ".llmc/state").rename(root / ".llmc/old")
    shutil.rmtree(root / ".llmc/old")
    assert build(root).counts["ran"] == 0
    assert is_up_to_date()


def is_up_to_date(*words: str, environ: dict[str, str] = ENVIRON) -> bool:
    return quick.build(["build", "workflow.yaml", *words], environ) == 0


def looked_at(report: BuildReport) -> set[str]:
    return {target.target for target in report.news}


def ran(report: BuildReport) -> set[str]:
    return {target.target for target in report.targets if target.status is State.RAN}


@pytest.mark.parametrize(
    ("words", "environ", "is_right"),
    [
        (["-j", "10000", "-q"], {"LLMC_JOBS": "3", "LLMC_MEMORY": "800 MB"}, True),
        (["-j", "0"], {}, False),
        (["-j", "99999"], {}, False),
        (["-j", "9" * 5000], {}, False),
        (["-j", "\N{ARABIC-INDIC DIGIT THREE}"], {}, False),
        (["--target=", "a.*"], {}, False),
        ([], {"LLMC_JOBS": "10001"}, False),
        ([], {"LLMC_MEMORY": "x"}, False),
        ([], {"LLMC_MEMORY": "0"}, False),
        ([], {"LLMC_MEMORY": "4 iB"}, False),
        ([], {"LLMC_MEMORY": "999999999TiB"}, False),
        ([], {"LLMC_SUBPROCESS": "2"}, False),
    ],
)
def test_a_setting_that_is_not_surely_right_is_left_to_who_tells_what_is_wrong(
    workspace: Path, words: list[str], environ: dict[str, str], is_right: bool
) -> None:
    assert is_up_to_date(*words, environ={**ENVIRON, **environ}) == is_right


# ---------------------------------------------------------------- what is no snapshot


@pytest.mark.parametrize("words", [(), ("-t", "b.second"), ("-t", "a*.*")])
def test_a_snapshot_damaged_in_any_section_is_none_and_leaves_no_half_run(
    workspace: Path, words: tuple[str, ...]
) -> None:
    path = next((workspace / ".llmc/state").glob("snapshot-*"))
    whole = path.read_bytes()
    found = form.Snapshot.read(str(path))
    assert found is not None
    for name, (offset, length, _) in found._where.items():
        if length == 0:
            continue
        place = found._begin + offset + length // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        before = sorted((workspace / ".llmc/runs").iterdir())
        said = quick.build(["build", "workflow.yaml", *words], ENVIRON)
        if said is None:
            assert sorted((workspace / ".llmc/runs").iterdir()) == before, name
            keeping._handed.clear()
    path.write_bytes(whole)
    assert is_up_to_date(*words)


@pytest.mark.parametrize("line", [b"%x 0" % (1 << 60), b"-1 0", b"%x 0" % (1 << 40), b"1", b""])
def test_a_snapshot_whose_head_has_a_senseless_length_is_none(workspace: Path, line: bytes) -> None:
    """As much memory as it says can't be had."""
    path = next((workspace / ".llmc/state").glob("snapshot-*"))
    rest = path.read_bytes()[len(form.MAGIC) :].partition(b"\n")[2]
    path.write_bytes(form.MAGIC + line + b"\n" + rest)
    assert form.Snapshot.read(str(path)) is None
    assert quick.build(["build", "workflow.yaml"], ENVIRON) is None


NINE = b"[" + b"null," * 8 + b"null]"


@pytest.mark.parametrize(
    ("section", "content"),
    [
        *(("words", c) for c in (b'{".": [[1], []]}', b'{"/": [[], [], []]}', b"[]", b'{"x": 1}')),
        *(("cuts", c) for c in (b"[]", b"1", b'{"0": 1}', b'{"x": ["", []]}', b'{"9": ["", []]}', b'{"-1": ["", []]}')),
        *(("cuts", b'{"1": [%s, %s]}' % pair) for pair in ((b'""', NINE), (b"1", NINE), (b'""', NINE.replace(b"null", b"1")))),
        ("steps", b"x" * 16),
    ],
)  # fmt: skip
def test_a_snapshot_that_was_sealed_with_nonsense_costs_itself_and_no_build(
    workspace: Path, section: str, content: bytes
) -> None:
    path = next((workspace / ".llmc/state").glob("snapshot-*"))
    found = form.Snapshot.read(str(path))
    assert found is not None
    found.check()
    forged = form.Snapshot(found.facts, {**found._sections, section: content})
    path.write_bytes(b"".join(forged.encoded()))
    (workspace / "workflow.yaml").write_text(WORKFLOWS.replace("second {{", "third {{"))
    assert build(workspace).ok
    assert (workspace / ".llmc/out/b/second").read_text().startswith("third")
    assert build(workspace).counts["ran"] == 0


# ---------------------------------------------------------------- what is noticed


def edit(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


def same_size(name: str) -> Callable[[Path], object]:
    """Another content of the same size and mtime, written in place."""

    def change(root: Path) -> None:
        path = root / name
        was = path.stat()
        path.chmod(0o644)
        with path.open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

    return change


def replaced_by_link(name: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        (root / name).rename(root / "elsewhere")
        (root / name).symlink_to(root / "elsewhere")

    return change


def lose_blob(root: Path) -> None:
    next((root / ".llmc/cache/cas").glob("*/*")).unlink()


def spoil_blob(root: Path) -> None:
    same_size(str(next((root / ".llmc/cache/cas").glob("*/*")).relative_to(root)))(root)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a step": edit("workflow.yaml", WORKFLOWS.replace("echo root", "echo other")),
    "a new step": edit("workflow.yaml", WORKFLOWS + "  - {name: third, command: echo third}\n"),
    "an input": edit("notes.txt", "other\n"),
    "one byte of an input": same_size("notes.txt"),
    "an input that is gone": lambda root: (root / "notes.txt").unlink(),
    "a word that names a file now": edit("word.txt", "word\n"),
    "a file for a glob": edit("src/2.txt", "two\n"),
    "a file that a glob matched is gone": lambda root: (root / "src/1.txt").unlink(),
    "a file in a folder below": lambda root: ((root / "src/below").mkdir(), edit("src/below/x", "x")(root)),
    "a value that is gone": lambda root: (root / ".llmc/out/b/second").unlink(),
    "one byte of a value": same_size(".llmc/out/b/second"),
    "a value behind a link": replaced_by_link(".llmc/out/a/value"),
    "a value of a skipped step": edit(".llmc/out/a/no", "x"),
    "an output that is gone": lambda root: (root / "made.txt").unlink(),
    "a lost blob": lose_blob,
    "a spoilt blob": spoil_blob,
    "a lost index": lambda root: shutil.rmtree(root / ".llmc/cache/index"),
    "llmc.yaml": edit("llmc.yaml", "jobs: 1\n"),
    "no llmc.yaml": lambda root: (root / "llmc.yaml").unlink(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_noticed_at_once(workspace: Path, what: str) -> None:
    CHANGES[what](workspace)
    assert not is_up_to_date()


def test_a_variable_that_a_step_reads_is_noticed(workspace: Path) -> None:
    assert not is_up_to_date(environ={**ENVIRON, "MODE": "1"})
    assert ran(build(workspace, environ={**ENVIRON, "MODE": "1"})) == {"a.env"}
    assert is_up_to_date(environ={**ENVIRON, "MODE": "1", "OTHER": "x"})


def test_another_store_is_noticed(workspace: Path) -> None:
    assert not is_up_to_date(environ={**ENVIRON, "LLMC_CACHE_DIR": "elsewhere"})
    elsewhere = {**ENVIRON, "LLMC_CACHE_DIR": "elsewhere"}
    assert build(workspace, environ=elsewhere).ok
    assert not is_up_to_date()
    assert build(workspace).counts["ran"] == 0
    assert is_up_to_date()


@pytest.mark.parametrize("name", ["__version__", "version", "platform"])
def test_another_llmc_or_python_is_noticed(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import llmc_build

    monkeypatch.setattr(llmc_build if name == "__version__" else sys, name, "other")
    assert not is_up_to_date()


def test_installed_packages_are_noticed_where_models_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [str(site)])
    before = survey.packages()
    assert survey.packages() == before
    time.sleep(0.02)
    (site / "llama_cpp_python-9.dist-info").mkdir()
    assert survey.packages() != before


def test_touching_everything_runs_nothing(workspace: Path) -> None:
    for path in [*workspace.glob("*"), *workspace.glob("src/*"), *workspace.glob(".llmc/out/*/*")]:
        os.utime(path)
    report = build(workspace)
    assert report.counts["ran"] == 0
    assert report.ok
    settle(workspace)


# ---------------------------------------------------------------- what is looked at


def test_an_edit_looks_at_what_it_can_reach(workspace: Path) -> None:
    edit("workflow.yaml", WORKFLOWS.replace("echo $MODE", "echo mode $MODE"))(workspace)
    report = build(workspace)
    assert ran(report) == {"a.env"}
    assert looked_at(report) == {"a.env"}
    assert report.counts == {"total": 12, "ran": 1, "cached": 10, "failed": 0, "poisoned": 0, "skipped": 1,
                             "cancelled": 0}  # fmt: skip
    assert [t.target for t in report.targets if t.status is State.SKIPPED] == ["a.no"]
    assert is_up_to_date()


def test_an_equal_value_stops_the_change(workspace: Path) -> None:
    edit("workflow.yaml", WORKFLOWS.replace("yes | head", "yes  | head"))(workspace)
    report = build(workspace)
    assert ran(report) == {"a.big"}
    assert is_up_to_date()


def test_a_comment_looks_at_nothing(workspace: Path) -> None:
    edit("workflow.yaml", "# a comment\n" + WORKFLOWS.replace("---\nname: b", "---\n# b\nname: b"))(workspace)
    report = build(workspace)
    assert looked_at(report) == set()
    assert report.counts["total"] == 12
    assert is_up_to_date()


def test_a_lost_value_is_put_back_and_nothing_else_is_looked_at(workspace: Path) -> None:
    (workspace / ".llmc/out/root/root").unlink()
    report = build(workspace)
    assert looked_at(report) == {"root.root"}
    assert (report.counts["ran"], report.restored) == (0, 1)
    assert is_up_to_date()


def test_steps_that_were_not_asked_for_stay_to_be_done(workspace: Path) -> None:
    edit("workflow.yaml", WORKFLOWS.replace("echo root", "echo other"))(workspace)
    assert ran(build(workspace, "root")) == {"root.root"}
    assert is_up_to_date("-t", "root")
    assert not is_up_to_date()
    assert not is_up_to_date("-t", "a.value")
    assert ran(build(workspace)) == {"a.value"}
    assert is_up_to_date()


def test_a_step_that_is_gone_takes_its_value_along(workspace: Path) -> None:
    edit("workflow.yaml", WORKFLOWS.replace("  - {name: big, command: 'yes | head -n 5000'}\n", "").replace(
        "{{a.big}}", "{{a.value}}"))(workspace)  # fmt: skip
    assert build(workspace).counts["total"] == 11
    assert not (workspace / ".llmc/out/a/big").exists()


def test_a_workflow_that_is_asked_for_by_others_may_not_lose_what_they_read(workspace: Path) -> None:
    from llmc_build.errors import WorkflowError

    edit("workflow.yaml", WORKFLOWS.replace("name: root, command", "name: boot, command"))(workspace)
    with pytest.raises(WorkflowError, match=r"root\.root"):
        build(workspace)


def test_an_edit_that_closes_a_cycle_is_refused(workspace: Path) -> None:
    from llmc_build.errors import WorkflowError

    edit("workflow.yaml", WORKFLOWS.replace("command: echo root,", "command: echo root, needs: [b.second],"))(
        workspace
    )
    assert build(workspace).ok  # b comes after a.big only
    edit("workflow.yaml", WORKFLOWS.replace("command: echo root,", "command: echo root, needs: [a.value],"))(
        workspace
    )
    with pytest.raises(WorkflowError, match="wait for each other"):
        build(workspace)


def test_a_workflow_of_a_name_that_is_there_is_refused(workspace: Path) -> None:
    from llmc_build.errors import WorkflowError

    edit("workflow.yaml", WORKFLOWS + "---\nname: ROOT\nsteps: [{name: x, command: echo x}]\n")(workspace)
    with pytest.raises(WorkflowError, match="two workflows"):
        build(workspace)


# ---------------------------------------------------------------- the run and its record


def test_a_build_with_nothing_to_do_is_a_run_of_its_own(workspace: Path) -> None:
    import json

    runs = workspace / ".llmc/runs"
    before = len(list(runs.iterdir()))
    thorough = json.loads((runs / "latest/run.json").read_text())
    assert is_up_to_date()
    record = json.loads((runs / "latest/run.json").read_text())
    assert len(list(runs.iterdir())) == before + 1
    assert record["counts"] == thorough["counts"]
    assert record["contexts"] == thorough["contexts"]
    assert record["channels"] == thorough["channels"]
    assert {t["target"]: t["output"] for t in record["targets"]} == {
        t["target"]: t["output"] for t in thorough["targets"]
    }
    assert is_up_to_date("-t", "b.second")
    record = json.loads((runs / "latest/run.json").read_text())
    assert {t["target"] for t in record["targets"]} == {"a.big", "b.first", "b.second"}
    assert record["contexts"] == {"b": {"v": thorough["contexts"]["b"]["v"]}}


def test_idle_runs_do_not_push_out_the_others(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "KEPT", 3)
    runs = workspace / ".llmc/runs"
    with_logs = {p.name for p in runs.iterdir() if not p.is_symlink() and not (p / idle.MARK).exists()}
    for _ in range(6):
        time.sleep(0.002)
        assert is_up_to_date()
    left = {path.name for path in runs.iterdir() if not path.is_symlink()}
    assert with_logs <= left
    assert len(left - with_logs) <= 3 + 1


# ---------------------------------------------------------------- the file


def test_no_flipped_bit_of_a_snapshot_is_believed(workspace: Path) -> None:
    path = next((workspace / ".llmc/state").glob("snapshot-*"))
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        found = form.Snapshot.read(str(path))
        with pytest.raises(form.Damaged):
            if found is None:
                raise form.Damaged
            found.check()
    for part in range(20):
        path.write_bytes(whole[: len(whole) * part // 20])
        assert build(workspace).counts["ran"] == 0
    path.write_bytes(whole)
    assert is_up_to_date()


@pytest.mark.parametrize("content", [b"", b"llmc-snapshot/1\n", b"llmc-snapshot/1\nzz zz\n", b"\xff" * 99])
def test_what_is_no_snapshot_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    assert form.Snapshot.read(str(tmp_path / "s")) is None


def test_a_pipe_is_no_snapshot(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s")
    assert form.Snapshot.read(str(tmp_path / "s")) is None


@pytest.mark.parametrize("what", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
@pytest.mark.parametrize(
    "name", ["placed.json", "placed.journal", "state/last", "state/digests", "state/snapshot", ".gitignore"]
)
def test_what_stands_in_the_place_of_a_file_keeps_nobody_waiting(
    workspace: Path, name: str, what: Callable[[Path], None]
) -> None:
    """In a process of its own, for it would wait for ever."""
    paths = [workspace / ".llmc" / name]
    if name == "state/snapshot":
        paths = [*workspace.glob(".llmc/state/snapshot-*")]
    for path in paths:
        path.unlink(missing_ok=True)
        what(path)
    edit("workflow.yaml", WORKFLOWS.replace("echo 1 >", "echo 2 >"))(workspace)
    command = [sys.executable, "-m", "llmc_build", "build", "workflow.yaml"]
    for count in ("1 ran", "up to date"):
        found = subprocess.run(command, env=ENVIRON, capture_output=True, text=True, timeout=60, check=False)
        assert found.returncode == 0, found.stderr
        assert count in found.stderr
    assert (workspace / "made.txt").read_text() == "2\n"


def test_a_pipe_in_the_place_of_a_workflow_is_refused_also_by_the_quick_way(workspace: Path) -> None:
    (workspace / "workflow.yaml").unlink()
    os.mkfifo(workspace / "workflow.yaml")
    command = [sys.executable, "-m", "llmc_build", "build", "workflow.yaml"]
    found = subprocess.run(command, env=ENVIRON, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 2
    assert "is not a regular file" in found.stderr


def test_builds_in_one_process_leave_no_file_open(workspace: Path) -> None:
    def opened() -> list[str]:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return [os.readlink(link) for link in links if os.path.lexists(link)]

    before = opened()
    for number in range(3):
        edit("workflow.yaml", WORKFLOWS.replace("echo root", f"echo root {number}"))(workspace)
        assert build(workspace).ok
    assert [name for name in opened() if "snapshot" in name and name not in before] == []


def test_few_snapshots_are_kept(tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / f"{i}.yaml").write_text("name: w\nsteps: [{name: s, command: echo 1}]\n")
        assert api.build([tmp_path / f"{i}.yaml"], workspace=tmp_path, environ=ENVIRON).ok
    assert len(list((tmp_path / ".llmc/state").glob("snapshot-*"))) == keeping.KEPT
    assert keeping.last_files(str(tmp_path)) == [str(tmp_path / "6.yaml")]


# ---------------------------------------------------------------- stamps


def test_many_files_are_looked_at_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "MANY", 10)
    monkeypatch.setattr(stamps, "_cpus", lambda: 4)
    monkeypatch.setattr(stamps, "_may_fork", lambda: True)
    forks: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: (forks.append(1), fork())[1])
    names = [f"f{i}" for i in range(57)]
    for name in names[:-1]:
        (tmp_path / name).write_text(name)
    known = stamps.ctimes(str(tmp_path), names)
    assert known[-1] == -1
    assert stamps.moved(str(tmp_path), names, known) == []
    time.sleep(0.02)
    for i in (0, 13, 14, 55):
        (tmp_path / names[i]).write_text("x")
    (tmp_path / names[56]).write_text("new")
    (tmp_path / names[20]).unlink()
    assert stamps.moved(str(tmp_path), names, known) == [0, 13, 14, 20, 55, 56]
    assert len(forks) == 8


def test_a_process_that_dies_while_looking_leaves_its_part_to_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "MANY", 10)
    monkeypatch.setattr(stamps, "_cpus", lambda: 3)
    monkeypatch.setattr(stamps, "_may_fork", lambda: True)
    names = [f"f{i}" for i in range(40)]
    known = array("q", [-1]) * 40
    me, plain = os.getpid(), stamps._moved

    def dies(*args: object) -> list[int]:
        if os.getpid() != me:
            os._exit(9)
        return plain(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(stamps, "_moved", dies)
    (tmp_path / "f39").write_text("x")
    assert stamps.moved(str(tmp_path), names, known) == [39]


# ---------------------------------------------------------------- agreement with the thorough ways


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[str], list[Edge]]:
    count = draw(st.integers(1, 12))
    names = [f"w{draw(st.integers(0, 3))}.s{i}" for i in range(count)]
    pairs = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=25))
    edges = [
        Edge(producer=names[min(a, b)], target=names[max(a, b)], kind=kind, timeout_s=limit)
        for a, b in pairs
        if a != b
        for kind, limit in [draw(st.sampled_from([(EdgeKind.DATA, None), (EdgeKind.WAIT, 3.0)]))]
    ]
    return names, edges


@settings(max_examples=200, deadline=None)
@given(
    graph=graphs(),
    patterns=st.lists(st.sampled_from(["w0", "w1.s3", "w*", "*.s2", "w?.s[1-4]", "w2.*", "x"])),
)
def test_selection_is_that_of_the_graph(graph: tuple[list[str], list[Edge]], patterns: list[str]) -> None:
    from llmc_build.errors import NoSuchTarget

    names, edges = graph
    index = {name: i for i, name in enumerate(names)}
    into = [sorted({index[e.producer] for e in edges if e.target == name}) for name in names]
    paths = [name.replace(".", "/") for name in names]
    try:
        expected = set(ActionGraph(names, edges).select(patterns).order) if patterns else set()
    except NoSuchTarget:
        assert selected(paths, structure.lists_of(into), patterns) is None
        return
    found = selected(paths, structure.lists_of(into), patterns)
    assert found is not None
    assert {names[i] for i in found} == expected


@settings(max_examples=200, deadline=None)
@given(graph=graphs())
def test_a_subgraph_answers_like_the_graph(graph: tuple[list[str], list[Edge]]) -> None:
    names, edges = graph
    whole, part = by_networkx(names, edges), SubGraph(names, edges)
    assert part.order == whole.order
    assert part.producer_counts() == whole.producer_counts()
    assert part.heights() == whole.heights()
    assert part.limits == whole.limits
    assert all(set(part.consumers(n)) == set(whole.consumers(n)) for n in names)
    place = {name: i for i, name in enumerate(part.order)}
    assert all(place[e.producer] < place[e.target] for e in edges)


def by_networkx(names: list[str], edges: list[Edge]) -> ActionGraph:
    with mock.patch.object(graph_module, "FEW", 0):
        return ActionGraph(names, edges)


@settings(max_examples=200, deadline=None)
@given(graph=graphs(), back=st.booleans())
def test_few_targets_are_as_networkx_has_them(graph: tuple[list[str], list[Edge]], back: bool) -> None:
    """Cycles among them too."""
    names, edges = graph
    if back and edges:
        edges = [*edges, Edge(producer=edges[0].target, target=edges[0].producer, kind=EdgeKind.DATA)]
        with pytest.raises(errors.WorkflowError) as few:
            ActionGraph(names, edges)
        with pytest.raises(errors.WorkflowError) as many:
            by_networkx(names, edges)
        assert str(few.value) == str(many.value)
        return
    one, other = ActionGraph(names, edges), by_networkx(names, edges)
    assert one.order == other.order
    for name in names:
        assert [*one.consumers(name)] == [*other.consumers(name)]
        assert {*one.producers(name)} == {*other.producers(name)}
    assert one.producer_counts() == other.producer_counts()
    assert all(one.comes_after(a, b) == other.comes_after(a, b) for a in names for b in names)


def test_whatever_comes_or_goes_for_a_pattern_changes_a_folder_that_is_watched(tmp_path: Path) -> None:
    chance = random.Random(1)
    patterns = ["*.txt", "a/*.txt", "**/*.txt", "a/**", "*/x.txt", "a/*/c*", "a", "a/b", "x.txt", "**/b/*"]
    for serial in range(60):
        root = tmp_path / str(serial)
        (root / "a/b/c").mkdir(parents=True)
        for path in ("x.txt", "a/x.txt", "a/b/y.txt", "a/b/c/z.txt"):
            if chance.random() < 0.6:
                (root / path).write_text("")
        for pattern in patterns:
            folders = folders_of(str(root), pattern)
            before = {folder: sorted(os.listdir(folder)) for folder in folders if os.path.isdir(folder)}
            seen = files_of(root, pattern)
            place = root / chance.choice([".", "a", "a/b", "a/b/c", "new", "a/new"])
            made = not place.exists()
            place.mkdir(exist_ok=True)
            name = chance.choice(["x.txt", "q.txt", "c1"])
            if (place / name).exists():
                (place / name).unlink()
            else:
                (place / name).write_text("")
            after = {folder: sorted(os.listdir(folder)) for folder in folders if os.path.isdir(folder)}
            if files_of(root, pattern) != seen and not (pattern == "x.txt" and place == root / "."):
                assert after != before, (pattern, place, name)
            shutil.rmtree(place) if made else None


def files_of(root: Path, pattern: str) -> set[str]:
    """The files that an input names (`inputs.Inputs`)."""
    if not set("*?[") & set(pattern):
        place = root / pattern
        if place.is_dir():
            return {str(p) for p in place.rglob("*") if p.is_file()}
        return {str(place)} if place.exists() else set()
    return {p for p in glob.glob(pattern, root_dir=root, recursive=True) if (root / p).is_file()}


# ---------------------------------------------------------------- found from outside


@pytest.mark.parametrize(("before", "behind"), [("\ufeff", ""), ("", "...\n"), ("# a\r# b\n", "")])
def test_a_large_document_in_a_file_that_can_not_be_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, behind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = "".join(f"- {{name: s{i}, command: echo {i}}}\n" for i in range(100))
    for text in (steps, steps, steps.replace("echo 7}", "echo 7 x}")):
        (tmp_path / "workflow.yaml").write_text(f"{before}name: w\nsteps:\n{text}{behind}", newline="")
        report = build(tmp_path)
        assert (report.ok, len(report.targets)) == (True, 100)
    assert ran(report) == {"w.s7"}


MODES = """name: w
steps:
- name: mk
  command: 'printf "#!/bin/sh\\necho hi\\n" > made.sh; chmod +x made.sh'
  outputs: [made.sh]
- name: uses
  command: ./made.sh
- name: runs
  command: test -x ./run.sh && echo yes || echo no
  inputs: [run.sh]
"""


@pytest.mark.parametrize("edit", ["", "# a remark\n"])
def test_whether_a_file_may_be_executed_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: str
) -> None:
    """It is part of what a step is given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "workflow.yaml").write_text(MODES)
    assert build(tmp_path).ok
    settle(tmp_path)
    (tmp_path / "run.sh").chmod(0o644)
    (tmp_path / "made.sh").chmod(0o644)
    (tmp_path / "workflow.yaml").write_text(MODES + edit)
    assert not is_up_to_date()
    report = build(tmp_path)
    assert (report.ok, ran(report)) == (True, {"w.runs"})
    assert api.show("w.runs", workspace=tmp_path) == b"no\n"
    assert os.access(tmp_path / "made.sh", os.X_OK)
    assert build(tmp_path).counts["ran"] == 0


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_with_the_same_mtime_and_other_files_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    """As archives make it that are unpacked with a fixed time, and links that are switched."""
    monkeypatch.chdir(tmp_path)
    for number, names in ((1, "a"), (2, "ab")):
        (tmp_path / f"v{number}").mkdir()
        for name in names:
            (tmp_path / f"v{number}" / f"{name}.txt").write_text(name)
            os.utime(tmp_path / f"v{number}", ns=(10**18 + 1, 10**18 + 1))
    (tmp_path / "data").symlink_to("v1") if link else shutil.copytree(tmp_path / "v1", tmp_path / "data")
    (tmp_path / "workflow.yaml").write_text(
        "name: w\nsteps:\n"
        "- {name: glob, command: cat data/*.txt, inputs: ['data/*.txt']}\n"
        "- {name: word, command: cat data/b.txt 2>/dev/null || echo none}\n"
    )
    assert build(tmp_path).ok
    settle(tmp_path)
    if link:
        (tmp_path / "data").unlink()
        (tmp_path / "data").symlink_to("v2")
    else:
        (tmp_path / "data" / "b.txt").write_text("b")
        os.utime(tmp_path / "data", ns=(10**18 + 1, 10**18 + 1))
    assert not is_up_to_date()
    assert ran(build(tmp_path)) == {"w.glob", "w.word"}
    assert api.show("w.word", workspace=tmp_path) == b"b"


def test_the_values_of_a_workflow_that_is_gone_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it had outputs, so that everything is looked at."""
    monkeypatch.chdir(tmp_path)
    stays = "name: w\nsteps:\n- {name: a, command: echo 1}\n"
    goes = "---\nname: z\nsteps:\n- {name: a, command: echo 3 > f.txt, outputs: [f.txt]}\n"
    (tmp_path / "workflow.yaml").write_text(stays + goes)
    assert build(tmp_path).ok
    (tmp_path / "workflow.yaml").write_text(stays)
    assert build(tmp_path).ok
    assert [path.name for path in (tmp_path / ".llmc/out").rglob("*") if path.is_file()] == ["a"]
    assert not (tmp_path / "f.txt").exists()
    with pytest.raises(errors.NoSuchTarget):
        api.show("z.a", workspace=tmp_path)
