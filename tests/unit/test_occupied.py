"""Builds and `llmc clean` in one workspace."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from llmc_build.errors import StoreError
from llmc_build.store import occupied


def test_builds_share_a_workspace_and_clean_has_it_alone(tmp_path: Path) -> None:
    home = tmp_path / ".llmc"
    refused = pytest.raises(StoreError, match="is at work in this workspace")
    with occupied.shared(home), occupied.shared(home), refused, occupied.alone(home):
        raise AssertionError("not reached")
    with occupied.alone(home), pytest.raises(StoreError), occupied.alone(home):
        raise AssertionError("not reached")
    with occupied.alone(home):
        pass


def test_a_build_waits_for_the_end_of_clean(tmp_path: Path) -> None:
    home = tmp_path / ".llmc"
    home.mkdir()
    entered = threading.Event()

    def build() -> None:
        with occupied.shared(home):
            entered.set()

    with occupied.alone(home):
        waiting = threading.Thread(target=build)
        waiting.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    waiting.join()


def test_where_no_lock_can_be_had_nobody_is_stopped(tmp_path: Path) -> None:
    home = tmp_path / ".llmc"
    (home / "lock").mkdir(parents=True)
    with occupied.shared(home), occupied.alone(home):
        pass
