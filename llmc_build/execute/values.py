"""Brings values to a script: each in the step's environment, or in a file where it is large.

Owns where a value's bytes travel, and what can't be brought to a script at all.  What a script must say
to take them in is `shellcode`'s.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from llmc_build.execute.messages import content_data
from llmc_build.filters import apply_filters
from llmc_build.shellcode.prelude import Load, with_prelude

# Linux takes 128 KiB in one string of the environment; macOS takes 1 MiB for all of it with the arguments.
ONE_IN_ENVIRONMENT: Final = 96 * 1024  # bytes
ALL_IN_ENVIRONMENT: Final = 384 * 1024  # bytes
_EXPORTED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


class ValueRefused(Exception):
    """A value can't be brought to the script.  One line."""


Place = tuple[str, Literal["environment", "file", "path"], str, str]  # see `shellcode.Load`


class Loaded:
    """What a script finds when it starts."""

    __slots__ = ("env", "places")

    def __init__(self) -> None:
        self.env: dict[bytes, bytes] = {}  # to be added to the step's environment
        self.places: list[Place] = []  # one for each shell variable

    def script(self, text: str) -> str:
        """The script that takes the values in before it begins."""
        return _prelude(tuple(self.places)) + text if self.places else text


@functools.lru_cache(maxsize=256)  # most steps find their values in the same places
def _prelude(places: tuple[Place, ...]) -> str:
    return with_prelude("", [Load(*place) for place in places])


def load(
    variables: Sequence[Mapping[str, Any]], dash: Sequence[Sequence[str]], folder: Callable[[], str]
) -> Loaded:
    """Places every value of a request; `folder` is asked for where a file is needed.  Raises ValueRefused."""
    found, total = Loaded(), 0
    commands: dict[str, list[str]] = {}
    for variable, command in dash:
        commands.setdefault(variable, []).append(command)
    for entry in variables:
        variable, name = str(entry["variable"]), str(entry.get("name") or entry["variable"])
        value = _filtered(entry, name)
        if entry.get("path"):
            found.places.append((variable, "path", _write(found, folder(), variable, name, value), ""))
            continue
        if b"\0" in value:
            raise ValueRefused(f"value of {{{{{name}}}}} holds a NUL byte: use {{{{{name} | path}}}}")
        for command in commands.get(variable, ()):
            _check_begin(name, value, command)
        if len(value) <= ONE_IN_ENVIRONMENT and total + len(value) <= ALL_IN_ENVIRONMENT:
            total += len(value)
            carrier = f"LLMC_VALUE_{variable}"
            found.env[carrier.encode()] = value
            found.places.append((variable, "environment", carrier, ""))
        else:
            path = _write(found, folder(), variable, name, value)
            found.places.append((variable, "file", path, write_newlines(path, value)))
    return found


def _check_begin(name: str, value: bytes, command: str) -> None:
    """Refuses a value whose beginning says something to a command: `curl -d` is one with its option."""
    command, _, option = command.partition(" ")
    if not option and value.startswith(b"-"):
        raise ValueRefused(
            f'value of {{{{{name}}}}} begins with "-", which "{command}" would take for an option: '
            "write `--` before it"
        )
    if not option:
        return
    form = option in ("-F", "--form")
    file = value.startswith((b"@", b"<") if form else b"@")
    if file or (option == "--data-urlencode" and b"@" in value.partition(b"=")[0]):
        way = "--form-string" if form else "--data-raw"
        raise ValueRefused(
            f'value of {{{{{name}}}}} names a file by "@" for "{command} {option}", which would send that: '
            f"use `{way}`, or @{{{{{name} | path}}}}"
        )


def _filtered(entry: Mapping[str, Any], name: str) -> bytes:
    filters = [*(entry.get("filters") or ()), *(("path",) if entry.get("path") else ())]
    try:
        return apply_filters(_bytes(entry["content"], name), tuple(filters))
    except ValueError as error:
        raise ValueRefused(f"value of {{{{{name}}}}}: {error}") from None


def _bytes(content: Mapping[str, Any], name: str) -> bytes:
    path = content.get("file")
    if path is None:
        data = content_data(content)
        if data is None:
            raise ValueRefused(f"value of {{{{{name}}}}} is missing")
        return data
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ValueRefused(f"value of {{{{{name}}}}} can't be read: {error.strerror}") from None
    if "hash" in content and hashlib.sha256(data).hexdigest() != content["hash"]:
        raise ValueRefused(f"value of {{{{{name}}}}} was damaged in the store: build again")
    return data


def _write(found: Loaded, folder: str, variable: str, name: str, value: bytes) -> str:
    """Writes a value's file, for nobody else to read, and tells programs below the script where it is."""
    path = f"{folder}/{variable}"
    _write_file(path, value)
    exported = "".join(c if c in _EXPORTED else "_" for c in name.upper())
    found.env[f"LLMC_{exported}_FILE".encode("ascii")] = os.fsencode(path)
    return path


def write_newlines(path: str, value: bytes) -> str:
    """Writes the newlines that a value ends in beside its file; their path, "" where there are none."""
    count = len(value) - len(value.rstrip(b"\n"))
    if not count:
        return ""
    _write_file(f"{path}.newlines", b"\n" * count)
    return f"{path}.newlines"


def _write_file(path: str, value: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=0) as file:
        view = memoryview(value)
        while view:
            view = view[file.write(view) :]
