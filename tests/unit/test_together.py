"""What happens in a workspace while a build is at work there: files that come, other builds, failures halfway."""

from __future__ import annotations

import errno
import json
import shutil
import sys

import pytest

from llmc_build.errors import NoSuchTarget
from tests.conftest import Space


def test_a_file_that_comes_during_a_build_is_seen_by_the_next(space: Space) -> None:
    """Also by a step that this build had no reason to look at."""
    space.write("in.txt", "1\n")
    space.write(
        "flow.yaml",
        f"""
        name: w
        order: dataflow
        steps:
          - {{name: word, command: "test -f opt.txt && cat opt.txt; true"}}
          - {{name: other, command: "cat in.txt; test $(cat in.txt) = 1 || echo hello > {space.root}/opt.txt"}}
        """,
    )
    space.build("flow.yaml")
    space.write("in.txt", "2\n")
    space.build("flow.yaml")
    space.build("flow.yaml")
    assert space.value("w.word") == "hello\n"


def test_a_value_that_is_overwritten_during_a_build_is_put_right_by_the_next(space: Space) -> None:
    space.write(
        "flow.yaml",
        f"""
        name: w
        steps:
          - {{name: one, command: echo right}}
          - {{name: two, command: "sleep 0.1; echo wrong > {space.root}/.llmc/out/w/one"}}
        """,
    )
    space.build("flow.yaml")
    space.build("flow.yaml")
    assert space.value("w.one") == "right\n"


def test_builds_in_one_workspace_keep_each_others_list_of_outputs(space: Space) -> None:
    space.write("b.yaml", "name: b\nsteps: [{name: s, command: echo B > b.out, outputs: [b.out]}]\n")
    inner = f"cd {space.root} && {sys.executable} -m llmc_build build -q b.yaml"
    space.write(
        "a.yaml",
        f"""
        name: a
        steps: [{{name: s, command: "echo A > a.out; ({inner})", outputs: [a.out]}}]
        """,
    )
    report = space.build("a.yaml")
    assert report.exit_code == 0
    listed = json.loads((space.root / ".llmc/placed.json").read_text())
    assert {path for placed in listed.values() for path in placed} == {"a.out", "b.out"}
    space.write("b.yaml", "name: b\nsteps: [{name: t, command: echo C}]\n")
    space.build("b.yaml")
    assert not (space.root / "b.out").exists()
    assert (space.root / "a.out").exists()


def test_outputs_are_written_down_on_a_file_system_without_locks(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", none)
    space.write("flow.yaml", "name: w\nsteps: [{name: s, command: echo 1 > x.txt, outputs: [x.txt]}]\n")
    assert space.build("flow.yaml", no_cache=True).exit_code == 0
    assert "x.txt" in (space.root / ".llmc/placed.json").read_text()


def test_outputs_of_a_step_that_could_not_be_placed_whole_go(space: Space) -> None:
    space.write("d/mine", "of the user")
    space.write(
        "flow.yaml",
        """
        name: w
        order: dataflow
        steps: [{name: s, command: echo 1 > x.txt; echo 2 > d, outputs: [x.txt, d]}]
        """,
    )
    report = space.build("flow.yaml")
    assert report.exit_code == 1
    assert not (space.root / "x.txt").exists()
    assert (space.root / "d/mine").exists()
    assert json.loads((space.root / ".llmc/placed.json").read_text()) == {}


def test_an_output_is_no_input_under_another_name_either(space: Space) -> None:
    space.write("gen/u.txt", "u")
    (space.root / "al").symlink_to("gen")
    (space.root / "alias.txt").symlink_to("gen/x.txt")
    text = """
        name: w
        steps:
          - {name: list, command: ls al, inputs: ["al/*.txt"]}
          - {name: word, command: "cat alias.txt; true"}
          - {name: make, command: mkdir -p gen; echo 1 > gen/x.txt, outputs: [gen/x.txt]}
        """
    for _ in range(2):
        space.write("flow.yaml", text)
        space.build("flow.yaml")
        assert (space.value("w.list"), space.value("w.word")) == ("u.txt\n", "")
        text += "    # again\n"


def test_a_former_output_that_a_step_asks_for_by_name_stays(space: Space) -> None:
    """Somebody froze a generated file: it is a source now, also where it holds what was generated."""
    asks = "{name: g, command: cat x.txt, inputs: [x.txt]}"
    space.write(
        "flow.yaml",
        f"""
        name: w
        steps:
          - {{name: p, command: echo 1 > x.txt; echo 2 > y.txt, outputs: [x.txt, y.txt]}}
          - {asks}
        """,
    )
    space.build("flow.yaml")
    space.write("flow.yaml", f"name: w\nsteps:\n  - {asks}\n")
    report = space.build("flow.yaml")
    assert report.exit_code == 0
    assert space.value("w.g") == "1\n"
    assert not (space.root / "y.txt").exists()


def test_what_a_step_in_the_workspace_wrote_before_is_not_its_output_again(space: Space) -> None:
    text = "name: w\nsteps: [{{name: s, sandbox: false, command: {}, outputs: [x.txt]}}]\n"
    space.write("flow.yaml", text.format("echo one >> x.txt"))
    for _ in range(2):
        assert space.build("flow.yaml").exit_code == 0
        assert space.read("x.txt") == "one\n"
    space.write("flow.yaml", text.format('"true"'))
    assert space.build("flow.yaml").exit_code == 1


def test_a_folder_that_an_unsandboxed_step_writes_into_stays_for_it(space: Space) -> None:
    space.write(
        "flow.yaml",
        """
        name: w
        defaults: {sandbox: false}
        steps:
          - {name: folder, command: mkdir -p out/deep}
          - {name: file, command: echo x > out/deep/x, outputs: [out/deep/x]}
        """,
    )
    for _ in range(3):
        assert space.build("flow.yaml").exit_code == 0
        assert space.read("out/deep/x") == "x\n"


@pytest.mark.parametrize("gone", ["its document", "its file"])
def test_values_of_a_workflow_that_is_gone_go_though_the_state_was_removed(space: Space, gone: str) -> None:
    one, other = (
        "name: a\nsteps: [{name: s, command: echo 1}]\n",
        "name: b\nsteps: [{name: s, command: echo 2}]\n",
    )
    files = ["a.yaml"] if gone == "its document" else ["a.yaml", "b.yaml"]
    space.write("a.yaml", f"{one}---\n{other}" if gone == "its document" else one)
    space.write("b.yaml", other)
    space.build(*files)
    assert space.value("b.s") == "2\n"
    space.write("a.yaml", one)
    (space.root / "b.yaml").unlink()
    shutil.rmtree(space.root / ".llmc/state")
    space.build("a.yaml")
    with pytest.raises(NoSuchTarget):
        space.value("b.s")


@pytest.mark.parametrize(
    "change", ["looks at everything", "the step is gone", "the step fails", "the workflow is gone"]
)
def test_nothing_is_removed_through_a_link_in_the_place_of_values(space: Space, change: str) -> None:
    text = "name: w\nsteps: [{name: s, command: echo 1}, {name: t, command: echo 2}]\n"
    other = "---\nname: v\nsteps: [{name: s, command: echo 3}]\n"
    space.write("flow.yaml", text + other)
    space.build("flow.yaml")
    space.write("precious/file", "keep")
    space.write("precious/s", "keep")
    shutil.rmtree(space.root / ".llmc/out/w")
    (space.root / ".llmc/out/w").symlink_to(space.root / "precious")
    if change == "the step is gone":
        space.edit("flow.yaml", "{name: s, command: echo 1}, ", "")
    elif change == "the step fails":
        space.edit("flow.yaml", "echo 1", '"false"')
    elif change == "the workflow is gone":
        space.write("flow.yaml", other.removeprefix("---\n"))
    shutil.rmtree(space.root / ".llmc/state")
    space.build("flow.yaml")
    assert space.read("precious/file") == "keep"
    assert space.read("precious/s") == "keep"
