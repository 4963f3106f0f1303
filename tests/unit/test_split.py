"""A file read in pieces is the file read whole."""

from __future__ import annotations

import contextlib
import textwrap

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmc_build import workflow
from llmc_build.model import Workflow
from llmc_build.workflow import split, yamltext
from llmc_build.workflow.nodes import Enough, Faults, Node
from llmc_build.workflow.yamltext import documents

# Lines that mean something else beside each other: put together at random they make every kind of text.
LINES = [
    "---",
    "--- # a comment",
    "---\t",
    "--- a",
    "--- |",
    "--- >-",
    "--- {a: b}",
    "--- [a,",
    "--- 'a",
    '--- "a',
    "--- &x",
    "--- &x {b: c}",
    "---a: b",
    "----",
    "--",
    "- ---",
    " ---",
    "  ---",
    "...",
    " ...",
    "%YAML 1.1",
    "# --- comment",
    "#",
    "",
    "",
    "  ",
    "a: b",
    "b: |",
    "b: |+",
    "b: |-",
    "b: |1",
    "b: >",
    "c: 'text",
    'd: "text',
    "   more text",
    "  end'",
    '  end"',
    "'",
    '"',
    "e: plain",
    "f: {a: b,",
    "g: [a,",
    "  b]",
    "  b}",
    "- item",
    "- - nested",
    "? key",
    ": value",
    "h: &x 1",
    "i: *x",
    "<<: *x",
    "j: {<<: *x, k: l}",
    "m: !!str n",
    "o: \u00e4\u2003\U0001f600",
    "p: '---'",
    "q: a\\",
]
texts = st.lists(st.sampled_from(LINES), max_size=14).flatmap(
    lambda lines: st.lists(
        st.sampled_from(["\n", "\n", "\n", "\r\n"]), min_size=len(lines), max_size=len(lines)
    ).map(lambda ends: "".join(line + end for line, end in zip(lines, ends, strict=True)))
)


def nodes(data: bytes, first_line: int | None = None) -> tuple[list[Node], list[str]]:
    faults = Faults("f.yaml")
    roots: list[Node] = []
    with contextlib.suppress(Enough):
        roots += documents(data, faults, first_line)
    return roots, [fault.render() for fault in faults.found]


def in_pieces(data: bytes) -> tuple[list[Node], list[str]] | None:
    pieces = split(data)
    if pieces is None:
        return None
    assert b"".join(data[start:stop] for _, start, stop in pieces) == data
    found = [nodes(data[start:stop], line) for line, start, stop in pieces]
    return [root for roots, _ in found for root in roots], [fault for _, faults in found for fault in faults]


@pytest.fixture(params=["libyaml", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = yaml.CSafeLoader if request.param == "libyaml" else yaml.SafeLoader
    monkeypatch.setattr(yamltext, "_LOADER", loader)


@given(text=texts, cut=st.integers(min_value=0, max_value=3))
@settings(max_examples=600, deadline=None)
@example(text="a: |+\n  b\n\n---\nc: d\n", cut=0)
@example(text="a: 'b\n---\nc'\n", cut=0)
@example(text='a: "b\n\n---\n"\n', cut=0)
@example(text="a: [b,\n---\n]\n", cut=0)
@example(text="a: b\n\u2028---\nc: d\n", cut=0)
@example(text="a: b\n---\n", cut=1)
def _pieces_equal_the_whole(text: str, cut: int) -> None:
    data = text.encode()[: len(text.encode()) - cut]
    pieces = in_pieces(data)
    if pieces is not None:
        roots, faults = nodes(data)
        assert bool(faults) == bool(pieces[1])
        if not faults:
            assert pieces == (roots, faults)


def test_pieces_have_the_nodes_and_places_of_the_whole(parser: None) -> None:
    """An edited workflow is read by itself: it must not come out otherwise than from the whole file."""
    _pieces_equal_the_whole()


WORKFLOW = """\
# {n}
name: w{n}
description: "a text
  over two lines"
{extra}
steps:
  - name: a
    command: |
      cat <<EOF
      ---
      EOF
    output: x
  - {{name: b, command: 'echo {{{{x}}}}', wait_for: [w{n}.a, {{step: a, timeout: 10s}}], needs: a}}
"""
EXTRAS = [
    "",
    "# --- none",
    "vars: {p: q}",
    "defaults: &d {timeout: 10}",
    "env: {A: ---}",
    "vars:\n  x: |\n   ---\n   ...",
]


@given(
    st.lists(
        st.tuples(st.sampled_from(EXTRAS), st.sampled_from(["---\n", "--- # c\n", "---\n---\n", "---\r\n"])),
        max_size=5,
    )
)
@settings(max_examples=200, deadline=None)
def test_pieces_have_the_workflows_of_the_whole(parts: list[tuple[str, str]]) -> None:
    """Every Location and every place inside a text, too."""
    data = "".join(marker + WORKFLOW.format(n=n, extra=e) for n, (e, marker) in enumerate(parts)).encode()
    pieces = split(data)
    assert pieces is not None
    found: list[Workflow] = []
    for line, start, stop in pieces:
        draft = workflow.read(data[start:stop], "f.yaml", line)
        assert draft.faults == ()
        found += draft.workflows
    whole = workflow.parse(data, "f.yaml")
    assert tuple(found) == whole
    for one, other in zip(found, whole, strict=True):
        for step, same in zip(one.steps, other.steps, strict=True):
            assert dict(step.places) == dict(same.places)
            text = step.command or ""
            assert step.place_in("command", text, len(text)) == same.place_in("command", text, len(text))


def test_the_first_lines_and_extents_of_documents() -> None:
    data = b"# head\n---\na: b\n\n--- # next\nc: d\n---"
    assert split(data) == [(1, 0, 7), (2, 7, 17), (5, 17, 33), (7, 33, 36)]
    assert split(b"") == []
    assert split(b"a: b") == [(1, 0, 4)]


@pytest.mark.parametrize(
    "data",
    [
        b"%YAML 1.1\n---\na: b\n",
        b"a: b\n%TAG ! !x\n---\n",
        b"a: b\n...\n---\nc: d\n",
        b"...\n---\n",
        b"\xef\xbb\xbfa: b\n---\nc: d\n",
        "a: b\n---\nc: d\n".encode("utf-16"),
        b"a: b\r---\rc: d\r",
        b"a: \0\n---\n",
    ],
)
def test_a_file_that_a_marker_alone_does_not_cut_is_read_whole(data: bytes) -> None:
    assert split(data) is None


def test_a_fault_in_a_piece_is_at_its_place_in_the_file() -> None:
    data = textwrap.dedent("""\
        name: a
        steps: [{name: x, command: echo}]
        ---
        name: b
        steps:
          - {name: x, command: "echo \x01"}
        ---
        name: c
        steps:
          - {name: x, comand: echo}
          - {name: x, command: [}
        """).encode()
    pieces = split(data)
    assert pieces is not None
    faults = [
        str(fault.location)
        for line, start, stop in pieces
        for fault in workflow.read(data[start:stop], "f.yaml", line).faults
    ]
    assert faults == ["f.yaml:6:30", "f.yaml:11:25"]


def test_pieces_can_not_add_up_to_more_than_the_file_may_hold() -> None:
    """What the budget allows beyond a file's size, it allows once."""
    bomb = ["---", "a: &a [" + ", ".join("x" * 30) + "]"]
    bomb += [f"b{n}: [" + ", ".join(["*a"] * 20) + "]" for n in range(30)]
    one = "\n".join(bomb).encode() + b"\n"
    assert nodes(one)[1] == []
    assert "it counts with the whole file" in nodes(one, 1)[1][0]
    whole = nodes(one * 40)[1]
    assert len(whole) == 1
    assert "aliases make the file too large" in whole[0]
