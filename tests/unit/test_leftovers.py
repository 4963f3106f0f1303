"""What a build that was killed had half written is no input, and goes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from llmc_build import quick
from llmc_build.snapshot import survey
from llmc_build.store.opening import sweep_spills
from tests.conftest import Space

DEAD = 2**22 + 1  # more than the kernel gives to a process


@pytest.fixture
def flow(space: Space) -> Space:
    space.write("src/a.txt", "a\n")
    space.write(
        "flow.yaml",
        """
        name: w
        order: dataflow
        steps:
          - {name: list, command: ls -A src, inputs: [src]}
          - {name: make, command: mkdir gen; echo x > gen/out, outputs: [gen/out]}
        """,
    )
    return space


def test_a_half_written_output_is_no_input(flow: Space) -> None:
    """A folder is an input with all it holds; what a killed build left in it is not of the workspace."""
    flow.write(f"src/.llmc-{DEAD}-aaaaaaaa-3", "half")
    flow.build("flow.yaml")
    assert flow.value("w.list") == "a.txt\n"


def test_half_written_outputs_go_with_the_next_build(flow: Space) -> None:
    flow.build("flow.yaml")
    flow.write(f"gen/.llmc-{DEAD}-aaaaaaaa-3", "half")
    flow.write(f"gen/.llmc-{os.getpid()}-aaaaaaaa-3", "being written")
    flow.write(".llmc/placed.journal", json.dumps(["flow.yaml w.make", {"gen/out": "0" * 64}]) + "\n")
    flow.edit("flow.yaml", "ls -A", "ls -AF")
    flow.build("flow.yaml")
    left = sorted(path.name for path in (flow.root / "gen").iterdir())
    assert left == [f".llmc-{os.getpid()}-aaaaaaaa-3", "out"]


def test_half_written_files_of_the_state_go_when_they_are_old(flow: Space) -> None:
    flow.build("flow.yaml")
    names = [
        f"{place}{name}"
        for place in ("", "runs/", "state/")
        for name in (f".llmc-{DEAD}-aaaaaaaa-3", f".llmc-{os.getpid()}-aaaaaaaa-4")
    ]
    names += [f"state/snapshot-0123abcd.{DEAD}", f"state/last.{DEAD}"]
    for name in names:
        os.utime(flow.write(f".llmc/{name}", "half"), (time.time() - 7200,) * 2)
    flow.write(f".llmc/.llmc-{DEAD}-young-1", "half")
    flow.edit("flow.yaml", "ls -A", "ls -AF")
    flow.build("flow.yaml")
    left = {name for name in names if (flow.root / ".llmc" / name).exists()}
    assert left == {name for name in names if str(DEAD) not in name}
    assert (flow.root / ".llmc" / f".llmc-{DEAD}-young-1").exists()


def test_throwaway_folders_of_dead_builds_go(tmp_path: Path) -> None:
    for pid in (DEAD, os.getpid()):
        folder = tmp_path / f"llmc-spill-{pid}-{'0' * 16}"
        folder.mkdir()
        os.utime(folder, (1e9, 1e9))
    sweep_spills(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"llmc-spill-{os.getpid()}-{'0' * 16}"]


def test_no_snapshot_is_believed_after_another_start_of_the_machine(
    flow: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are not synced: a power cut may empty one whose times stay. So everything is looked at."""
    flow.build("flow.yaml")
    assert quick.build(["build", "flow.yaml"], flow.environ) == 0
    monkeypatch.setattr(survey, "boot", lambda: "another start")
    assert quick.build(["build", "flow.yaml"], flow.environ) is None
    assert flow.build("flow.yaml").exit_code == 0
    assert flow.ran == []
