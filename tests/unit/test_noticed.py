"""What an incremental build must notice as a clean one would: things moved, removed, linked, changed meanwhile."""

from __future__ import annotations

import fcntl
import os
import shutil

import pytest

from llmc_build import api, quick
from llmc_build.errors import NoSuchTarget, UserError
from llmc_build.snapshot import keeping
from llmc_build.snapshot.doubt import Doubt
from tests.conftest import Space

HEAD = "# a remark\n"
A = '---\nname: a\nsteps: [{name: t, command: "cat x.txt"}]\n'
B = "---\nname: b\nsteps: [{name: t, command: echo b}]\n"


def test_documents_change_places_and_then_a_file_changes(space: Space) -> None:
    space.write("x.txt", "1")
    for text in (HEAD + A + B, A + B, B + A, A + HEAD + B):
        space.write("flow.yaml", text)
        space.build("flow.yaml")
        space.write("x.txt", f"{text[:5]}")
        space.build("flow.yaml")
        assert space.value("a.t") == text[:5]


@pytest.mark.parametrize("rest", ["", "---\n# name: b\n"])
def test_a_workflow_that_went_behind_a_remark_is_gone(space: Space, rest: str) -> None:
    space.write("x.txt", "1")
    space.write("flow.yaml", HEAD + A + B)
    space.build("flow.yaml")
    space.write("flow.yaml", HEAD + A + rest)
    assert [t.target for t in space.build("flow.yaml").targets] == ["a.t"]
    assert os.listdir(space.root / ".llmc/out") == ["a"]
    with pytest.raises(NoSuchTarget):
        space.build("flow.yaml", targets=["b"])


@pytest.mark.parametrize("text", [HEAD, None])
def test_a_file_without_a_workflow_is_refused_as_in_a_clean_build(space: Space, text: str | None) -> None:
    space.write("x.txt", "1")
    space.write("one.yaml", A)
    space.write("two.yaml", B)
    space.build("one.yaml", "two.yaml")
    (space.root / "two.yaml").unlink()
    if text is not None:
        space.write("two.yaml", text)
    with pytest.raises(UserError):
        space.build("one.yaml", "two.yaml")


@pytest.mark.parametrize("bad", [None, "bad\n"])
def test_an_output_is_put_right_before_what_reads_it_by_way_of_others(space: Space, bad: str | None) -> None:
    space.write(
        "flow.yaml",
        """
        name: w
        steps:
          - {name: a, outputs: [gen.txt], command: "f=gen; echo hi > $f.txt"}
          - {name: b, command: echo mid}
          - {name: c, inputs: [gen.txt], command: "cat g*"}
        """,
    )
    assert space.build("flow.yaml").ok
    (space.root / "gen.txt").unlink()
    if bad is not None:
        space.write("gen.txt", bad)
    assert space.build("flow.yaml").ok
    assert space.value("w.c") == space.read("gen.txt") == "hi\n"
    assert not space.ran


def test_a_file_that_changes_between_two_readers_is_read_again(space: Space) -> None:
    space.write("x.txt", "one")
    space.write(
        "flow.yaml",
        f"""
        name: w
        steps:
          - {{name: a, inputs: [x.txt], command: "cat x*"}}
          - {{name: b, command: "printf two > {space.root}/x.txt"}}
          - {{name: c, inputs: [x.txt], command: "cat x*; :"}}
        """,
    )
    space.build("flow.yaml")
    assert (space.value("w.a"), space.value("w.c")) == ("one", "two")
    space.build("flow.yaml")
    assert (space.value("w.a"), space.value("w.c")) == ("two", "two")


def test_a_file_that_changes_during_a_build_in_part_is_news_to_the_others(space: Space) -> None:
    space.write("x.txt", "one")
    space.write("y.txt", "1")
    space.write(
        "flow.yaml",
        f"""
        name: v
        steps: [{{name: other, inputs: [x.txt], command: "cat x*"}}]
        ---
        name: w
        steps:
          - {{name: a, inputs: [y.txt], command: "grep -q 1 y* || printf two > {space.root}/x.txt"}}
          - {{name: c, inputs: [x.txt, y.txt], command: "cat x* y*"}}
        """,
    )
    space.build("flow.yaml")
    space.write("y.txt", "2")
    space.build("flow.yaml")
    assert space.value("w.c") == "two2"
    space.build("flow.yaml")
    assert space.value("v.other") == "two"


def test_a_file_that_comes_into_a_glob_during_a_build_in_part_is_news_to_the_others(space: Space) -> None:
    space.write("in/1.txt", "1")
    space.write("y.txt", "1")
    space.write(
        "flow.yaml",
        f"""
        name: v
        steps: [{{name: other, inputs: ["in/*.txt"], command: "ls in"}}]
        ---
        name: w
        steps:
          - name: a
            inputs: [y.txt, "in/*.txt"]
            command: "grep -q 1 y* || touch {space.root}/in/2.txt"
        """,
    )
    space.build("flow.yaml")
    space.write("y.txt", "2")
    space.build("flow.yaml")
    space.build("flow.yaml")
    assert space.value("v.other") == "1.txt\n2.txt\n"


@pytest.mark.parametrize(
    ("link", "to", "inputs", "command"),
    [
        ("in/z.txt", "../ext/late.txt", 'inputs: ["in/*.txt"], ', "cat in/*"),
        ("n.txt", "ext/late.txt", "", "cat n.txt || echo none"),
        ("in/d", "../ext", 'inputs: ["in/*/*.txt", y.txt], ', "cat in/d/late.txt || echo none"),
    ],
)
def test_a_link_to_nothing_comes_to_life(space: Space, link: str, to: str, inputs: str, command: str) -> None:
    space.write("in/o.txt", "one ")
    space.write("y.txt", "1")
    (space.root / link).symlink_to(to)
    space.write("flow.yaml", f'name: w\nsteps: [{{name: s, {inputs}command: "{command}"}}]\n')
    space.build("flow.yaml")
    space.write("ext/late.txt", "two")
    space.build("flow.yaml")
    assert space.value("w.s").endswith("two")


def test_outputs_of_a_file_that_is_a_link_go_when_they_are_not_declared_any_more(space: Space) -> None:
    text = """
        name: w
        steps:
          - {name: a, inputs: [x.txt], outputs: [gen.txt], command: "f=gen; cat x* > $f.txt"}
        """
    space.write("flows/real.yaml", text)
    (space.root / "flow.yaml").symlink_to("flows/real.yaml")
    for content in ("1", "2"):
        space.write("x.txt", content)
        space.build("flow.yaml")
    space.write("flows/real.yaml", text.replace("outputs: [gen.txt], ", ""))
    space.build("flow.yaml")
    assert not (space.root / "gen.txt").exists()


def test_an_output_that_becomes_a_prompt_file_is_refused_as_in_a_clean_build(space: Space) -> None:
    text = """
        name: v
        steps: [{name: o, outputs: [p.md], command: "f=p; echo hi > $f.md"}]
        ---
        name: w
        steps: [{name: s, if: "'x' == 'y'", type: llm, model: m, prompt: hi}]
        """
    space.write("flow.yaml", text)
    assert space.build("flow.yaml").ok
    space.edit("flow.yaml", "prompt: hi", "prompt_file: p.md")
    with pytest.raises(UserError, match=r"p\.md"):
        space.build("flow.yaml")


@pytest.mark.parametrize(
    "step",
    [
        '{name: s, inputs: ["**/*.md"], command: "ls"}',
        "{name: s, if: \"'x' == 'y'\", inputs: [y.md], command: ls}",
    ],
)
def test_nothing_to_do_is_seen_from_the_snapshot(space: Space, step: str) -> None:
    space.write("y.md", "1")
    space.write("flow.yaml", f"name: w\nsteps: [{step}]\n")
    os.utime(space.root, (1_000_000_000, 1_000_000_000))
    space.build("flow.yaml")
    space.build("flow.yaml")
    survey = keeping.survey(
        str(space.root),
        [str(space.root / "flow.yaml")],
        config=None,
        cache_dir=str(space.root / ".llmc/cache"),
        environ=space.environ,
    )
    assert survey is not None
    assert survey.whole is None
    flags = survey.snapshot.section("flags")
    assert all(flags), "a target that is to be looked at"


@pytest.mark.parametrize("how", ["interrupted", "died", "no cache"])
def test_what_an_unfinished_build_placed_goes_when_its_edit_is_undone(
    space: Space, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    first = "name: w\nsteps:\n  - {name: a, command: echo a}\n"
    more = '  - {name: b, outputs: [gen.txt], command: "n=gen; echo 2 > $n.txt"}\n'
    end = '  - {name: c, command: "kill -INT $PARENT; sleep 5"}\n' if how == "interrupted" else ""
    space.write("flow.yaml", first)
    space.build("flow.yaml")
    space.write("flow.yaml", first + more + end.replace("$PARENT", str(os.getpid())))
    if how == "died":
        with monkeypatch.context() as patch, pytest.raises(MemoryError):

            def die(*args: object) -> None:
                raise MemoryError

            patch.setattr(keeping, "keep", die)
            space.build("flow.yaml")
    else:
        space.build("flow.yaml", no_cache=how == "no cache")
    assert (space.root / "gen.txt").exists()
    space.write("flow.yaml", first)
    space.build("flow.yaml")
    assert not (space.root / "gen.txt").exists()
    assert os.listdir(space.root / ".llmc/out/w") == ["a"]
    assert not list((space.root / ".llmc/state").glob("doubt-*"))


def test_a_file_that_was_something_else_for_a_while_makes_no_record(space: Space) -> None:
    """Its bytes are what they were when the key was made, and the step read others."""
    space.write("x.txt", "A")
    space.write(
        "flow.yaml",
        f"""
        name: w
        order: dataflow
        steps:
          - {{name: a, command: "printf B > {space.root}/x.txt; sleep 0.2"}}
          - {{name: b, inputs: [x.txt], command: "cat x*; printf A > {space.root}/x.txt"}}
        """,
    )
    space.build("flow.yaml", jobs=1)
    assert space.value("w.b") == "B"
    assert space.of("w.b").warnings
    space.build("flow.yaml", jobs=1)
    assert space.value("w.b") == "A"


def test_an_output_that_became_a_link_is_a_file_again(space: Space) -> None:
    space.write(
        "flow.yaml", 'name: w\nsteps: [{name: a, outputs: [gen.txt], command: "f=gen; echo hi > $f.txt"}]\n'
    )
    space.build("flow.yaml")
    (space.root / "gen.txt").rename(space.root / "other.txt")
    (space.root / "gen.txt").symlink_to("other.txt")
    space.build("flow.yaml")
    assert not (space.root / "gen.txt").is_symlink()
    assert space.read("gen.txt") == "hi\n"


def test_a_workflow_file_behind_a_link_and_two_dots_is_the_one_that_the_system_opens(space: Space) -> None:
    flow = "name: w\nsteps: [{{name: s, command: echo {0}}}]\n"
    space.write("here/flow.yaml", flow.format("here"))
    space.write("else/flow.yaml", flow.format("else"))
    (space.root / "else/sub").mkdir()
    (space.root / "here/link").symlink_to("../else/sub")
    for file, value in (("here/link/../flow.yaml", "else"), ("here/flow.yaml", "here")) * 2:
        for _ in range(2):
            space.build(file)
            assert space.value("w.s") == f"{value}\n"
    space.build("here/flow.yaml", "else/../here/flow.yaml")
    assert space.value("w.s") == "here\n"


OUTPUTS = """
name: w
steps:
  - {name: a, command: echo a}
  - {name: o, outputs: [o.gen, d/p.gen], command: "mkdir d; f=o; echo o > $f.gen; echo p > d/p.gen"}
"""


@pytest.mark.parametrize("found", [None, "", "x", "[]"])
@pytest.mark.parametrize("idle", [False, True])
def test_outputs_of_a_step_that_is_gone_go_though_the_list_of_them_is_lost(
    space: Space, found: str | None, idle: bool
) -> None:
    space.write("workflow.yaml", OUTPUTS)
    space.build("workflow.yaml")
    (space.root / ".llmc/placed.json").unlink()
    if found is not None:
        space.write(".llmc/placed.json", found)
    if idle:
        assert quick.build(["build", "workflow.yaml"], space.environ) is None
        keeping._handed.clear()
        assert space.build("workflow.yaml").counts["cached"] == 2
        assert "d/p.gen" in space.read(".llmc/placed.json")
        assert quick.build(["build", "workflow.yaml"], space.environ) == 0
    space.write("workflow.yaml", OUTPUTS.partition("  - {name: o")[0])
    space.build("workflow.yaml")
    assert not (space.root / "o.gen").exists()
    assert not (space.root / "d").exists()


def test_clean_removes_outputs_though_the_list_of_them_is_lost(space: Space) -> None:
    space.write("workflow.yaml", OUTPUTS)
    space.build("workflow.yaml")
    space.write("d/p.gen", "mine\n")
    (space.root / ".llmc/placed.json").unlink()
    assert api.clean(workspace=space.root) == ["d/p.gen"]
    assert not (space.root / "o.gen").exists()


def test_a_workflow_that_came_in_a_build_in_part_goes_though_the_state_is_lost(space: Space) -> None:
    space.write("x.txt", "1")
    space.write("flow.yaml", A)
    space.build("flow.yaml")
    space.write("flow.yaml", A + B)
    space.build("flow.yaml")
    shutil.rmtree(space.root / ".llmc/state")
    space.write("flow.yaml", A)
    space.build("flow.yaml")
    with pytest.raises(NoSuchTarget):
        space.value("b.t")


def test_a_mark_that_nobody_holds_goes_whoever_has_its_number_now(space: Space) -> None:
    space.write("workflow.yaml", OUTPUTS)
    space.build("workflow.yaml")
    state = space.root / ".llmc/state"
    name = next(state.glob("snapshot-*")).name
    for number in ("1", "1-2"):  # as old versions wrote them, too
        (state / f"doubt-{name}.{number}").touch()
        assert quick.build(["build", "workflow.yaml"], space.environ) is None
        assert len(space.build("workflow.yaml").looked_at or ()) == 2
        assert not list(state.glob("doubt-*"))
        assert quick.build(["build", "workflow.yaml"], space.environ) == 0


def test_a_mark_that_somebody_holds_stays(space: Space) -> None:
    space.write("workflow.yaml", OUTPUTS)
    space.build("workflow.yaml")
    state = space.root / ".llmc/state"
    mark = state / f"doubt-{next(state.glob('snapshot-*')).name}.4194305-1"  # no process has that number
    with mark.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        space.build("workflow.yaml")
        assert mark.exists()
        assert quick.build(["build", "workflow.yaml"], space.environ) is None
        keeping._handed.clear()
    space.build("workflow.yaml")
    assert not list(state.glob("doubt-*"))


def test_what_a_build_of_some_files_left_is_known_to_a_build_of_more(space: Space) -> None:
    """The edit that asked for it was undone before all of them were built again."""
    more = "  - {name: more, outputs: [more.gen], command: echo more > more.gen}\n"
    space.write("one.yaml", OUTPUTS)
    space.write("two.yaml", "name: two\nsteps: [{name: s, command: echo s}]\n")
    space.build("one.yaml", "two.yaml")
    for text in (OUTPUTS + more, OUTPUTS, OUTPUTS + more):
        space.write("one.yaml", text)
        space.build("one.yaml")
    assert (space.root / "more.gen").exists()
    assert len(list((space.root / ".llmc/state").glob("doubt-*"))) == 1
    space.write("one.yaml", OUTPUTS)
    assert quick.build(["build", "one.yaml", "two.yaml"], space.environ) is None
    keeping._handed.clear()
    space.build("one.yaml", "two.yaml")
    assert not (space.root / "more.gen").exists()
    assert not (space.root / ".llmc/out/w/more").exists()
    assert quick.build(["build", "one.yaml", "two.yaml"], space.environ) == 0
    space.build("two.yaml")
    assert quick.build(["build", "one.yaml", "two.yaml"], space.environ) == 0


def test_an_output_that_the_store_has_otherwise_by_now_is_taken_from_there(space: Space) -> None:
    """Another workspace ran the step again, and something else came of it: as a clean build would show."""
    flow = """
        name: w
        steps:
          - {name: o, outputs: [o.gen], command: "date +%s%N > o.gen; echo done"}
          - {name: r, inputs: [o.gen], command: "cat o*"}
        """
    other = Space(space.root / "other")
    for at in (space, other):
        at.write("llmc.yaml", f"cache_dir: {space.root}/store\n")
        at.write("flow.yaml", flow)
    space.build("flow.yaml")
    other.build("flow.yaml", force=True)
    space.build("flow.yaml")
    assert space.read("o.gen") == space.value("w.r") == other.read("o.gen")
    assert not space.ran


@pytest.mark.parametrize("mode", [0o654, 0o645])
def test_an_output_is_as_executable_as_it_was_written(space: Space, mode: int) -> None:
    """For root, what anybody may execute is executable."""
    flow = "name: w\nsteps: [{name: o, outputs: [o.gen], command: 'echo 1 > o.gen'}, "
    flow += "{name: r, inputs: [o.gen], command: 'test -x o* && echo yes; :'}]\n"
    space.write("flow.yaml", flow)
    space.build("flow.yaml")
    for path in (space.root / "o.gen", space.root / ".llmc/out/w/r"):
        path.chmod(mode)
        space.build("flow.yaml")
        assert not path.stat().st_mode & 0o111
        assert space.value("w.r") == ""


@pytest.mark.parametrize(
    "first", ["the one that places", "the one that takes away", "the one that is killed"]
)
def test_builds_side_by_side_leave_doubt_where_one_takes_away_what_the_other_places(
    space: Space, first: str
) -> None:
    """The other began before the edit, and does not know that it builds what is gone."""
    space.write("workflow.yaml", OUTPUTS)
    space.build("workflow.yaml")
    asked = str(space.root), [str(space.root / "workflow.yaml")]
    places = Doubt(*asked)
    if first == "the one that is killed":
        places.mark()
    takes = Doubt(*asked)
    takes.mark()
    if first == "the one that is killed":
        places.close()
        places = takes
    for one in dict.fromkeys((places, takes) if first == "the one that places" else (takes, places)):
        one.settle(None)
        one.close()
    assert list((space.root / ".llmc/state").glob("doubt-*"))
    space.write(".llmc/out/w/gone", "what was placed meanwhile")
    assert quick.build(["build", "workflow.yaml"], space.environ) is None
    keeping._handed.clear()
    space.build("workflow.yaml")
    assert not (space.root / ".llmc/out/w/gone").exists()
    assert not list((space.root / ".llmc/state").glob("doubt-*"))
    assert quick.build(["build", "workflow.yaml"], space.environ) == 0
