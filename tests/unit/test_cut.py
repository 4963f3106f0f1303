"""A document of which some steps are left out means for the others what the whole means."""

from __future__ import annotations

import random

import pytest

from llmc_build.model import Step
from llmc_build.snapshot.cuts import Cut, cut_of
from llmc_build.workflow import read
from llmc_build.workflow.cut import cut, is_tied

HEADS = (
    "name: w\nsteps:\n",
    "# steps:\nname: w\norder: dataflow\ndescription: |\n  steps:\n    - name: no\nsteps:   # of many\n\n# here\n",
    "vars: {a: b}\nname: w\ndefaults:\n  env: &e {A: b}\nsteps:\n",
)
TAILS = (
    "",
    "vars2:\n",
    "env: {B: c}\n",
    "# the end\n",
    "\n\ndescription: no steps\n",
    "env: {B: c} # '\"}]\n",
)
BODIES = (
    ["command: echo a"],
    ["command: |+", "  echo a", "  ", "", "", "output: v"],
    ["command: >-", "  echo", "", "   - name: b", "inputs:", "  - a", "  - b"],
    ["command: |2+", "    echo", "", ""],
    ['command: "echo', "  - name: b", '  c"'],
    ["# a remark", "command: cat && echo 2>&1 &", "env: {A: '*x', B: \"&y\"}"],
    ["if: 'true'", "command: [", "    ]"],
    ["command: echo {{a}} # - name: z", "timeout: 3s", ""],
)
NASTY = (
    "'", '"', "|", ">", "|+", "- ", "  - name: x\n", "- name: x\n", "\n", "\n\n", "#", "# '", "{", "}", "[", "]",
    ": ", "? ", "&a ", "*a", "*e", "<<: *e", "!t ", "%", "---\n", "...\n", "\t", "\r\n", "name: ", "steps:\n",
    "command: ", "    command: |\n", "      text\n", "    ", "  ", "\\", "@", "`", ",", "session: s\n", "vars: {}\n",
    "output: v\n", "    output: v\n", "é", "echo ",
)  # fmt: skip


def document(chance: random.Random, count: int) -> tuple[str, list[str], str]:
    indent = " " * chance.choice([0, 1, 2, 4])
    steps = []
    for i in range(count):
        lines = [f"{indent}-{chance.choice([' ', '   '])}name: s{i}"]
        column = " " * (lines[0].index("name"))
        lines += [column + line if line else "" for line in chance.choice(BODIES)]
        if chance.random() < 0.3:
            lines.append(chance.choice(["", f"{indent}# between", "# - name: no"]))
        steps.append("".join(f"{line}\n" for line in lines))
    return chance.choice(HEADS), steps, chance.choice(TAILS)


def steps_of(text: bytes, left_out: int | None = None) -> tuple[Step, ...] | None:
    draft = read(text, "w.yaml", 1, left_out=left_out)
    return draft.workflows[0].steps if not draft.faults and len(draft.workflows) == 1 else None


@pytest.mark.parametrize("seed", range(40))
def test_a_step_means_the_same_where_others_are_left_out(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(10):
        head, steps, tail = document(chance, chance.randint(1, 7))
        text = "".join([head, *steps, tail]).encode()
        if chance.random() < 0.2:
            text = text.replace(b"\n", b"\r\n")
        found = cut(text)
        whole = steps_of(text)
        if whole is None:
            continue
        assert found is not None, text.decode()
        assert found.lines(1) == [step.location.line for step in whole], text.decode()
        wanted = [i for i in range(len(whole)) if chance.random() < 0.5]
        part = steps_of(*found.only(wanted)) if wanted else ()
        assert part == tuple(whole[i] for i in wanted), text.decode()


def test_most_of_these_documents_are_valid() -> None:
    chance = random.Random(1)
    valid = sum(
        steps_of("".join([h, *s, t]).encode()) is not None
        for h, s, t in (document(chance, 4) for _ in range(200))
    )
    assert valid > 60


def changed(steps: list[str], chance: random.Random) -> None:
    """Some steps are written over at random, or come, go, or change places."""
    for _ in range(chance.choice([1, 1, 2])):
        i = chance.randrange(len(steps))
        kind = chance.choice(["nasty", "nasty", "nasty", "new", "drop", "rename", "swap", "remark"])
        if kind == "nasty":
            at = chance.randrange(len(steps[i]) + 1)
            end = at if chance.random() < 0.5 else min(len(steps[i]), at + chance.randrange(8))
            nasty = "".join(chance.choice(NASTY) for _ in range(chance.randint(0, 3)))
            steps[i] = steps[i][:at] + nasty + steps[i][end:]
        elif kind == "new":
            steps.insert(i, document(chance, 1)[1][0].replace("name: s0", f"name: {chance.choice('abV')}"))
        elif kind == "drop" and len(steps) > 1:
            steps.pop(i)
        elif kind == "rename":
            steps[i] = steps[i].replace("name: s", f"name: {chance.choice('nS')}", 1)
        elif kind == "swap":
            steps.append(steps.pop(i))
        elif kind == "remark":
            steps[i] += "# a remark\n"


@pytest.mark.parametrize("seed", range(60))
def test_steps_that_read_well_alone_read_so_in_the_whole(seed: int) -> None:
    """What the partial build relies on, for whatever a document is changed to."""
    chance = random.Random(seed)
    read_alone = 0
    while read_alone < 5:
        head, steps, tail = document(chance, 6)
        before = "".join([head, *steps, tail]).encode()
        old = steps_of(before)
        known = None if old is None else cut_of(before, 1, *columns(old), least=1)
        if old is None or known is None:
            continue
        changed(steps, chance)
        text = "".join([head, *steps, tail]).encode()
        now = cut(text)
        edit = known.compared(now) if now is not None else None
        if now is None or edit is None or not edit.read:
            continue
        if chance.random() < 0.5 and edit.keeps_names:
            edit = known.widened(edit)
        alone = steps_of(*now.only(edit.read))
        if alone is None or len(alone) != len(edit.read):
            continue
        after = known.edited(edit, [(s.name, s.output) for s in alone], now.hashes)
        if after is None:
            continue
        read_alone += 1
        whole = steps_of(text)
        assert whole is not None, text.decode()
        assert tuple(whole[i] for i in edit.read) == alone, text.decode()
        assert [(s.name, s.output) for s in whole] == [*zip(after.names, after.variables, strict=True)], (
            text.decode()
        )
        others = [step for i, step in enumerate(whole) if i not in edit.read]
        were = {step.name: step for step in old}
        assert [meaning(s) for s in others] == [meaning(were[s.name]) for s in others], text.decode()
        setters = [(s.name, s.output) for s in old if s.output]
        assert [(s.name, s.output) for s in whole if s.output] == setters, text.decode()


def columns(steps: tuple[Step, ...]) -> tuple[list[str], list[str | None], list[int]]:
    return [s.name for s in steps], [s.output for s in steps], [s.location.line for s in steps]


def meaning(step: Step) -> object:
    """All of a step but where it stands."""
    return [
        getattr(step, name)
        for name in ("name", "rule", "command", "output", "condition", "inputs", "env", "timeout_s")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "name: w\nsteps: [{name: a, command: b}]\n",
        "name: w\nsteps:\n  -\n    name: a\n    command: b\n",
        "name: w\nsteps:\n  ? a\n",
        "name: w\nsteps: # none\n",
        'name: w\ndescription: "\nsteps:\n  - name: a\n"\nsteps:\n  - name: a\n    command: b\n',
    ],
)
def test_what_is_not_read_where_it_is_cut_is_not_cut(text: str) -> None:
    whole = steps_of(text.encode()) or ()
    lines = [step.location.line for step in whole]
    names = [step.name for step in whole]
    assert cut_of(text.encode(), 1, names, [None] * len(names), lines, least=0) is None


@pytest.mark.parametrize(
    ("text", "tied"),
    [
        ("- name: a\n  env: &e {}\n", True),
        ("- &a {name: a}\n", True),
        ("- [&a x]\n", True),
        ("- {env: &a x}\n", True),
        ('- {name: a, env: {"A":&a x}}\n', True),
        ("- {?&a k: v}\n", True),
        ("- name: a\n  command: curl 'http://x/?a=1&b=2'\n", False),
        ("- name: a\n  session: chat\n", True),
        ("- name: a\n  command: a && b & c 2>&1 <&3 >&- &\n", False),
        ("- name: a\n  command: echo *.txt *x\n", False),
        ("&a", True),
    ],
)
def test_steps_that_give_something_to_others(text: str, tied: bool) -> None:
    assert is_tied(text.encode()) is tied


def of(*steps: str, head: str = "name: w\nsteps:\n", tail: str = "") -> bytes:
    return (head + "".join(f"  - name: {step}\n    command: x\n" for step in steps) + tail).encode()


@pytest.mark.parametrize(
    ("text", "read", "names"),
    [
        (of("a", "b", "c"), [], "abc"),
        (of("a", "b # more", "c"), [1], "abc"),
        (of("a # less", "b", "c # more"), [0, 2], "abc"),
        (of("x", "b", "c"), [0, 1], "xbc"),  # and what stands behind it
        (of("x", "b", "y"), [0, 1, 2], "xby"),
        (of("a", "b"), [1], "ab"),
        (of("b", "c"), [0], "bc"),
        (of("a", "c"), [1], "ac"),
        (of("a", "d", "b", "c"), [1, 2], "adbc"),
        (of("a", "b", "c", "d"), [3], "abcd"),
        (of("c", "a", "b"), [0, 1, 2], "cab"),
        (of("a", "A", "b", "c"), None, ""),  # two of one name
        (of("a", "b", "c", head="name: v\nsteps:\n"), None, ""),
        (of("a", "b", "c", tail="env: {}\n"), None, ""),
        (of("a", "b\n    env: &e {}", "c"), None, ""),
        (of("a", "b\n    session: s", "c"), None, ""),
        (of("a", "b\n    output: v", "c"), None, ""),
        (b"name: w\n", None, ""),
    ],
)
def test_which_steps_are_read(text: bytes, read: list[int] | None, names: str) -> None:
    known = cut_of(of("a", "b", "c"), 1, list("abc"), [None] * 3, [3, 5, 7], least=3)
    assert isinstance(known, Cut)
    now = cut(text)
    edit = known.compared(now) if now is not None else None
    after = None
    if now is not None and edit is not None:
        after = known.edited(edit, pairs(*now.only(edit.read)), now.hashes)
        if after is None and edit.keeps_names:
            edit = known.widened(edit)
            after = known.edited(edit, pairs(*now.only(edit.read)), now.hashes)
    assert (None if after is None or edit is None else list(edit.read)) == read
    assert "".join(after.names if after is not None else ()) == names


def pairs(text: bytes, left_out: int) -> list[tuple[str, str | None]]:
    return [(step.name, step.output) for step in steps_of(text, left_out) or ()]


@pytest.mark.parametrize(
    "opened", ["command: 'b", 'command: "b', "command: b\n  inputs: [a", "inputs: {a: b"]
)
def test_what_is_opened_in_a_step_and_closed_behind_all_of_them_is_no_step(opened: str) -> None:
    """A quote's text may go on through steps that are left out."""
    steps = [f"- name: s{i}\n  command: b\n" for i in range(6)]
    steps[2] = f"- name: s2\n  {opened}\n"
    now = cut("".join(["name: w\nsteps:\n", *steps, "description: x # '\"]}\n"]).encode())
    assert now is not None
    assert steps_of(*now.only([2])) is None
    assert steps_of(*now.only([3])) is not None


def test_a_new_step_may_not_have_the_name_of_a_variable() -> None:
    """`needs: v` would mean the step, and means the one that sets v."""
    before = of("a\n    output: v", "b\n    needs: v")
    known = cut_of(before, 1, ["a", "b"], ["v", None], [3, 6], least=2)
    assert known is not None
    for name, fits in (("x", True), ("v", False)):
        now = cut(of("a\n    output: v", name, "b\n    needs: v"))
        assert now is not None
        edit = known.compared(now)
        assert edit is not None
        assert (known.edited(edit, pairs(*now.only(edit.read)), now.hashes) is not None) is fits


def test_a_small_document_is_not_cut() -> None:
    names = [f"s{i}" for i in range(120)]
    lines = list(range(3, 243, 2))
    assert cut_of(of(*names), 1, names, [None] * 120, lines) is not None
    assert cut_of(of(*names[:50]), 1, names[:50], [None] * 50, lines[:50]) is None
    assert cut_of(of(*names), 1, names, [None] * 120, [*lines[:-1], 9]) is None
