"""Every example in README.md and docs/ is true: it is run, and must print what the page says.

A page is a story in one folder.  A comment before a code block says what the block is:

    <!-- file: NAME -->      it is written to NAME
    <!-- run -->             lines that begin with "$ " are run; the lines after them are what they print,
                             where "..." stands for any text
    <!-- run: model -->      the same, on a real model
    <!-- refused: TEXT -->   a workflow file in which an error with TEXT is found
    <!-- config -->          an llmc.yaml
    <!-- steps -->           steps of a workflow

A YAML block without a comment is a workflow file without errors.  Times and ids of runs are not compared.
"""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmc_build import api
from llmc_build.config import load_config
from llmc_build.errors import WorkflowError
from llmc_build.workflow import parse

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>\w+)(?:: (?P<rest>.*?))? -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_MARKS = ("file", "run", "refused", "config", "steps", None)


@dataclass(frozen=True)
class Block:
    """One code block of a page."""

    mark: str | None
    rest: str
    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        yield Block(found["mark"], found["rest"] or "", found["language"], found["text"], line)


def stories() -> Iterator[object]:
    for page in PAGES:
        model = any(block.mark == "run" and block.rest == "model" for block in blocks(page))
        yield pytest.param(page, id=page.name, marks=[pytest.mark.model] if model else [])


@pytest.mark.parametrize("page", list(stories()))
def test_a_page_says_what_happens(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        assert block.mark in _MARKS, f"{page.name}:{block.line}: unknown mark {block.mark}"
        try:
            tell(block, tmp_path)
        except (AssertionError, WorkflowError) as error:
            pytest.fail(f"{page.name}:{block.line}: {error}")


def tell(block: Block, folder: Path) -> None:
    """Does what a block says, in the folder of its page."""
    match block.mark, block.language:
        case "file", _:
            path = folder / block.rest
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        case "run", "python":
            run_python(block.text, folder)
        case "run", _:
            run_console(block.text, folder)
        case "steps", _:
            parse("name: example\nsteps:\n" + re.sub("^", "  ", block.text, flags=re.MULTILINE), "steps.yaml")
        case "config", _:
            (folder / "config-example").mkdir(exist_ok=True)
            (folder / "config-example" / "llmc.yaml").write_text(block.text)
            load_config(folder / "config-example", {}, {})
        case "refused", _:
            refused(block, folder)
        case None, "yaml":
            (folder / "block.yaml").write_text(block.text)
            api.validate([folder / "block.yaml"])


def refused(block: Block, folder: Path) -> None:
    (folder / "refused.yaml").write_text(block.text)
    with pytest.raises(WorkflowError) as caught:
        api.validate([folder / "refused.yaml"])
    assert block.rest in str(caught.value), f"the error says: {caught.value}"


def environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "TERM": "dumb", "PYTHONPATH": str(ROOT)}  # these files, not installed ones


def run_python(text: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def run_console(text: str, folder: Path) -> None:
    for session in re.split(r"^(?=\$ )", text, flags=re.MULTILINE):
        if not session.strip():
            continue
        command, _, expected = session.removeprefix("$ ").partition("\n")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        compare(command, expected, done.stdout)


def compare(command: str, expected: str, actual: str) -> None:
    """Both without times and run ids; "..." in what is expected matches anything."""
    wanted, found = steady(expected), steady(actual)
    pattern = "\n".join(escape(line).replace("...", "*") for line in wanted.split("\n"))
    assert fnmatch.fnmatchcase(found, pattern), f"$ {command}\n--- the page\n{wanted}\n--- printed\n{found}"


def escape(line: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", line)


def steady(text: str) -> str:
    text = re.sub(r"\b\d+\.\d\d s\b", "0.00 s", text)
    text = re.sub(r"\b\d+\.\d tokens/s\b", "0.0 tokens/s", text)
    text = re.sub(r"\.llmc/runs/[\w.-]+", ".llmc/runs/RUN", text)
    return text.rstrip("\n")
