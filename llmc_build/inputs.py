"""Which files of the workspace an action reads, and what is in them.  World.

Owns the meaning of `inputs` (globs, folders, names) and of plain words that name files.  A file that another
step writes is seen only by steps that come after that step, so that what an old build left behind is never an
input: an incremental build sees what a clean one would.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import Path

from llmc_build.frozen import frozen
from llmc_build.keys import Files
from llmc_build.model import Action, Digest, TargetId
from llmc_build.store import files
from llmc_build.store.files import Stamp
from llmc_build.store.state import FileDigests

_MAGIC = frozenset("*?[")


class InputError(Exception):
    """A declared input can't be had.  One line."""


@frozen(kw_only=True)
class Found:
    files: dict[str, tuple[Digest, bool]]  # path -> content, executable
    stamps: dict[str, Stamp | None] = field(default_factory=dict)  # what each looked like before it was read
    warnings: tuple[str, ...] = ()


NOTHING = Found(files={})  # of the many actions that read no file; nobody changes what was found


class Inputs:
    """`writers`: declared output path -> the target that writes it; `after(target, other)`: runs after it."""

    def __init__(
        self,
        workspace: Path,
        digests: FileDigests,
        writers: Mapping[str, TargetId],
        after: Callable[[TargetId, TargetId], bool],
        hidden: Iterable[Path],
    ) -> None:
        self._workspace = workspace
        self._root = os.fspath(workspace)
        self._real_root = os.path.join(os.path.realpath(workspace), "")
        self._real_folders: dict[str, str] = {}  # folder -> where it leads to
        self._digests = digests
        self._writers = writers
        self._after = after
        self._hidden = tuple(
            path.relative_to(workspace).as_posix() + "/"
            for path in hidden
            if path.is_relative_to(workspace) and path != workspace
        )

    def find(self, action: Action) -> Found:
        """Every declared file of an action.  Raises InputError."""
        if not action.inputs and not action.words:
            return NOTHING
        files: dict[str, tuple[Digest, bool]] = {}
        stamps: dict[str, Stamp | None] = {}
        warnings = []
        for pattern in action.inputs:
            before = len(files)
            paths = set(self._expand(pattern))
            for path in paths:
                if path not in files and self.visible(action.target, path):
                    stamps[path] = self._stamp(path)
                    entry = self._entry(path)
                    if entry is not None:
                        files[path] = entry
            if is_pattern(pattern):
                if len(files) == before and not paths:
                    warnings.append(f"inputs: {pattern} matches no file")
            elif not any(p == pattern or p.startswith(f"{pattern}/") for p in files):
                raise InputError(self._missing(action.target, pattern))
        for word in action.words:
            if word not in files and self._is_plain_file(word) and self.visible(action.target, word):
                stamps[word] = self._stamp(word)
                entry = self._entry(word)
                if entry is not None:
                    files[word] = entry
        if not files and not warnings:
            return NOTHING
        return Found(files=dict(sorted(files.items())), stamps=stamps, warnings=tuple(warnings))

    def namer(self) -> Callable[[Action], set[str]]:
        """What tells the paths of the files that `find` would find; it looks at each but once."""
        expanded: dict[str, list[str]] = {}
        plain: dict[str, bool] = {}
        real: dict[str, str] = {}

        def names(action: Action) -> set[str]:
            found = set[str]()
            for pattern in action.inputs:
                if pattern not in expanded:
                    expanded[pattern] = list(self._expand(pattern))
                found.update(expanded[pattern])
            for word in action.words:
                if word not in plain:
                    plain[word] = self._is_plain_file(word)
                if plain[word]:
                    found.add(word)
            real.update({path: self._real(path) for path in found if path not in real})
            return {path for path in found if self.visible(action.target, path, real[path])}

        return names

    def offers(self, target: TargetId, path: str) -> bool:
        """Whether something of that name is in the workspace that the step could have been given."""
        try:
            return (self._workspace / path).exists() and self.visible(target, path)
        except (OSError, ValueError):
            return False

    def changed(self, given: Files, stamps: Mapping[str, Stamp | None]) -> list[str]:
        """Which of the files hold something else by now, or may have done so meanwhile.

        A file that had other content for a while may have been read then: one that was written since its
        stamp was taken has changed, though its bytes be the same.
        """

        def is_as_it_was(path: str, entry: tuple[Digest, bool]) -> bool:
            try:
                return self._stamp(path) == stamps.get(path) and self._entry(path) == entry
            except InputError:
                return False

        return [path for path, entry in given.items() if not is_as_it_was(path, entry)]

    def _stamp(self, path: str) -> Stamp | None:
        try:
            return files.stamp(os.stat(f"{self._root}/{path}"))
        except (OSError, ValueError):
            return None

    def visible(self, target: TargetId, path: str, real: str | None = None) -> bool:
        """Whether a target may read a file of that path.  `real`: where it leads to, if that is known."""
        if files.temp_owner(path.rpartition("/")[2]) is not None:
            return False  # an output that another build is writing, or was, when it was killed
        for name in {path, self._real(path) if real is None else real}:
            writer = self._writers.get(name)
            if writer is not None and (writer == target or not self._after(target, writer)):
                return False
            if any(name.startswith(folder) for folder in self._hidden):
                return False
        return True

    def _real(self, path: str) -> str:
        """Where a path leads to in the workspace: what a step writes is its output by any other name, too."""
        folder, _, name = path.rpartition("/")
        real = self._real_folders.get(folder)
        if real is None:
            real = self._real_folders[folder] = os.path.realpath(f"{self._root}/{folder}")
        full = f"{real}/{name}"
        if os.path.islink(full):
            full = os.path.realpath(full)
        return full[len(self._real_root) :] if full.startswith(self._real_root) else path

    def _is_plain_file(self, path: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(f"{self._root}/{path}").st_mode)
        except (OSError, ValueError):
            return False

    def _entry(self, path: str) -> tuple[Digest, bool] | None:
        full = f"{self._root}/{path}"
        try:
            digest = self._digests.digest(full)
            return None if digest is None else (digest, os.access(full, os.X_OK))
        except (OSError, ValueError) as error:
            raise InputError(f"input {path} can't be read: {error}") from None

    def _expand(self, pattern: str) -> Iterator[str]:
        if not is_pattern(pattern):
            try:
                is_folder = stat.S_ISDIR(os.stat(f"{self._root}/{pattern}").st_mode)
            except (OSError, ValueError):
                return
            if is_folder:
                yield from self._below(pattern)
            else:
                yield pattern
            return
        yield from matching(self._root, pattern)

    def _below(self, folder: str) -> Iterator[str]:
        for place, folders, names in os.walk(self._workspace / folder):
            folders.sort()
            for name in names:
                path = Path(place, name)
                if path.is_file():
                    yield path.relative_to(self._workspace).as_posix()

    def _missing(self, target: TargetId, pattern: str) -> str:
        writer = self._writers.get(pattern)
        if writer is not None and writer != target and not self._after(target, writer):
            return f"input {pattern} is written by {writer}, which does not come before this step"
        if os.path.isdir(f"{self._root}/{pattern}"):
            return f"input {pattern} is a folder with no files in it"
        return f"input {pattern} does not exist in the workspace"


def is_pattern(text: str) -> bool:
    """Whether an entry of `inputs` is a glob."""
    return not _MAGIC.isdisjoint(text)


def would_match(pattern: str, path: str) -> bool:
    """Whether `matching` would find a file of that path, were it there."""
    parts, names = pattern.split("/"), path.split("/")
    at = {0}  # parts of the pattern that the next name may be matched by
    for number, name in enumerate(names):
        for place in range(len(parts) - 1):
            if place in at and parts[place] == "**":
                at.add(place + 1)
        is_file = number == len(names) - 1
        after = set[int]()
        for place in at:
            part, last = parts[place], place == len(parts) - 1
            if name.startswith(".") and not part.startswith("."):
                continue
            if is_file and last and fnmatch.fnmatchcase(name, part):
                return True
            if not is_file and part == "**":
                after.add(place)
            elif not is_file and not last and fnmatch.fnmatchcase(name, part):
                after.add(place + 1)
        at = after
    return False


def matching(root: str, pattern: str) -> Iterator[str]:
    """The files below a folder that a glob names, each once, relative to it.

    `**` stands for any number of folders, and goes through no symbolic link: one that leads upwards, or to
    `/`, would have it look at everything there is, and what is added there would not be noticed.  A folder
    that is named may be a link, and one matched by `*` too where no `**` follows.  What begins with a dot is
    matched by what does so too.
    Each folder is looked at once for each part of the pattern, however many `**` it has.
    """
    parts = pattern.split("/")
    tests = [re.compile(fnmatch.translate(part)).match for part in parts]
    found: set[str] = set()
    seen = {("", 0)}
    rest = [("", 0)]

    def go(folder: str, number: int) -> None:
        if (folder, number) not in seen:
            seen.add((folder, number))
            rest.append((folder, number))

    while rest:
        folder, number = rest.pop()
        part, last = parts[number], number == len(parts) - 1
        if _MAGIC.isdisjoint(part):
            path = f"{folder}{part}"
            if not last:
                go(f"{path}/", number + 1)
            elif os.path.isfile(f"{root}/{path}"):
                found.add(path)
            continue
        deep = part == "**"
        if deep and not last:
            go(folder, number + 1)
        for entry in _entries(f"{root}/{folder}"):
            if entry.name.startswith(".") and not part.startswith("."):
                continue
            path = f"{folder}{entry.name}"
            if deep:
                if entry.is_dir(follow_symlinks=False):
                    go(f"{path}/", number)
                elif last and _is_file(entry):
                    found.add(path)
            elif tests[number](entry.name):
                if last and _is_file(entry):
                    found.add(path)
                elif not last and _is_folder(entry, links="**" not in parts[number:]):
                    go(f"{path}/", number + 1)
    yield from found


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # no folder, or one that is closed to us
        return []


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a circle of links
        return False


def _is_folder(entry: os.DirEntry[str], *, links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=links)
    except OSError:
        return False
