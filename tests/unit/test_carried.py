"""A snapshot that came with a restored store: what it saves, what it notices, and what it withstands."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc_build import api, session
from llmc_build.model import BuildReport
from llmc_build.snapshot import carried, form

ENVIRON = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "MODE": "0"}
FLOW = """\
name: a
order: dataflow
steps:
  - {name: value, command: 'echo value'}
  - {name: input, command: 'cat notes.txt; echo {{a.value}}'}
  - {name: globs, command: 'cat src/*.txt', inputs: ['src/*.txt']}
  - {name: writes, command: 'echo made > made.txt; echo 1', outputs: [made.txt]}
  - {name: reads, command: 'cat made.txt', inputs: [made.txt], needs: [writes]}
  - {name: big, command: 'yes | head -n 5000'}
  - {name: env, command: 'echo $MODE', env: [MODE]}
  - {name: no, command: 'echo never', if: "'x' in {{a.value}}"}
---
name: b
steps:
  - {name: first, command: 'echo "first {{a.big}}" | wc -c'}
  - {name: second, command: 'echo "second {{b.first}}"', output: v}
"""


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "FROM", 1)
    monkeypatch.setattr(session, "MANY", 0)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    root = tmp_path / "built"
    (root / "src").mkdir(parents=True)
    (root / "src" / "1.txt").write_text("one\n")
    (root / "notes.txt").write_text("notes\n")
    (root / "workflow.yaml").write_text(FLOW)
    time.sleep(0.05)  # nothing is fresh any more
    assert build(root).counts["ran"] == 9
    return root


@pytest.fixture
def checkout(built: Path, tmp_path: Path) -> Path:
    """Elsewhere: the sources, and the store."""
    root = tmp_path / "elsewhere" / "checkout"
    shutil.copytree(built, root, ignore=shutil.ignore_patterns(".llmc", "made.txt"))
    shutil.copytree(built / ".llmc/cache", root / ".llmc/cache")
    return root


def build(root: Path, **environ: str) -> BuildReport:
    return api.build([root / "workflow.yaml"], workspace=root, jobs=2, environ={**ENVIRON, **environ})


def looked_at(report: BuildReport) -> list[str]:
    assert report.looked_at is not None
    return sorted(one.target for one in report.looked_at)


def the_snapshot(root: Path) -> Path:
    [found] = (root / ".llmc/cache/snapshots").iterdir()
    return found


def contents(root: Path) -> dict[str, bytes]:
    found = [*(root / ".llmc/out").glob("*/*"), root / "made.txt"]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def test_everything_comes_back_without_a_look_at_any_step(built: Path, checkout: Path) -> None:
    report = build(checkout)
    assert looked_at(report) == []
    assert report.counts == {**report.counts, "total": 10, "ran": 0, "cached": 9, "skipped": 1, "failed": 0}
    assert report.restored == 10
    assert contents(checkout) == contents(built)
    again = build(checkout)
    assert (looked_at(again), again.restored) == ([], 0)


def test_only_what_changed_is_looked_at(checkout: Path) -> None:
    (checkout / "workflow.yaml").write_text(FLOW.replace('echo "second', 'echo "third'))
    report = build(checkout)
    assert (looked_at(report), report.counts["ran"]) == (["b.first", "b.second"], 1)
    assert (checkout / ".llmc/out/b/second").read_text() == "third first 10007\n".replace(
        "first 10007", "10006"
    )


def _notes(root: Path) -> dict[str, str]:
    (root / "notes.txt").write_text("other\n")
    return {}


def _more(root: Path) -> dict[str, str]:
    (root / "src" / "2.txt").write_text("two\n")
    return {}


def _less(root: Path) -> dict[str, str]:
    (root / "src" / "1.txt").unlink()
    (root / "src" / "0.txt").write_text("zero\n")
    return {}


def _mode(root: Path) -> dict[str, str]:
    return {"MODE": "1"}


@pytest.mark.parametrize(
    ("change", "target"), [(_notes, "a.input"), (_more, "a.globs"), (_less, "a.globs"), (_mode, "a.env")]
)
def test_what_differs_in_the_checkout_is_noticed(
    checkout: Path, change: Callable[[Path], dict[str, str]], target: str
) -> None:
    report = build(checkout, **change(checkout))
    assert [one.target for one in report.targets if one.status.value == "ran"] == [target]


def test_a_result_that_the_store_has_lost_is_made_again(checkout: Path) -> None:
    [blob] = [path for path in (checkout / ".llmc/cache/cas").glob("*/*") if path.stat().st_size == 10_000]
    blob.unlink()
    report = build(checkout)
    assert [one.target for one in report.targets if one.status.value == "ran"] == ["a.big"]
    assert (checkout / ".llmc/out/a/big").stat().st_size == 10_000


def test_another_llmc_does_not_believe_it(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "other.py").write_text("")
    monkeypatch.setattr(carried.world, "PACKAGE", str(package))
    assert len(looked_at(build(checkout))) == 10


def test_where_something_was_built_before_everything_is_looked_at(checkout: Path) -> None:
    (checkout / ".llmc/out/gone").mkdir(parents=True)
    (checkout / ".llmc/out/a").mkdir(parents=True)
    (checkout / ".llmc/out/a/old").write_text("of a step that is gone")
    assert len(looked_at(build(checkout))) == 10
    assert not (checkout / ".llmc/out/a/old").exists()


def test_only_a_few_are_kept(built: Path) -> None:
    for number in range(12):
        name = f"other{number}.yaml"
        (built / name).write_text(f"name: o{number}\nsteps: [{{name: s, command: echo 1}}]\n")
        api.build([built / name], workspace=built, environ=ENVIRON)
    assert len(list((built / ".llmc/cache/snapshots").iterdir())) == 8


def test_a_damaged_one_is_none(built: Path, checkout: Path) -> None:
    chance = random.Random(5)
    path = the_snapshot(checkout)
    data = path.read_bytes()
    expected = contents(built)
    for _ in range(25):
        damaged = bytearray(data)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        else:
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        for name in ("out", "state", "runs", "placed.json", "tmp"):
            gone = checkout / ".llmc" / name
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
        (checkout / "made.txt").unlink(missing_ok=True)
        report = build(checkout)
        assert report.counts["ran"] == 0
        assert contents(checkout) == expected


@pytest.mark.parametrize(
    ("section", "content"),
    [
        ("paths", b"../../../tmp/x/y"),
        ("paths", b"a/value\na/../../x"),
        ("keys", b"\1" * 32),
        ("values", b""),
        ("flags", b"\xff" * 10),
        ("flags", b""),
        ("starts", b"\xff" * 44),
        ("producers", b"\xff" * 16),
        ("documents", b"[]"),
        ("documents", b"{}"),
        ("documents", b'[[0,1,"x","a",0,10,{},[]]]'),
        ("documents", b'[[9,1,"00000000000000000000000000000000","a",0,10,{},[]]]'),
        ("readers", b'{"notes.txt": [99]}'),
        ("readers", b"[1]"),
        ("prompts", b'{"notes.txt": [-1]}'),
        ("outputs", b'{"made.txt": "no.such"}'),
        ("words", b'{".": [[1], []]}'),
        ("blobs", b"../../../../etc/passwd"),
        ("documents", b"[" * 100_000),
    ],
)
def test_a_forged_one_harms_nothing(built: Path, checkout: Path, section: str, content: bytes) -> None:
    """Its checksums hold, and it is no snapshot all the same."""
    path = the_snapshot(checkout)
    found = form.Snapshot.read(str(path))
    assert found is not None
    found.check()
    sections = {**found._sections, section: content}
    path.write_bytes(b"".join(form.Snapshot(found.facts, sections).encoded()))
    assert len(looked_at(build(checkout))) == 10
    assert contents(checkout) == contents(built)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"environ": []},
        {"environ": {"MODE": 1}},
        {"files": []},
        {"files": [["workflow.yaml"]]},
        {"watched": 1},
        {"folders": [["src"]]},
        {"config": 3},
        {"given": [1]},
    ],
)
def test_forged_facts_harm_nothing(built: Path, checkout: Path, facts: dict[str, object]) -> None:
    path = the_snapshot(checkout)
    found = form.Snapshot.read(str(path))
    assert found is not None
    found.check()
    forged = {**found.facts, **facts} if facts else {}
    path.write_bytes(b"".join(form.Snapshot(forged, found._sections).encoded()))  # type: ignore[arg-type]
    assert len(looked_at(build(checkout))) == 10
    assert contents(checkout) == contents(built)


def test_a_planted_link_is_not_followed(built: Path, tmp_path: Path) -> None:
    store = built / ".llmc/cache/snapshots"
    shutil.rmtree(store)
    (tmp_path / "target").mkdir()
    store.symlink_to(tmp_path / "target")
    (built / "workflow.yaml").write_text(FLOW.replace("echo value", "echo other"))
    assert build(built).ok
    assert list((tmp_path / "target").iterdir()) == []


def test_nothing_of_the_place_is_in_it(built: Path) -> None:
    found = form.Snapshot.read(str(the_snapshot(built)))
    assert found is not None
    found.check()
    text = json.dumps(found.facts) + "".join(map(repr, found._sections.values()))
    assert str(built) not in text
