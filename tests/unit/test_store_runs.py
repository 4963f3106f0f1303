"""The folders of runs, and what `clean` takes away."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmc_build.errors import StoreError
from llmc_build.model import Json
from llmc_build.store.runs import LEFTOVER_AGE_S, Runs, clean


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / ".llmc"


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_run_ids_sort_by_time(home: Path) -> None:
    runs = Runs(home)
    ids = [runs.create().run_id for _ in range(12)]
    assert [path.name for path in runs.all()] == ids[::-1]
    assert len(set(ids)) == 12
    assert time.strftime("%Y%m%d", time.gmtime()) == ids[0][:8]
    assert f"Z-{os.getpid()}" in ids[0]


def test_latest_links_to_the_newest(home: Path) -> None:
    runs = Runs(home)
    runs.create()
    run = runs.create()
    assert os.readlink(home / "runs" / "latest") == run.run_id
    assert runs.find("latest") == run.folder == home / "runs" / run.run_id
    assert runs.find(run.run_id) == run.folder
    assert runs.find("../runs") is None
    assert Runs(home / "none").find("latest") is None


def test_the_folder_ignores_itself_for_git_and_is_private(home: Path) -> None:
    run = Runs(home).create()
    assert (home / ".gitignore").read_text() == "*\n"
    for folder in (
        home,
        home / "runs",
        run.folder,
        Path(run.step_folder("wf.step")).parent,
    ):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_logs_of_a_target_have_their_folder(home: Path) -> None:
    run = Runs(home).create()
    assert run.step_folder("wf.my-step") == str(run.folder / "wf" / "my-step")
    assert (run.folder / "wf").is_dir()


@pytest.mark.parametrize("target", ["wf", "wf.", ".step", "wf.a/b", "...", "a/b.c", "wf..", "wf.a\0"])
def test_a_target_that_is_no_target_has_no_folder(home: Path, target: str) -> None:
    run = Runs(home).create()
    with pytest.raises(ValueError):
        run.step_folder(target)


def test_a_symlink_planted_in_a_run_is_not_followed(home: Path, tmp_path: Path) -> None:
    run = Runs(home).create()
    (tmp_path / "outside").mkdir()
    (run.folder / "wf").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError):
        run.step_folder("wf.step")
    assert list((tmp_path / "outside").iterdir()) == []


def test_the_record_is_written_whole(home: Path) -> None:
    run = Runs(home).create()
    run.finish({"value": "é", "odd": "\udcff", "n": 1})
    assert json.loads((run.folder / "run.json").read_text()) == {"value": "é", "odd": "\udcff", "n": 1}
    run.finish({"value": "é"})
    assert "é" in (run.folder / "run.json").read_text()
    assert [path.name for path in run.folder.iterdir()] == ["run.json"]
    nested = {"targets": [{"a": [1, None]}, {"é": {}}], "contexts": {"w": {"x": "\udcff"}}, "n": [], "o": {}}
    run.finish(nested)
    text = (run.folder / "run.json").read_text()
    assert json.loads(text) == nested
    assert text.splitlines()[1:4] == [' "targets": [', '  {"a": [1, null]},', '  {"é": {}}']


@pytest.mark.parametrize("value", ["caf\u00e9", "not Unicode: \udcff", 'quotes " and \n'])
def test_the_record_is_json_with_a_line_for_each_target(home: Path, value: str) -> None:
    """A person, `grep` and `diff` read it too."""
    run = Runs(home).create()
    record: dict[str, Json] = {
        "ok": True,
        "targets": [{"target": "w.a", "reason": value}, {"target": "w.b", "reason": value}],
        "notes": [],
        "channels": {"w.a": {"val": value, "err": None}, value: {}},
    }
    run.finish(record)
    text = (run.folder / "run.json").read_text()
    assert json.loads(text) == record
    assert len([line for line in text.splitlines() if line.startswith('  {"target": "w.')]) == 2


def test_the_oldest_runs_go(home: Path) -> None:
    runs = Runs(home, keep=3)
    made = []
    for _ in range(6):
        made.append(runs.create())
        made[-1].finish({})
    assert [path.name for path in runs.all()] == [run.run_id for run in made[:2:-1]]


def test_a_run_that_goes_on_is_kept_and_a_killed_one_is_not(home: Path) -> None:
    (home / "runs").mkdir(parents=True)
    alive = f"20200101T000000.000Z-{os.getpid()}"
    dead = f"20200101T000000.000Z-{dead_pid()}"
    for name in (alive, dead, "not a run"):
        (home / "runs" / name).mkdir()
    Runs(home, keep=1).create()
    names = {path.name for path in (home / "runs").iterdir()}
    assert {alive, "not a run"} < names
    assert dead not in names


def test_scratch_of_killed_builds_is_swept(home: Path) -> None:
    dead, alive = f"20200101T000000.000Z-{dead_pid()}", f"20200101T000000.000Z-{os.getpid()}"
    for name in (dead, alive):
        (home / "tmp" / name / "deep").mkdir(parents=True)
        then = time.time() - LEFTOVER_AGE_S - 60
        os.utime(home / "tmp" / name, (then, then))
    Runs(home).create()
    assert [path.name for path in (home / "tmp").iterdir()] == [alive]


def test_clean_keeps_the_store_and_follows_no_symlink(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    Runs(home).create()
    (home / "out" / "wf").mkdir(parents=True)
    (home / "out" / "wf" / "link").symlink_to(outside)
    (home / "state").symlink_to(outside)
    (home / "cache" / "cas").mkdir(parents=True)
    clean(home)
    assert sorted(path.name for path in home.iterdir()) == [".gitignore", "cache"]
    assert (outside / "precious").read_text() == "kept"
    clean(home)
    clean(tmp_path / "nowhere")


def test_clean_leaves_a_linked_folder_alone(home: Path, tmp_path: Path) -> None:
    (tmp_path / "outside" / "out").mkdir(parents=True)
    home.symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="symlink"):
        clean(home)
    assert (tmp_path / "outside" / "out").is_dir()
