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
    """A copy of an example, so that nothing is left in the repository."""

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


def copy(name: str, to: Path) -> Example:
    ignored = shutil.ignore_patterns(".llmc", "site", "page.md")
    shutil.copytree(EXAMPLES / name, to / name, ignore=ignored)
    return Example(to / name)


@pytest.mark.model
def test_the_demo_builds_once_and_then_only_what_an_edit_reaches(tmp_path: Path) -> None:
    demo = copy("demo", tmp_path)
    assert demo.build() == (0, "7 targets: 6 ran, 0 cached, 0 failed, 0 poisoned, 1 skipped in N s")
    page = (demo.folder / "page.md").read_text()
    assert page.startswith("# ")
    assert " words about 45 words.*" in page
    assert demo.llmc("show", "report.page").stdout == page
    assert demo.build() == (0, "up to date: 7 targets (N s)")
    assert demo.build("-t", "facts.count") == (0, "up to date: 1 targets (N s)")

    demo.edit("writer.yaml", "Write a short title", "Give a short title")
    code, line = demo.build()  # the page runs again where the title came out another
    assert code == 0
    assert line.startswith(("7 targets: 2 ran, 4 cached", "7 targets: 1 ran, 5 cached"))

    shutil.rmtree(demo.folder / ".llmc" / "out")
    (demo.folder / "page.md").unlink()
    assert demo.build() == (0, "7 targets: 0 ran, 6 cached, 0 failed, 0 poisoned, 1 skipped in N s")
    assert (demo.folder / "page.md").is_file()


@pytest.mark.model
def test_a_change_of_one_source_runs_its_own_steps_and_the_page(tmp_path: Path) -> None:
    docs = copy("docs-pipeline", tmp_path)
    assert docs.build() == (0, "8 targets: 8 ran, 0 cached, 0 failed, 0 poisoned, 0 skipped in N s")
    page = (docs.folder / "site" / "index.md").read_text()
    assert all(f"- `{name}`\n" in page for name in ("push", "count_words", "circle_area"))
    assert docs.build() == (0, "up to date: 8 targets (N s)")

    # The list of functions is made again, and so is the line count; both are equal, so no model is asked.
    docs.edit("sources/stack.py", "The last thing put in", "What was put in last")
    assert docs.build() == (0, "8 targets: 2 ran, 6 cached, 0 failed, 0 poisoned, 0 skipped in N s")


def test_the_failing_example_fails_as_the_docs_say(tmp_path: Path) -> None:
    failing = copy("failing", tmp_path)
    assert failing.build() == (1, "5 targets: 2 ran, 0 cached, 1 failed, 2 poisoned, 0 skipped in N s")
    error = failing.llmc("build").stderr
    assert "error: failing.yaml:10:5: numbers.check: " in error
    assert "config/limit.txt" in error
    assert "inputs" in error, "the hint says where to declare it"
    assert "poisoned by it: 2 targets" in error
    failing.edit("failing.yaml", "  - name: check\n", "  - name: check\n    inputs: [config]\n")
    assert failing.build() == (0, "5 targets: 3 ran, 2 cached, 0 failed, 0 poisoned, 0 skipped in N s")


@pytest.mark.model
def test_a_file_of_the_original_program_runs_unchanged(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "original.yaml", tmp_path)
    example = Example(tmp_path)
    expected = "6 targets: 5 ran, 0 cached, 0 failed, 0 poisoned, 1 skipped in N s"
    assert example.build("original.yaml") == (0, expected)
    value = example.llmc("show", "consumer.receive").stdout
    assert value == "received final version of a story about a lighthouse\n"
    assert example.build() == (0, "up to date: 6 targets (N s)")
