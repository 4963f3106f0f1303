"""The structure after an edit is that of a build that reads everything."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pytest

from llmc_build.snapshot.form import Snapshot, turned
from llmc_build.snapshot.structure import Structure
from tests.conftest import Space


def structure_of(space: Space) -> tuple[list[str], list[object], list[list[int]]]:
    (file,) = (space.root / ".llmc/state").glob("snapshot-*")
    found = Snapshot.read(str(file))
    assert found is not None
    return found.paths, list(found.documents), [numbers.tolist() for numbers in found.producers]


def document(name: str, word: str = "hello", reads: str = "") -> str:
    value = f" {{{{ {reads} }}}}" if reads else ""
    return f"name: {name}\nsteps:\n  - {{name: one, command: 'echo {word}{value}'}}\n  - {{name: two, command: 'echo {{{{ {name}.one }}}}'}}\n"


WHOLE = [
    document("a"),
    "# a remark\n# of two lines\n",
    document("b", reads="a.two"),
    document("c"),
    document("d", reads="b.one"),
]
EDITS: dict[str, list[str]] = {
    "one word": [*WHOLE[:3], document("c", "other"), WHOLE[4]],
    "a line more": [*WHOLE[:3], "\n" + document("c", "other"), WHOLE[4]],
    "a remark gone": [WHOLE[0], *WHOLE[2:]],
    "a remark gone, one that came": [WHOLE[0], WHOLE[2], WHOLE[3], "# one\n# two\n", WHOLE[4]],
    "a remark that moved, and a word": [WHOLE[0], WHOLE[2], document("c", "other"), WHOLE[1], WHOLE[4]],
    "a workflow in between": [*WHOLE[:3], document("x"), *WHOLE[3:]],
    "a workflow gone": [*WHOLE[:3], WHOLE[4]],
    "other order": [WHOLE[3], *WHOLE[:3], WHOLE[4]],
    "a step more": [WHOLE[0] + "  - {name: three, command: 'echo 3'}\n", *WHOLE[1:]],
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_leaves_what_a_clean_build_leaves(space: Space, tmp_path: Path, edit: str) -> None:
    space.write("w.yaml", "---\n".join(WHOLE))
    assert space.build("w.yaml").ok
    space.write("w.yaml", "---\n".join(EDITS[edit]))
    assert space.build("w.yaml").ok
    other = Space(tmp_path / "other")
    other.root.mkdir()
    other.write("w.yaml", "---\n".join(EDITS[edit]))
    assert other.build("w.yaml").ok
    assert structure_of(space) == structure_of(other)


def large(words: dict[int, str], gone: int = -1) -> str:
    """Long enough to be read step by step; every step but the first reads the first."""
    steps = [
        f"  - {{name: s{i}, command: 'echo {words.get(i, 'hello')}{' {{ a.s0 }}' if i else ''}'}}\n"
        for i in range(130)
        if i != gone
    ]
    return "name: a\nsteps:\n" + "".join(steps)


@pytest.mark.parametrize(
    "text", [large({40: "other", 90: "other"}), large({}, gone=70), large({90: "other"}, gone=70)]
)
def test_an_edit_within_a_large_document_does_so_too(space: Space, tmp_path: Path, text: str) -> None:
    other = Space(tmp_path / "other")
    other.root.mkdir()
    space.write("w.yaml", large({}) + "---\n" + document("b", reads="a.s90"))
    assert space.build("w.yaml").ok
    for place in (space, other):
        place.write("w.yaml", text + "---\n" + document("b", reads="a.s90"))
        assert place.build("w.yaml").ok
    assert structure_of(space) == structure_of(other)


@pytest.mark.parametrize("count", [1, 40, 300, 70_000])
def test_what_comes_right_after_a_target_is_what_the_lists_say(count: int) -> None:
    chance = random.Random(count)
    starts, ends = array("I", [0]), array("I")
    for i in range(count):
        ends.extend(sorted({chance.randrange(i) for _ in range(chance.randrange(4))} if i else ()))
        starts.append(len(ends))
    down_starts, down = turned(starts, ends)
    for _ in range(5):
        structure = Structure([""] * count, [], (starts, ends), {})
        for i in [0, *(chance.randrange(count) for _ in range(40))]:
            assert list(structure.consumers_of(i)) == down[down_starts[i] : down_starts[i + 1]].tolist()
