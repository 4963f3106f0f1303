"""`.llmc/runs/`: one folder for each run, its record, and where its logs go.

Owns: run ids, `latest`, the ignore file, which old runs go, and what `llmc clean` removes.  Not: the
form of `run.json` (`record`), values put into place (`outputs`).

Nothing here follows a symlink below `.llmc`: a step that ran without a sandbox may have made one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from llmc_build.errors import Fault, StoreError
from llmc_build.frozen import frozen
from llmc_build.model import Json, TargetId
from llmc_build.snapshot.idle import MARK
from llmc_build.store import files

KEPT = 50  # runs kept
LEFTOVER_AGE_S = 3600.0  # how old the scratch folder of a dead build must be before it goes

_SNAPSHOT = re.compile(r"(?:snapshot-[0-9a-f]{8}|last)\.(\d{1,10})")  # as `snapshot.keeping` writes them
_RUN_ID = re.compile(r"\d{8}T\d{6}\.\d{3}Z-(\d{1,10})(?:-\d+)?")


@frozen
class Listed:
    """A list of a record, whose items are made as they are written."""

    items: Iterable[Json]


@frozen
class Mapped:
    """An object of a record, whose members are made as they are written."""

    members: Iterable[tuple[str, Json]]


class Run:
    """One run, whose folder exists."""

    def __init__(self, home: Path, run_id: str) -> None:
        self.run_id = run_id
        self.folder = home / "runs" / run_id
        self._home = home
        self._made: dict[str, str] = {}  # workflow -> its folder, which is there

    def step_folder(self, target: TargetId) -> str:
        """Where the logs of a target are to be; the folder of its workflow is there.

        The run's folder is this process's own, so no symbolic link can stand in the way.
        """
        workflow, step = _target_parts(target)
        folder = self._made.get(workflow)
        if folder is None:
            with files.open_beneath(self._home, ("runs", self.run_id, workflow), create=True):
                folder = self._made[workflow] = str(self.folder / workflow)
        return f"{folder}/{step}"

    def finish(self, record: Mapping[str, Json | Listed | Mapped]) -> None:
        """Write `run.json`, durably."""
        with (
            files.open_beneath(self._home, ("runs", self.run_id)) as folder,
            files.new_file(folder, "run.json", mode=0o600, durable=True) as fd,
            open(fd, "wb", buffering=1 << 18, closefd=False) as file,
        ):
            file.writelines(_pieces(record))


class Runs:
    """The runs of one workspace; `home` is its folder `.llmc`."""

    def __init__(self, home: Path, *, keep: int = KEPT) -> None:
        self.home = home
        self._keep = keep

    def create(self) -> Run:
        """Begin a run: its folder is there, `latest` links to it, the oldest runs have gone.

        Raises OSError where nothing can be written.
        """
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with files.open_folder(self.home) as home:
            if files.read_regular(self.home / ".gitignore") is None:
                files.remove_tree(home, ".gitignore")
                files.write_at(home, ".gitignore", b"*\n", mode=0o644)
        with files.open_beneath(self.home, ("runs",), create=True) as folder:
            run_id = _make(folder)
            link = files.temp_name()
            os.symlink(run_id, link, dir_fd=folder)
            try:
                os.rename(link, "latest", src_dir_fd=folder, dst_dir_fd=folder)
            except IsADirectoryError:  # damage: nobody but us makes it
                files.remove_tree(folder, "latest")
                os.rename(link, "latest", src_dir_fd=folder, dst_dir_fd=folder)
            self._prune(folder)
        self._sweep()
        return Run(self.home, run_id)

    def all(self) -> list[Path]:
        """The folders of all runs, the newest first."""
        with contextlib.suppress(OSError), files.open_beneath(self.home, ("runs",)) as folder:
            return [self.home / "runs" / name for name in reversed(_run_ids(folder))]
        return []

    def find(self, run_id: str) -> Path | None:
        """The folder of a run; `latest`: of the newest."""
        found = self.all()
        if run_id == "latest":
            return found[0] if found else None
        return next((path for path in found if path.name == run_id), None)

    def said_of(self, target: TargetId) -> Mapping[str, Json]:
        """What the newest record that lists a target says of it; empty where none does."""
        for folder in self.all():
            text = files.read_regular(folder / "run.json") or b""
            if f'"{target}"'.encode() in text:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    for found in json.loads(text)["targets"]:
                        if found["target"] == target:
                            return dict(found)
        return {}

    def process_at_work(self) -> int | None:
        """The id of a living process whose run has no record yet."""
        with contextlib.suppress(OSError), files.open_beneath(self.home, ("runs",)) as folder:
            for name in reversed(_run_ids(folder)):
                if _is_going_on(folder, name):
                    return _pid(name)
        return None

    def _prune(self, folder: int) -> None:
        """The oldest go; runs in which nothing happened are counted and removed by themselves (`idle`)."""
        happened = [name for name in _run_ids(folder) if not _is_there(folder, f"{name}/{MARK}")]
        for name in happened[: -self._keep]:
            if not _is_going_on(folder, name):
                with contextlib.suppress(OSError):
                    files.remove_tree(folder, name)

    def _sweep(self) -> None:
        """Remove what builds that were killed had half written, and their scratch folders."""
        oldest = time.time() - LEFTOVER_AGE_S
        for place in ((), ("runs",), ("state",), ("tmp",)):
            with contextlib.suppress(OSError), files.open_beneath(self.home, place) as folder:
                for name in os.listdir(folder):
                    owner = _pid(name) if place == ("tmp",) else _half_written(name)
                    if owner is None or files.alive(owner):
                        continue
                    with contextlib.suppress(OSError):
                        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime < oldest:
                            files.remove_tree(folder, name)


def clean(home: Path) -> None:
    """Remove outputs, runs, state and scratch of a workspace; a store that lies in `home` stays.

    Raises StoreError where `home` is a symlink, OSError where something can't be removed.
    """
    if home.is_symlink():
        raise StoreError(
            Fault(
                headline=f"{home} is a symlink: what it points to is left alone",
                hint="remove what is in it yourself",
            )
        )
    if home.is_dir():
        with files.open_beneath(home.parent, (home.name,)) as folder:
            for name in ("out", "runs", "state", "tmp"):
                files.remove_tree(folder, name)


def _make(folder: int) -> str:
    """A new run folder, named by the time and this process."""
    now = time.time_ns() // 1_000_000
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 1000)) + f".{now % 1000:03}Z"
    for name in _names(f"{moment}-{os.getpid()}"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=folder)
            return name
    raise AssertionError("unreachable: the names don't end")


def _names(name: str) -> Iterator[str]:
    yield name
    count = 2
    while True:
        yield f"{name}-{count}"
        count += 1


def _run_ids(folder: int) -> list[str]:
    """The ids of the runs in a folder, the oldest first."""

    def order(name: str) -> tuple[str, int]:
        moment, _, rest = name.partition("Z-")
        return moment, int(rest.partition("-")[2] or 1)

    return sorted((name for name in os.listdir(folder) if _RUN_ID.fullmatch(name)), key=order)


def _is_going_on(folder: int, run_id: str) -> bool:
    """Whether a run has no record yet and its process lives."""
    return not _is_there(folder, f"{run_id}/run.json") and files.alive(_pid(run_id))


def _is_there(folder: int, path: str) -> bool:
    try:
        os.stat(path, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _pid(run_id: str) -> int:
    """The process of a run; a number that no process has where the name is no run's."""
    found = _RUN_ID.fullmatch(run_id)
    return int(found[1]) if found else 2**31 - 1


def _half_written(name: str) -> int | None:
    """The process that wrote a file which has not got its name; None for every other file."""
    found = _SNAPSHOT.fullmatch(name)
    return int(found[1]) if found else files.temp_owner(name)


def _target_parts(target: TargetId) -> tuple[str, str]:
    workflow, _, step = target.partition(".")
    return files.check_name(workflow), files.check_name(step)


def _pieces(record: Mapping[str, Json | Listed | Mapped]) -> Iterator[bytes]:
    """JSON with a line for each entry, which is made and written by itself: there are many."""
    before = "{\n"
    if not record:
        yield b"{"
    for name, value in record.items():
        yield f"{before} {_NAME(name)}: ".encode()
        before = ",\n"
        if isinstance(value, Listed) or (isinstance(value, list) and value):
            items = value.items if isinstance(value, Listed) else value
            yield from _lines("[", map(_encoded, items), "]")
        elif isinstance(value, Mapped) or (isinstance(value, dict) and value):
            members = value.members if isinstance(value, Mapped) else value.items()
            yield from _lines("{", (b"%s: %s" % (_encoded(k), _encoded(v)) for k, v in members), "}")
        else:
            yield _encoded(value)
    yield b"\n}\n"


def _lines(opening: str, entries: Iterable[bytes], closing: str) -> Iterator[bytes]:
    before = f"{opening}\n  ".encode()
    for entry in entries:
        yield before + entry
        before = b",\n  "
    yield f"\n {closing}".encode() if before == b",\n  " else f"{opening}{closing}".encode()


def _encoded(value: Json) -> bytes:
    """One line; in ASCII where a text is not Unicode, as of a file name in another encoding."""
    try:
        return _NAME(value).encode()
    except UnicodeEncodeError:
        return _ASCII(value).encode()


_NAME = json.JSONEncoder(ensure_ascii=False).encode  # without indentation it is C code that writes it
_ASCII = json.JSONEncoder().encode
