"""What the tests share: a workspace that reads like a story.

space.write("flow.yaml", ...)
space.build("flow.yaml")
assert space.ran == ["w.a", "w.b"]
"""

from __future__ import annotations

import os
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from llmc_build import api
from llmc_build.model import BuildReport, State, TargetReport

# The same examples every time, so that a red build is red for everybody; LLMC_EXPLORE=1 looks for new ones.
settings.register_profile("same", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("explore" if os.environ.get("LLMC_EXPLORE") else "same")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "tests that inject faults (tests/faults)")
    group.addoption("--full", action="store_true", help="as many injections as `make faults` makes")
    group.addoption("--count", type=int, metavar="N", help="so many injections in each test")
    group.addoption(
        "--seed", type=int, default=0, metavar="N", help="other injections, as random as the first"
    )


class Space:
    """A workspace in a folder of its own, built by the real thing in this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.report: BuildReport | None = None
        self.environ = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text if isinstance(text, bytes) else textwrap.dedent(text).lstrip("\n").encode()
        path.write_bytes(data)
        return path

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text
        (self.root / name).write_text(text.replace(old, new))

    def read(self, name: str) -> str:
        return (self.root / name).read_text()

    def build(self, *files: str, **options: Any) -> BuildReport:
        options.setdefault("workspace", self.root)
        options.setdefault("environ", self.environ)
        options.setdefault("jobs", 2)
        self.report = api.build([self.root / f for f in files], **options)
        return self.report

    def value(self, target: str) -> str:
        return api.show(target, workspace=self.root).decode()

    def of(self, target: str) -> TargetReport:
        assert self.report is not None
        return next(t for t in self.report.targets if t.target == target)

    def having(self, state: State) -> list[str]:
        assert self.report is not None
        return sorted(t.target for t in self.report.targets if t.status is state)

    @property
    def ran(self) -> list[str]:
        return self.having(State.RAN)

    @property
    def cached(self) -> list[str]:
        return self.having(State.CACHED)


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Space]:
    monkeypatch.chdir(tmp_path)
    return Space(tmp_path)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gives no more threads."""

    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
