"""Which files a glob names: as Python's own, but for links."""

from __future__ import annotations

import errno
import glob
import random
from pathlib import Path

import pytest

from llmc_build.incremental.watching import folders_of
from llmc_build.inputs import Inputs, matching
from llmc_build.model import Action
from llmc_build.store.state import FileDigests

PARTS = ["*", "**", "a", "?", "*.txt", "[ab]*", ".h", ".*", "a*", "[[]x]", "c.txt"]
NAMES = ["a", "b", "ab", ".h", "c.txt", "d.txt", "[x]"]


@pytest.mark.parametrize("seed", range(20))
def test_a_glob_names_what_pythons_own_names(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(chance.randrange(1, 25)):
        path = tmp_path.joinpath(*(chance.choice(NAMES) for _ in range(chance.randrange(1, 5))))
        if not any(parent.is_file() for parent in path.parents) and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for _ in range(60):
        pattern = "/".join(chance.choice(PARTS) for _ in range(chance.randrange(1, 5)))
        if glob.has_magic(pattern):
            theirs = {
                p
                for p in glob.iglob(pattern, root_dir=tmp_path, recursive=True)
                if (tmp_path / p).is_file() and p[-1] != "/"
            }
            assert set(matching(str(tmp_path), pattern)) == theirs, pattern


def test_two_stars_go_through_no_link(tmp_path: Path) -> None:
    """A link upwards would never end, and what is added behind a link is not watched."""
    (tmp_path / "t" / "u").mkdir(parents=True)
    (tmp_path / "t" / "u" / "x").touch()
    (tmp_path / "t" / "up").symlink_to("..")
    (tmp_path / "elsewhere").symlink_to("t/u")
    found = {
        pattern: set(matching(str(tmp_path), pattern))
        for pattern in ("**/x", "*/**/x", "*/x", "elsewhere/**")
    }
    assert found == {
        "**/x": {"t/u/x"},
        "*/**/x": {"t/u/x"},
        "*/x": {"elsewhere/x"},
        "elsewhere/**": {"elsewhere/x"},
    }
    for pattern, paths in found.items():
        watched = folders_of(str(tmp_path), pattern)
        assert {str((tmp_path / path).parent) for path in paths} <= watched, pattern


def test_a_file_that_can_not_be_read_any_more_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found out after the step ran: its result is not kept then, and the build goes on."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    digests = FileDigests(tmp_path / ".llmc" / "digests")
    inputs = Inputs(tmp_path, digests, {}, lambda target, other: True, ())
    action = Action(rule="shell", version=1, params={}, inputs=("a", "b"), target="w.s")
    seen = inputs.find(action)
    found = seen.files
    assert inputs.changed(found, seen.stamps) == []

    def broken(self: FileDigests, file: str | Path) -> object:
        if Path(file).name == "b":
            raise OSError(errno.EIO, "Input/output error")
        return found["a"][0]

    monkeypatch.setattr(FileDigests, "digest", broken)
    assert inputs.changed(found, seen.stamps) == ["b"]
