"""In a large document a step is the unit of an edit: no other is read, and what is built is what must be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc_build import api, reading
from llmc_build.errors import WorkflowError
from llmc_build.model import BuildReport, State

COUNT = 150
STEP = re.compile(r"^  - name: (\w+)", re.MULTILINE)
Change = Callable[[str], str]


def steps(order: str, body: Callable[[int], str]) -> str:
    return f"name: many\norder: {order}\nsteps:\n" + "".join(
        f"  - name: s{i}\n    command: {body(i)}\n" for i in range(COUNT)
    )


# Each reads the one ten before it; every tenth sets a variable, and the others of its ten could read it.
FLOW = steps(
    "dataflow", lambda i: f"echo {i}" + (f" {{{{many.s{i - 10}}}}}" if i >= 10 else f"\n    output: v{i}")
)
CHAIN = steps("sequential", lambda i: f"echo {i} {{{{v}}}}\n    output: v" if i else "echo 0\n    output: v")
OTHER = "---\nname: other\nsteps:\n  - name: last\n    command: echo {{many.s149}}\n"


class House:
    def __init__(self, root: Path, text: str) -> None:
        self.root, self.text = root, text
        self.read: list[str] = []  # steps of each piece that was read

    def build(self, change: Change = lambda text: text) -> BuildReport:
        changed = change(self.text)
        assert changed != self.text or not self.read
        self.text = changed
        (self.root / "w.yaml").write_text(self.text)
        self.read.clear()
        return api.build(
            [self.root / "w.yaml"], workspace=self.root, jobs=2, environ={"PATH": "/usr/bin:/bin"}
        )


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], House]:
    def make(text: str) -> House:
        made = House(tmp_path, text)
        piece = reading.read_piece

        def read_piece(data: bytes, *more: object) -> object:
            made.read += STEP.findall(data.decode())
            return piece(data, *more)  # type: ignore[arg-type]

        monkeypatch.setattr(reading, "read_piece", read_piece)
        assert made.build().ok
        made.read.append("something")
        return made

    return make


def ran(report: BuildReport) -> list[str]:
    assert report.ok
    return sorted(target.target.partition(".")[2] for target in report.targets if target.status is State.RAN)


def replaced(old: str, new: str) -> Change:
    return lambda text: text.replace(old, new, 1)


NEW = "  - name: new\n    command: echo new {{many.s3}}\n"
FROM_100 = [f"s{i}" for i in (100, 110, 120, 130, 140)]


@pytest.mark.parametrize(
    ("change", "expected", "read"),
    [
        (replaced("echo 145 ", "echo more "), ["s145"], ["s145"]),
        (replaced("echo 100 ", "echo  more "), FROM_100, FROM_100),
        (replaced("echo 100 ", "echo  100 "), ["s100"], FROM_100),  # comes to the same
        (replaced("  - name: s7\n", "  - name: s7  # seven\n"), [], ["s7"]),
        (replaced("echo 7\n", "echo seven && {\n      echo; }\n"), [f"s{i}" for i in range(7, 150, 10)], None),
        (replaced("  - name: s50\n", NEW + "  - name: s50\n"), ["new"], ["new", "s50"]),
        (lambda text: text + NEW, ["new"], ["new"]),
        (lambda text: text[: text.index("  - name: s149\n")], [], ["s148"]),
        (replaced("name: s149\n", "name: t149\n"), [], ["t149"]),
        (replaced("{{many.s135}}", "{{v5}}"), ["s145"], ["s145"]),
        (replaced("echo 7\n    output: v7", "echo 7 {{v6}}\n    output: v7"), [f"s{i}" for i in range(7, 150, 10)], None),
    ],
)  # fmt: skip
def test_an_edit_reads_what_it_can_reach(
    house: Callable[[str], House], change: Change, expected: list[str], read: list[str] | None
) -> None:
    made = house(FLOW)
    report = made.build(change)
    assert sorted(ran(report)) == sorted(expected)
    if read is not None:
        assert sorted(set(made.read)) == sorted(read)
    assert report.counts["total"] == len(STEP.findall(made.text))
    again = made.build(replaced("echo 148 ", "echo again "))
    assert ran(again) == ["s148"]
    assert set(made.read) == {"s148"}


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (replaced("echo 149 {{many.s139}}", "echo {{nothing}}"), "nothing"),
        (replaced("echo 149 {{many.s139}}", "echo {{many.nothing}}"), "nothing"),
        (replaced("{{many.s139}}", "{{many.s149}}"), "own value"),
        (replaced("echo 139 {{many.s129}}", "echo {{many.s149}}"), "wait for each other"),
        (replaced("name: s148\n", "name: S149\n"), "two steps"),
        (replaced("name: s3\n", "name: t3\n"), "many.s3"),
        (lambda text: text.replace("  - name: s3\n    command: echo 3\n    output: v3\n", ""), "many.s3"),
        (replaced("echo 9\n    output: v9", "echo 9\n    output: v8"), None),
        (replaced("echo 149", "'echo 149"), "not valid YAML"),
        (replaced("  - name: s149", " - name: s149"), "not valid YAML"),
        (replaced("    command: echo 149", "    comand: echo 149"), "comand"),
    ],
)
def test_what_is_wrong_is_told_as_ever(
    house: Callable[[str], House], change: Change, hint: str | None
) -> None:
    made = house(FLOW)
    if hint is None:
        assert made.build(change).ok
        return
    with pytest.raises(WorkflowError) as told:
        made.build(change)
    assert hint in str(told.value)


def test_a_chain_through_a_variable(house: Callable[[str], House]) -> None:
    """`{{v}}` is the nearest earlier step that sets it, also where that one is new, gone, or not read."""
    made = house(CHAIN)
    assert ran(made.build(replaced("echo 149 ", "echo last "))) == ["s149"]
    assert set(made.read) == {"s149"}
    value = made.root / ".llmc/out/many/s149"
    assert value.read_text() == " ".join(["last", *map(str, range(148, -1, -1))]) + "\n"
    report = made.build(
        replaced("  - name: s148\n", "  - name: new\n    command: echo new {{v}}\n  - name: s148\n")
    )
    assert ran(report) == ["new"]
    assert set(made.read) <= {"new", "s148", "s149"}
    setter = "  - name: sets\n    command: echo sets {{v}}\n    output: v\n"
    assert ran(made.build(replaced("  - name: s149\n", setter + "  - name: s149\n"))) == ["s149", "sets"]
    assert value.read_text().startswith("last sets 148 147 ")
    assert ran(made.build(replaced(setter, ""))) == []
    assert value.read_text().startswith("last 148 147 ")


def test_others_see_what_came_and_went(house: Callable[[str], House]) -> None:
    made = house(FLOW + OTHER)
    assert ran(made.build(replaced("echo 149 ", "echo new "))) == ["last", "s149"]
    with pytest.raises(WorkflowError, match="many.s149"):
        made.build(replaced("name: s149\n", "name: t149\n"))


def test_what_could_mean_a_new_step_does_so(house: Callable[[str], House]) -> None:
    """`{{many.x}}` is a field of a variable as long as there is no step of that name."""
    head, many = FLOW.replace("steps:\n", 'vars: {many: \'{"x": "field"}\'}\nsteps:\n', 1), "echo {{many.x}}"
    made = house(head.replace("echo 149 {{many.s139}}", many))
    value = made.root / ".llmc/out/many/s149"
    assert value.read_text() == "field\n"
    assert ran(
        made.build(replaced("  - name: s5\n", "  - name: x\n    command: echo step\n  - name: s5\n"))
    ) == ["s149", "x"]
    assert value.read_text() == "step\n"


def test_the_lines_of_a_record_are_those_of_the_file(house: Callable[[str], House]) -> None:
    made = house(FLOW)
    (made.root / "w.yaml").write_text(made.text.replace("echo 149 ", "exit 3; echo "))
    report = api.build([made.root / "w.yaml"], workspace=made.root, jobs=2, environ={"PATH": "/usr/bin:/bin"})
    assert not report.ok
    assert {t.target for t in report.targets if t.status is State.FAILED} == {"many.s149"}
