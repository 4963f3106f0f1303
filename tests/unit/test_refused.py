"""What the machine refuses is told in a line, with exit code 8: it is no bug of llmc."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmc_build import api
from llmc_build.cli import main
from llmc_build.model import ActionResult
from llmc_build.store import Record, Store
from llmc_build.store.cas import Cas


def told(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr(api, "cache_path", fail)
    return main(["cache", "path"]), capsys.readouterr().err


def test_a_disk_that_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(errno.EIO, os.strerror(errno.EIO), "/some/file")
    assert told(error, monkeypatch, capsys) == (
        8,
        "error: /some/file: Input/output error\n    hint: where it happened: the same command with -v -v\n",
    )


def test_no_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = told(MemoryError(), monkeypatch, capsys)
    assert (code, text.splitlines()[0]) == (8, "error: out of memory")


def test_a_module_that_is_there_and_was_not_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ModuleNotFoundError("No module named 'llmc_build.plan'", name="llmc_build.plan")
    code, text = told(error, monkeypatch, capsys)
    assert code == 8
    assert text.startswith("error: a part of llmc can't be loaded: No module named")


def test_a_module_that_is_missing_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was removed, or its folder can't be listed: neither is a bug of llmc."""
    code, text = told(ModuleNotFoundError("No module named 'x9'", name="x9"), monkeypatch, capsys)
    assert code == 8
    assert text.startswith("error: a part of llmc can't be loaded: No module named 'x9'")


def test_a_bug_is_still_a_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(KeyError("x"), monkeypatch, capsys)[0] == 37


def test_a_worker_that_can_not_be_loaded_says_so_in_a_line() -> None:
    from llmc_build.execute.worker import BOOTSTRAP

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BOOTSTRAP, "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "a part of llmc can't be loaded: No module named 'llmc_build'\n"


# ---------------------------------------------------------------- contents that could only be thrown away


def kept(store: Store, data: bytes) -> Record:
    """A result whose value a worker could not write into the store."""
    assert store.spill is not None
    digest = Cas(store.spill, durable=False).put_bytes(data)
    result = ActionResult(value=digest, stderr=store.add(b""))
    return Record(key="ab" * 32, components={}, result=result, created=1.0)


def test_a_content_that_a_worker_could_not_store_is_taken_over(tmp_path: Path) -> None:
    """Its disk may have failed for a moment: the result is stored all the same."""
    notes: list[str] = []
    store = Store.open(tmp_path, notes.append)
    store.commit([kept(store, b"x" * 5000)])
    store.close()
    again = Store.open(tmp_path, notes.append)
    found = again.lookup("ab" * 32)
    assert found is not None
    assert again.read(found.result.value) == b"x" * 5000
    assert notes == []
    again.close()


def test_a_result_that_is_not_kept_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    store = Store.open(tmp_path, notes.append)
    record = kept(store, b"x" * 5000)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.cas, "_put_file", full)
    store.commit([record])
    assert len(notes) == 1
    assert "No space left on device): the build goes on uncached" in notes[0]
    assert store.lookup("ab" * 32) is not None
    store.close()
