"""What had to be hashed once is not hashed again, and what time ends is looked at when it has: both in idle builds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc_build import quick
from llmc_build.snapshot import keeping, stamps, survey
from tests.conftest import Space

FLOW = """
name: w
steps:
  - {name: a, inputs: [in.txt], command: cat in.txt}
  - {name: o, outputs: [out.txt], command: "f=out; echo o > $f.txt; echo v"}
"""


@pytest.fixture
def built(space: Space) -> Space:
    space.write("llmc.yaml", "jobs: 2\n")
    space.write("in.txt", "in")
    space.write("workflow.yaml", FLOW)
    time.sleep(stamps.TICK_NS / 1e9 * 2)
    assert space.build("workflow.yaml").ok
    return space


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files that surveys hash."""
    found: list[str] = []
    hash_file, read_plain = survey.hash_file, survey.read_plain

    def told(of: Callable[[str], object]) -> Callable[[str], object]:
        def tell(path: str) -> object:
            found.append(os.path.basename(path))
            return of(path)

        return tell

    monkeypatch.setattr(survey, "hash_file", told(hash_file))
    monkeypatch.setattr(survey, "read_plain", told(read_plain))
    return found


def is_up_to_date(space: Space) -> bool:
    return quick.build(["build", "workflow.yaml"], space.environ) == 0


def test_what_was_touched_is_hashed_once(built: Space, hashed: list[str]) -> None:
    time.sleep(stamps.TICK_NS / 1e9 * 2)
    is_up_to_date(built)
    for name in ("in.txt", "out.txt", "workflow.yaml", "llmc.yaml"):
        hashed.clear()
        os.utime(built.root / name)
        time.sleep(stamps.TICK_NS / 1e9 * 2)
        assert is_up_to_date(built)
        assert hashed == [name]
        assert is_up_to_date(built)
        assert is_up_to_date(built)
        assert hashed == [name]
    hashed.clear()
    built.write("in.txt", "other")
    assert built.build("workflow.yaml").ok
    assert built.value("w.a") == "other"
    assert {*hashed} <= {"in.txt", "llmc.yaml"}  # the others are known by the stamps that they have


def test_what_was_touched_twice_or_written_over_is_hashed_again(built: Space) -> None:
    file = built.root / "in.txt"
    for _ in range(2):
        os.utime(file)
        time.sleep(stamps.TICK_NS / 1e9 * 2)
        assert is_up_to_date(built)
    before = file.stat()
    file.write_text("no")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not is_up_to_date(built)


def test_a_value_written_shortly_before_the_snapshot_is_hashed_once(
    space: Space, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    space.write("in.txt", "in")
    space.write("workflow.yaml", FLOW)
    with monkeypatch.context() as patch:
        patch.setattr(stamps, "TICK_NS", 10**18)  # nothing is old enough to be known by its stamp
        assert space.build("workflow.yaml").ok
    time.sleep(stamps.TICK_NS / 1e9 * 2)
    hashed.clear()
    assert is_up_to_date(space)
    assert {"a", "o", "in.txt", "out.txt", "workflow.yaml"} == {*hashed}
    hashed.clear()
    assert is_up_to_date(space)
    assert not hashed


@pytest.mark.parametrize("damage", [b"", b"x", b"00000000\n{}", None])
def test_a_damaged_memory_of_what_was_hashed_says_nothing(
    built: Space, hashed: list[str], damage: bytes | None
) -> None:
    os.utime(built.root / "in.txt")
    time.sleep(stamps.TICK_NS / 1e9 * 2)
    assert is_up_to_date(built)
    file: Path = next((built.root / ".llmc/state").glob("seen-*"))
    data = file.read_bytes()
    file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:] if damage is None else damage)
    hashed.clear()
    assert is_up_to_date(built)
    assert "in.txt" in hashed


def test_what_was_seen_of_a_snapshot_goes_with_it(space: Space) -> None:
    for number in range(keeping.KEPT + 3):
        file = space.write(f"{number}.yaml", f"name: w{number}\nsteps: [{{name: s, command: echo s}}]\n")
        assert space.build(file.name).ok
        os.utime(file)
        time.sleep(stamps.TICK_NS / 1e9 * 2)
        if number % 2:
            assert quick.build(["build", file.name], space.environ) == 0
        names = os.listdir(space.root / ".llmc/state")
        kept = {name for name in names if name.startswith("snapshot-")}
        assert len(kept) == min(number + 1, keeping.KEPT)
        assert {name.removeprefix("seen-") for name in names if name.startswith("seen-")} <= kept


# ---------------------------------------------------------------- time


def test_a_result_that_time_will_end_is_up_to_date_until_it_has(space: Space) -> None:
    space.write(
        "workflow.yaml",
        """
        name: w
        defaults: {cache: {ttl: 1s}}
        steps:
          - {name: a, command: echo a}
          - {name: b, command: "echo {{w.a}}", cache: {ttl: 1d}}
        """,
    )
    assert space.build("workflow.yaml").ok
    assert is_up_to_date(space)
    assert quick.build(["build", "workflow.yaml", "-t", "w.a"], space.environ) == 0
    time.sleep(1.1)
    assert not is_up_to_date(space)
    assert space.build("workflow.yaml").ok
    assert space.ran == ["w.a"]
    assert is_up_to_date(space)


def test_a_result_that_was_made_tomorrow_is_not_up_to_date(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was set back."""
    space.write("workflow.yaml", "name: w\nsteps: [{name: a, command: echo a, cache: {ttl: 1d}}]\n")
    assert space.build("workflow.yaml").ok
    assert is_up_to_date(space)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 10**12)
    assert not is_up_to_date(space)


def test_a_build_in_part_keeps_what_time_will_end(space: Space) -> None:
    text = "name: {0}\nsteps: [{{name: a, command: echo {1}{2}}}]\n"
    space.write(
        "workflow.yaml", text.format("v", 1, ", cache: {ttl: 1s}") + "---\n" + text.format("w", 1, "")
    )
    assert space.build("workflow.yaml").ok
    space.edit("workflow.yaml", "echo 1}", "echo 2}")
    assert space.build("workflow.yaml").ok
    assert is_up_to_date(space)
    time.sleep(1.1)
    assert space.build("workflow.yaml").ok
    assert space.ran == ["v.a"]


# ---------------------------------------------------------------- values that change places


def test_folders_of_workflows_that_change_places_are_noticed(
    space: Space, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was placed within one tick of the clock has one ctime, and a folder that is renamed takes it along."""
    flow = "name: {0}\nsteps: [{{name: s, command: echo {0}}}]\n"
    space.write("workflow.yaml", "---\n".join(map(flow.format, "abc")))
    assert space.build("workflow.yaml").ok
    time.sleep(stamps.TICK_NS / 1e9 * 2)
    assert is_up_to_date(space)
    monkeypatch.setattr(survey, "moved", lambda *args: [])
    out = space.root / ".llmc/out"
    for name, to in (("a", "t"), ("b", "a"), ("t", "b")):
        (out / name).rename(out / to)
    time.sleep(stamps.TICK_NS / 1e9 * 2)
    assert not is_up_to_date(space)
    assert space.build("workflow.yaml").ok
    assert [space.value(f"{name}.s") for name in "abc"] == ["a\n", "b\n", "c\n"]
    (out / "others").mkdir()
    time.sleep(stamps.TICK_NS / 1e9 * 2)
    assert is_up_to_date(space)
    hashed.clear()
    assert is_up_to_date(space)
    assert not hashed
