"""Each folder of examples/ does what its comments and the docs say, built as a user builds it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


class Example:
    """A copy of the examples, so that nothing is left in the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, *args: str) -> tuple[int, str]:
        """(exit code, last line without its time)"""
        done = self.llmc("build", *args)
        return done.returncode, re.sub(r"\d+\.\d\d s", "N s", done.stderr.splitlines()[-1])

    def llmc(self, *args: str) -> subprocess.CompletedProcess[str]:
        base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return subprocess.run(
            [sys.executable, "-m", "llmc_build", *args],
            cwd=self.folder,
            env=base,
            capture_output=True,
            text=True,
            timeout=280,
        )

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))


@pytest.fixture
def example(tmp_path: Path) -> Example:
    """The workspace of the examples."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("site", "page.md"))
    shutil.copy(EXAMPLES.parent / "llmc.yaml", tmp_path)
    return Example(tmp_path)


@pytest.mark.model
def test_the_demo_builds_once_and_then_only_what_an_edit_reaches(example: Example) -> None:
    assert example.build() == (0, "7 targets: 6 ran, 0 cached, 0 failed, 0 poisoned, 1 skipped in N s")
    file = example.folder / "examples/demo/page.md"
    page = file.read_text()
    assert page.startswith("# ")
    assert " words about 45 words.*" in page
    assert example.llmc("show", "report.page").stdout == page
    assert example.build() == (0, "up to date: 7 targets (N s)")
    assert example.build("-t", "facts.count") == (0, "up to date: 1 targets (N s)")

    example.edit("examples/demo/writer.yaml", "Write a short title", "Give a short title")
    code, line = example.build()  # the page runs again where the title came out another
    assert code == 0
    assert line.startswith(("7 targets: 2 ran, 4 cached", "7 targets: 1 ran, 5 cached"))

    shutil.rmtree(example.folder / ".llmc")  # all but the store, as on a fresh machine
    file.unlink()
    assert example.build() == (0, "7 targets: 0 ran, 6 cached, 0 failed, 0 poisoned, 1 skipped in N s")
    assert file.is_file()


@pytest.mark.model
def test_a_change_of_one_source_runs_its_own_steps_and_the_page(example: Example) -> None:
    flow = "examples/docs-pipeline/docs.yaml"
    assert example.build(flow) == (0, "8 targets: 8 ran, 0 cached, 0 failed, 0 poisoned, 0 skipped in N s")
    page = (example.folder / "examples/docs-pipeline/site/index.md").read_text()
    assert all(f"- `{name}`\n" in page for name in ("push", "count_words", "circle_area"))
    assert example.build(flow) == (0, "up to date: 8 targets (N s)")

    # The list of functions is made again, and so is the line count; both are equal, so no model is asked.
    example.edit("examples/docs-pipeline/sources/stack.py", "The last thing put in", "What was put in last")
    assert example.build(flow) == (0, "8 targets: 2 ran, 6 cached, 0 failed, 0 poisoned, 0 skipped in N s")


def test_the_failing_example_fails_as_the_docs_say(example: Example) -> None:
    flow = "examples/failing/failing.yaml"
    assert example.build(flow) == (1, "5 targets: 2 ran, 0 cached, 1 failed, 2 poisoned, 0 skipped in N s")
    error = example.llmc("build", flow).stderr
    assert f"error: {flow}:10:5: numbers.check: " in error
    assert "config/limit.txt" in error
    assert "inputs" in error, "the hint says where to declare it"
    assert "poisoned by it: 2 targets" in error
    declared = "  - name: check\n    inputs: [examples/failing/config]\n"
    example.edit(flow, "  - name: check\n", declared)
    assert example.build(flow) == (0, "5 targets: 3 ran, 2 cached, 0 failed, 0 poisoned, 0 skipped in N s")


@pytest.mark.model
def test_what_can_be_asked_of_a_model(example: Example) -> None:
    flow = "examples/inference/inference.yaml"
    assert example.build(flow) == (0, "9 targets: 9 ran, 0 cached, 0 failed, 0 poisoned, 0 skipped in N s")
    assert re.fullmatch(
        r"one ticket to (Bergen|Oslo|Paris), by (train|bus|ship)\n",
        example.llmc("show", "inference.ticket").stdout,
    )
    example.edit(flow, "samples: 3", "samples: 4")
    assert example.build(flow) == (0, "9 targets: 1 ran, 8 cached, 0 failed, 0 poisoned, 0 skipped in N s")
    example.edit(flow, "trip.city }}, by", "trip.town }}, by")
    assert 'has no field "town"; it has city, means' in example.llmc("build", flow).stderr


@pytest.mark.model
def test_a_file_of_the_original_program_runs_unchanged(example: Example) -> None:
    flow = "examples/original.yaml"
    expected = "6 targets: 5 ran, 0 cached, 0 failed, 0 poisoned, 1 skipped in N s"
    assert example.build(flow) == (0, expected)
    value = example.llmc("show", "consumer.receive").stdout
    assert value == "received final version of a story about a lighthouse\n"
    assert example.build(flow) == (0, "up to date: 6 targets (N s)")
