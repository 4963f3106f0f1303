"""Names, edges and cycles: what each reference means, and what is said of one that means nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmc_build import workflow
from llmc_build.errors import NoSuchTarget, WorkflowError
from llmc_build.graph import ActionGraph
from llmc_build.model import EdgeKind, Workflow
from llmc_build.reading import load_program
from llmc_build.resolve import Program, resolve, resolve_all, resolve_and_release


def program(text: str) -> Program:
    return resolve(workflow.parse(textwrap.dedent(text).lstrip("\n").encode(), "flow.yaml"))


def graph(text: str) -> ActionGraph:
    found = program(text)
    return ActionGraph(tuple(found.targets), found.edges)


def edges(found: Program, kind: EdgeKind) -> set[tuple[str, str]]:
    return {(e.producer, e.target) for e in found.edges if e.kind is kind}


def complaint(text: str) -> str:
    with pytest.raises(WorkflowError) as error:
        found = program(text)
        ActionGraph(tuple(found.targets), found.edges)
    return error.value.render()


def test_a_variable_is_that_of_the_nearest_earlier_step() -> None:
    found = program("""
        name: w
        steps:
          - {name: a, command: echo a, output: x}
          - {name: b, command: echo b, output: x}
          - {name: c, command: 'echo {{x}}'}
          - {name: d, command: echo d, output: x}
    """)
    assert edges(found, EdgeKind.DATA) == {("w.b", "w.c")}
    assert edges(found, EdgeKind.ORDER) == {("w.a", "w.b"), ("w.b", "w.c"), ("w.c", "w.d")}


def test_in_a_dataflow_workflow_a_variable_is_that_of_the_one_step_that_sets_it() -> None:
    found = program("""
        name: w
        order: dataflow
        steps:
          - {name: c, command: 'echo {{x}}'}
          - {name: a, command: echo a, output: x}
    """)
    assert edges(found, EdgeKind.DATA) == {("w.a", "w.c")}
    assert edges(found, EdgeKind.ORDER) == set()


def test_a_step_or_a_variable_of_another_workflow_can_be_named() -> None:
    """Files of the original program name either."""
    found = program("""
        name: p
        steps:
          - {name: first, command: echo 1, output: draft}
          - {name: last, command: echo 2, output: final_output}
        ---
        name: c
        steps:
          - {name: s, command: 'echo {{p.final_output}} {{p.first}}', wait_for: p.final_output, wait_timeout: 10}
    """)
    assert edges(found, EdgeKind.DATA) == {("p.last", "c.s"), ("p.first", "c.s")}
    assert edges(found, EdgeKind.WAIT) == {("p.last", "c.s")}


def test_constants_are_values_too_and_equal_ones_share_a_slot() -> None:
    found = program("""
        name: w
        vars: {who: World, also: World}
        steps: [{name: a, command: 'echo {{who}} {{also}} {{ who | raw }}'}]
    """)
    (use,) = found.targets["w.a"].action.values
    assert (use.slot, use.constant, use.producer) == ("v0", "World", None)


def test_the_names_of_references_do_not_reach_the_action() -> None:
    def action(step: str, variable: str) -> object:
        return (
            program(f"""
            name: w
            steps:
              - {{name: {step}, command: echo a, output: {variable}}}
              - {{name: z, command: 'echo "{{{{{variable}}}}}" and {{{{w.{step}}}}}'}}
        """)
            .targets["w.z"]
            .action
        )

    assert action("a", "x") == action("other", "elsewhere")


def test_every_fault_is_found_in_one_pass_each_at_its_place() -> None:
    assert complaint("""
        name: w
        vars: {mode: fast}
        steps:
          - name: a
            command: echo {{summry}}
            output: summary
            if: "{{Mode}} == 'fast'"
          - name: b
            command: |
              echo hello
              echo {{ sumary }} {{ later }}
          - name: c
            command: echo {{ x.y }} {{w.aa}}
            output: later
            wait_for: [w.z, nobody.s]
            needs: d
    """) == textwrap.dedent("""\
        flow.yaml:5:19: step "a" refers to "summry", which nothing defines
            hint: known here: mode
        flow.yaml:7:10: step "a" refers to "Mode", which nothing defines
            hint: did you mean "mode"? (names are case-sensitive)
        flow.yaml:11:12: step "b" refers to "sumary", which nothing defines
            hint: did you mean "summary"?
        flow.yaml:11:25: step "b" refers to "later", which only a later step sets
            set by: c at flow.yaml:12:5
            hint: move that step up, or say `order: dataflow` in the workflow
        flow.yaml:13:19: step "c" refers to "x.y", which does not exist
            hint: nothing here is named "x": if it is a workflow of another file, name that file, too
        flow.yaml:13:29: step "c" refers to "w.aa", which does not exist
            hint: did you mean "w.a"?
        flow.yaml:15:16: step "c" waits for "w.z", which does not exist
            hint: workflow w has the steps a, b, c
        flow.yaml:15:21: step "c" waits for "nobody.s", which does not exist
            hint: nothing here is named "nobody": if it is a workflow of another file, name that file, too
        flow.yaml:16:12: step "c" needs "d", which does not exist""")


def test_a_cycle_over_waits_data_and_order_across_workflows_is_printed_whole() -> None:
    assert (
        complaint("""
        name: a
        steps:
          - {name: one, command: echo 1, wait_for: b.two}
          - {name: two, command: echo 2}
        ---
        name: b
        steps:
          - {name: one, command: 'echo {{a.two}}'}
          - {name: two, command: echo 2}
    """)
        == textwrap.dedent("""\
        flow.yaml:3:44: these steps wait for each other: a.one -> a.two -> b.one -> b.two -> a.one
            a.two after a.one: order edge, order of the steps
            b.one after a.two: data edge, flow.yaml:8:32
            b.two after b.one: order edge, order of the steps
            a.one after b.two: wait edge, flow.yaml:3:44
            hint: take one of these edges away; steps of a workflow also run in order unless it says `order: dataflow`""")
    )


def test_of_a_long_cycle_both_ends_are_told() -> None:
    steps = "\n".join(f"- {{name: s{i}, command: 'echo {{{{w.s{(i + 1) % 500}}}}}'}}" for i in range(500))
    text = complaint(f"name: w\norder: dataflow\nsteps:\n{steps}")
    assert "w.s0 -> w.s499 -> w.s498 -> " in text
    assert " -> (400 more) -> " in text
    assert sum(line.startswith("    w.s") for line in text.splitlines()) == 100


def test_two_steps_of_one_name_are_no_cycle(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("name: w\nsteps:\n- {name: a, command: x}\n- {name: a, command: x}\n")
    with pytest.raises(WorkflowError) as error:
        load_program([tmp_path / "w.yaml"], tmp_path)
    assert [fault.headline for fault in error.value.faults] == ['two steps of workflow "w" are named "a"']


def test_a_step_that_waits_for_itself_is_told_so() -> None:
    text = complaint("name: w\nsteps: [{name: s, command: echo, wait_for: w.s}]")
    assert text == 'flow.yaml:2:44: step "s" waits for itself'


def test_two_steps_that_write_one_file_are_refused() -> None:
    assert complaint("""
        name: w
        steps:
          - {name: a, command: echo, outputs: [out/x]}
          - {name: b, command: echo, outputs: [out/X]}
    """) == textwrap.dedent("""\
        flow.yaml:4:39: step "b" writes out/X, but step "w.a" writes out/x
            other: flow.yaml:3:39
            hint: a file has one step that writes it""")


def test_targets_are_named_by_step_workflow_and_glob_and_bring_what_they_need() -> None:
    dag = graph("""
        name: a
        steps: [{name: s, command: echo}, {name: t, command: echo}]
        ---
        name: ab
        steps: [{name: s, command: echo, needs: a.s}]
    """)
    assert dag.select(["a.s"]).order == ("a.s",)
    assert set(dag.select(["a"]).order) == {"a.s", "a.t"}
    assert set(dag.select(["ab"]).order) == {"ab.s", "a.s"}
    assert set(dag.select(["a*"]).order) == set(dag.order)
    assert set(dag.select(["*.s"]).order) == {"a.s", "ab.s"}


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("A.s", 'did you mean "a.s"? (names are case-sensitive)'),
        ("fetch", 'a target is written workflow.step: did you mean "a.fetch"?'),
        ("a.ftch", 'did you mean "a.fetch"?'),
        ("a.zzz", "workflow a has the steps s, fetch"),
        ("ax", 'did you mean "a"?'),
        ("bta.s", 'did you mean "beta.s"?'),
        ("bta", 'did you mean "beta"?'),
        ("zzz.*", "there are 3 targets in: a, beta"),
    ],
)
def test_a_pattern_that_matches_nothing_is_told_how_it_may_have_been_meant(pattern: str, hint: str) -> None:
    dag = graph("""
        name: a
        steps: [{name: s, command: echo}, {name: fetch, command: echo}]
        ---
        name: beta
        steps: [{name: s, command: echo}]
    """)
    with pytest.raises(NoSuchTarget) as caught:
        dag.select([pattern])
    assert caught.value.render() == f'no target matches "{pattern}"\n    hint: {hint}'


def test_two_workflows_of_one_name_are_told_once_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: w\nsteps: [{name: s, command: echo}]\n")
    (tmp_path / "b.yaml").write_text("name: W\nsteps: [{name: s, command: echo}]\n")
    (tmp_path / "c.yaml").write_text("name: w\nsteps: [{name: s, command: echo}]\n---\n" * 2)
    with pytest.raises(WorkflowError) as caught:
        load_program([tmp_path / "a.yaml", tmp_path / "b.yaml"], tmp_path)
    assert [fault.headline for fault in caught.value.faults] == ['workflow "W" is defined twice']
    with pytest.raises(WorkflowError) as caught:
        load_program([tmp_path / "c.yaml"], tmp_path)
    assert [fault.headline for fault in caught.value.faults] == ['two workflows of this file are named "w"']


def test_a_chain_of_ten_thousand_and_a_step_with_ten_thousand_consumers_need_no_recursion() -> None:
    chain = "\n".join(f"  - {{name: s{i}, command: echo}}" for i in range(10_000))
    found = program(f"name: w\nsteps:\n{chain}\n")
    dag = ActionGraph(tuple(found.targets), found.edges)
    assert dag.heights()["w.s0"] == 10_000
    assert len(dag.select(["w.s9999"])) == 10_000


# ---------------------------------------------------------------- a part of the workflows

PARTS = """
    name: a
    steps:
      - {name: one, command: echo 1, output: x}
      - {name: two, command: 'echo {{b.y}} {{b.two}} {{x}}', wait_for: {step: b.one, timeout: 5}, output: x}
    ---
    name: b
    order: dataflow
    steps:
      - {name: one, command: echo 1, output: y}
      - {name: two, command: 'echo {{c.one | raw}}', if: "{{c.z}} == '1'", output: z}
    ---
    name: c
    steps:
      - {name: one, command: 'echo', needs: a.one, output: z}
      - {name: two, command: 'echo', output: z}
      - {name: x, command: 'cat out', inputs: out, outputs: other}
"""


class _Rest:
    """`Known` out of workflows."""

    def __init__(self, workflows: Sequence[Workflow]) -> None:
        self._workflows = {one.name: one for one in workflows}

    def siblings(self, workflow: str) -> None:
        return None

    def has(self, workflow: str) -> bool:
        return workflow.casefold() in {name.casefold() for name in self._workflows}

    def find(self, workflow: str, name: str) -> str | None:
        steps = self._workflows[workflow].steps if workflow in self._workflows else ()
        named = [step.id for step in steps if step.name == name]
        setting = [step.id for step in steps if step.output == name]
        return (named or setting[-1:] or [None])[0]


@pytest.mark.parametrize("chosen", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2), ()])
def test_a_part_of_the_workflows_comes_out_as_in_the_whole(chosen: tuple[int, ...]) -> None:
    """What an edit leaves alone is not read again, and only its names are known."""
    workflows = workflow.parse(textwrap.dedent(PARTS).lstrip("\n").encode(), "flow.yaml")
    whole = resolve(workflows)
    given = [workflows[n] for n in chosen]
    part, faults = resolve_all(given, _Rest([one for one in workflows if one not in given]))
    assert faults == []
    names = {one.name for one in given}
    assert dict(part.targets) == {
        name: target for name, target in whole.targets.items() if target.step.workflow in names
    }
    assert {name: target.action.values for name, target in part.targets.items()} == {
        name: target.action.values for name, target in whole.targets.items() if target.step.workflow in names
    }
    assert list(part.edges) == [edge for edge in whole.edges if edge.target.partition(".")[0] in names]


@pytest.mark.parametrize(
    "text",
    [
        "{name: n, steps: [{name: s, command: 'echo {{a.three}}'}]}",
        "{name: n, steps: [{name: s, command: 'echo {{A.one}}'}]}",
        "{name: n, steps: [{name: s, command: 'echo {{x}}'}]}",
        "{name: n, steps: [{name: s, command: echo, wait_for: a.three}]}",
        "{name: n, steps: [{name: s, command: echo, needs: one}]}",
        "{name: n, steps: [{name: s, command: echo, needs: a}]}",
        "{name: A, steps: [{name: s, command: echo}]}",
        "{name: a, steps: [{name: s, command: echo}]}",
    ],
)
def test_what_is_a_fault_of_the_whole_is_one_of_a_part(text: str) -> None:
    """A fault has the whole read again, which alone knows how to help."""
    rest = workflow.parse(textwrap.dedent(PARTS).lstrip("\n").encode(), "flow.yaml")
    edited = workflow.parse(text.encode(), "other.yaml")
    assert resolve_all([*rest, *edited])[1]
    assert resolve_all(edited, _Rest(rest))[1]


def test_a_program_that_is_released_as_it_is_read_is_the_same_but_for_places_of_data_edges() -> None:
    workflows = list(workflow.parse(textwrap.dedent(PARTS).lstrip("\n").encode(), "flow.yaml"))
    whole, faults = resolve_all(workflows)
    found, other_faults = resolve_and_release(workflows, places=False)
    assert (workflows, faults, other_faults) == ([], [], [])
    assert dict(found.targets) == dict(whole.targets)
    assert [edge for edge in found.edges if edge.kind is not EdgeKind.DATA] == [
        edge for edge in whole.edges if edge.kind is not EdgeKind.DATA
    ]
    assert [(edge.producer, edge.target) for edge in found.edges] == [
        (edge.producer, edge.target) for edge in whole.edges
    ]


def test_a_cycle_in_files_is_told_with_the_place_of_each_reference(tmp_path: Path) -> None:
    """Places of references are left out until something is wrong."""
    file = tmp_path / "flow.yaml"
    file.write_text(
        "name: w\norder: dataflow\nsteps:\n"
        "  - {name: a, command: 'echo {{w.b}}'}\n  - {name: b, command: 'echo {{w.a}}'}\n"
    )
    with pytest.raises(WorkflowError) as error:
        load_program([file], tmp_path)
    assert f"{file}:4:30" in error.value.render()
    assert f"{file}:5:30" in error.value.render()
