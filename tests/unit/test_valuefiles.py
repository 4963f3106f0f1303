"""Values in `.llmc/out`: what is right there stays, what is not is replaced, and nothing leads elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmc_build import valuefiles
from llmc_build.errors import StoreError
from llmc_build.model import ActionResult
from llmc_build.outputs import Outputs, PlacingError
from llmc_build.store import Store
from llmc_build.store.state import FileDigests
from llmc_build.valuefiles import ValueFiles

LARGE = b"large\n" * 1000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / ".llmc"
    home.mkdir()
    return home


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.memory(tmp_path / "scratch")


@pytest.fixture
def values(home: Path, store: Store) -> Iterator[ValueFiles]:
    found = another(home, store)
    yield found
    found.close()


def another(home: Path, store: Store) -> ValueFiles:
    """As the next build has it, in which something was started."""
    found = ValueFiles(home, store, FileDigests(home / "digests"))
    found.settle()
    return found


@pytest.fixture
def staged(home: Path, store: Store) -> Iterator[ValueFiles]:
    """As a build has it that has only found results."""
    found = ValueFiles(home, store, FileDigests(home / "digests"))
    yield found
    found.close()


@pytest.mark.parametrize("data", [b"", b"value\n", LARGE])
def test_a_value_is_written_once(home: Path, store: Store, values: ValueFiles, data: bytes) -> None:
    assert values.place("w.s", store.add(data)) == 1
    assert (home / "out" / "w" / "s").read_bytes() == data
    assert another(home, store).place("w.s", store.add(data)) == 0
    assert os.listdir(home / "out" / "w") == ["s"], "no temporary file stays"


def test_what_is_not_the_value_is_replaced(home: Path, store: Store, values: ValueFiles) -> None:
    values.place("w.s", store.add(b"value\n"))
    path = home / "out" / "w" / "s"
    outside = home / "precious"
    outside.write_bytes(b"value\n")

    def spoil(how: str) -> None:
        path.unlink()
        if how == "link":
            path.symlink_to(outside)
        else:
            path.write_bytes(b"valuE\n" if how == "content" else b"value\n")
            path.chmod(0o755 if how == "mode" else 0o644)

    for how in ("content", "link", "mode"):
        spoil(how)
        assert another(home, store).place("w.s", store.add(b"value\n")) == 1, how
        assert path.read_bytes() == b"value\n"
        assert not path.is_symlink()
    assert outside.read_bytes() == b"value\n"


def test_a_lost_value_is_told(store: Store, values: ValueFiles) -> None:
    digest = store.add(LARGE)
    store.cas.path(digest).unlink()
    assert values.place("w.s", digest) is None


def test_no_more_folders_are_open_than_a_process_may_have(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valuefiles, "_OPEN", 3)
    values = another(home, store)
    before = len(os.listdir("/dev/fd"))
    for turn in range(3):
        for w in range(10):
            assert values.place(f"w{w}.s{turn}", store.add(b"%d %d" % (w, turn))) == 1
    assert len(os.listdir("/dev/fd")) <= before + 4
    for turn in range(3):
        for w in range(10):
            assert (home / "out" / f"w{w}" / f"s{turn}").read_bytes() == b"%d %d" % (w, turn)
    values.close()
    assert len(os.listdir("/dev/fd")) == before


def test_folders_that_are_removed_while_a_build_goes_on_are_made_again(
    home: Path, store: Store, values: ValueFiles
) -> None:
    for name, gone in (("a", home / "out" / "w"), ("b", home / "out"), ("c", None)):
        assert values.place(f"w.{name}", store.add(b"value")) == 1
        assert (home / "out" / "w" / name).read_bytes() == b"value"
        if gone is not None:
            shutil.rmtree(gone)


@pytest.mark.parametrize("link", ["out", "out/w"])
def test_nothing_is_written_through_a_link(home: Path, store: Store, link: str) -> None:
    """A step without a sandbox could have put a symbolic link there."""
    (home / "elsewhere/w").mkdir(parents=True)
    (home / link).parent.mkdir(exist_ok=True)
    (home / link).symlink_to(home / "elsewhere")
    outputs = Outputs(home.parent, home, store, FileDigests(home / "digests"))
    result = ActionResult(value=store.add(b"value"), stderr=store.add(b""))
    with pytest.raises(PlacingError) as error:
        outputs.place("w.s", result)
    assert str(error.value) == (
        ".llmc/out/w/s can't be put in place: a folder on the way is a file or a symbolic link: "
        "remove it, and llmc makes the folder"
    )
    assert os.listdir(home / "elsewhere") == ["w"]


@pytest.mark.parametrize("file", ["out", "out/w"])
def test_a_file_in_the_place_of_a_folder_gives_way(home: Path, values: ValueFiles, file: str) -> None:
    """Nobody but llmc puts anything there."""
    (home / file).parent.mkdir(exist_ok=True)
    (home / file).write_text("in the way")
    assert values.place("w.s", values._store.add(b"value")) == 1
    values.settle()
    assert (home / "out/w/s").read_bytes() == b"value"


def test_only_values_of_steps_that_are_gone_are_withdrawn(home: Path, store: Store) -> None:
    digests = FileDigests(home / "digests")
    for target in ("v.a", "v.b", "w.a", "w.b", "x.a"):
        another(home, store).place(target, store.add(b"value"))

    def there() -> set[str]:
        return {f"{path.parent.name}.{path.name}" for path in (home / "out").glob("*/*")}

    for name in ("v/c", "v/d"):
        (home / "out" / name / "below").mkdir(parents=True)
    another(home, store).withdraw("v.c")
    assert "v.c" not in there()
    here = dict.fromkeys(("v.a", "w.a"), "f.yaml")
    Outputs(home.parent, home, store, digests, here).withdraw_gone(dict.fromkeys(here, ()))
    assert there() == {"v.a", "w.a", "x.a"}, "a workflow of which the build knows nothing is left alone"


def test_only_outputs_that_are_not_declared_any_more_are_withdrawn(home: Path, store: Store) -> None:
    from llmc_build.model import OutputFile

    digests = FileDigests(home / "digests")
    (home.parent / "f.yaml").touch()
    sources = {"v.a": "f.yaml", "w.a": "f.yaml"}
    outputs = Outputs(home.parent, home, store, digests, sources)
    for target in sources:
        output = OutputFile(path=f"made/{target}", digest=store.add(target.encode()))
        outputs.place(target, ActionResult(value=store.add(b""), stderr=store.add(b""), outputs=(output,)))
    outputs.save()
    again = Outputs(home.parent, home, store, digests, sources)
    again.withdraw_gone({"v.a": ("made/v.a",), "w.a": ()})
    assert sorted(os.listdir(home.parent / "made")) == ["v.a"]
    Outputs(home.parent, home, store, digests, {}).withdraw_gone({})
    assert sorted(os.listdir(home.parent / "made")) == ["v.a"], "its file is there and was not read"


def test_what_another_build_removed_and_this_one_places_again_is_in_the_list(
    home: Path, store: Store
) -> None:
    from llmc_build.model import OutputFile

    digests = FileDigests(home / "digests")
    output = OutputFile(path="made", digest=store.add(b"made"))
    result = ActionResult(value=store.add(b""), stderr=store.add(b""), outputs=(output,))
    before = Outputs(home.parent, home, store, digests, {"w.a": "f.yaml"})
    before.place("w.a", result)
    before.save()
    this = Outputs(home.parent, home, store, digests, {"w.a": "f.yaml"})
    other = Outputs(home.parent, home, store, digests, {"w.b": "f.yaml"})
    other.withdraw_gone({"w.b": ()})
    other.save_at_once()
    assert not (home.parent / "made").exists()
    this.place("w.a", result)
    this.save()
    Outputs(home.parent, home, store, digests, {"w.b": "f.yaml"}).withdraw_gone({"w.b": ()})
    assert not (home.parent / "made").exists()


def test_what_is_placed_is_announced_though_somebody_removed_the_journal(home: Path, store: Store) -> None:
    from llmc_build.model import OutputFile

    outputs = Outputs(home.parent, home, store, FileDigests(home / "digests"), {})
    for name in ("a", "b", "c"):
        output = OutputFile(path=f"made/{name}", digest=store.add(name.encode()))
        outputs.place(
            f"w.{name}", ActionResult(value=store.add(b""), stderr=store.add(b""), outputs=(output,))
        )
        (journal,) = home.glob("placed.journal*")
        assert f"made/{name}" in journal.read_text()
        journal.unlink()
    outputs.close()


# ---------------------------------------------------------------- workflows that get their folder as a whole


def files_of(home: Path) -> dict[str, bytes]:
    return {f"{p.parent.name}.{p.name}": p.read_bytes() for p in (home / "out").glob("*/*")}


def test_found_values_get_their_names_when_something_starts(
    home: Path, store: Store, staged: ValueFiles
) -> None:
    values = {f"w{w}.s{s}": b"%d %d" % (w, s) for w in range(5) for s in range(5)}
    for target, data in values.items():
        assert staged.place(target, store.add(data)) == 1
    assert not [name for name in os.listdir(home / "out") if not name.startswith(".llmc-")]
    staged.settle()
    assert files_of(home) == values
    assert staged.place("w0.more", store.add(b"more")) == 1
    assert staged.place("new.s", store.add(LARGE)) == 1
    assert files_of(home) == {**values, "w0.more": b"more", "new.s": LARGE}
    assert not [name for name in os.listdir(home / "out") if name.startswith(".")]


def test_a_folder_that_is_there_is_used_as_it_is(home: Path, store: Store, staged: ValueFiles) -> None:
    another(home, store).place("w.s", store.add(b"before"))
    assert staged.place("w.s", store.add(b"before")) == 0
    assert staged.place("w.t", store.add(b"new")) == 1
    assert files_of(home) == {"w.s": b"before", "w.t": b"new"}


def test_large_values_and_second_thoughts_are_staged_too(
    home: Path, store: Store, staged: ValueFiles
) -> None:
    assert staged.place("w.large", store.add(LARGE)) == 1
    assert staged.place("w.twice", store.add(b"one")) == 1
    assert staged.place("w.twice", store.add(b"two")) == 1
    assert staged.place("w.gone", store.add(b"gone")) == 1
    staged.withdraw("w.gone")
    staged.settle()
    assert files_of(home) == {"w.large": LARGE, "w.twice": b"two"}


def test_a_folder_that_another_build_made_meanwhile_is_filled(
    home: Path, store: Store, staged: ValueFiles
) -> None:
    for target in ("w.a", "w.b", "v.a"):
        staged.place(target, store.add(target.encode()))
    other = another(home, store)
    other.place("w.b", store.add(b"theirs"))
    other.place("w.c", store.add(b"theirs"))
    (home / "out" / "v").mkdir()
    staged.settle()
    assert files_of(home) == {"w.a": b"w.a", "w.b": b"w.b", "w.c": b"theirs", "v.a": b"v.a"}
    assert staged.place("w.c", store.add(b"ours")) == 1
    assert (home / "out" / "w" / "c").read_bytes() == b"ours"


def test_what_is_removed_while_it_is_staged_is_gone(home: Path, store: Store, staged: ValueFiles) -> None:
    staged.place("w.a", store.add(b"a"))
    shutil.rmtree(home / "out")
    assert staged.place("w.b", store.add(b"b")) == 1
    staged.settle()
    assert files_of(home) == {"w.b": b"b"}


def test_what_can_not_be_named_is_an_error_with_its_place(home: Path, store: Store) -> None:
    outputs = Outputs(home.parent, home, store, FileDigests(home / "digests"))
    outputs.place("w.a", ActionResult(value=store.add(b"value"), stderr=store.add(b"")))
    (home / "out" / "w").write_text("in the way")
    with pytest.raises(StoreError) as error:
        outputs.settle()
    assert str(error.value) == (
        ".llmc/out can't be put in place: a folder on the way is a file or a symbolic link: "
        "remove it, and llmc makes the folder"
    )
    outputs.close()


def test_folders_that_a_killed_build_left_are_removed_after_a_while(home: Path, store: Store) -> None:
    living, dead = f".llmc-{os.getpid()}-0-1", ".llmc-999999999-0-1"
    for name in (living, dead, f"{dead}2"):
        (home / "out" / name).mkdir(parents=True)
        (home / "out" / name / "s").touch()
        if not name.endswith("2"):
            os.utime(home / "out" / name, (1, 1))
    Outputs(home.parent, home, store, FileDigests(home / "digests")).withdraw_gone({})
    assert sorted(os.listdir(home / "out")) == sorted([living, f"{dead}2"])
