"""`sandbox: strict`: a step that sees the system, its inputs and nothing else, through bubblewrap.

Owns the command line of `bwrap` and whether it works here.  The step has namespaces of its own (processes,
network without any interface, users, IPC); of files it sees the system's folders, read-only, its own
working folder at its usual place, and a private /tmp.  Everything else, the workspace and the home folder
among it, is not there.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Final

# Whatever of these a system has: programs, libraries and their configuration.
SYSTEM: Final = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt"),
    *("/nix/store", "/gnu/store", "/run/current-system"),
)
TEMPORARY: Final = "/tmp"
_PROBE_S = 10


class NoStrictSandbox(Exception):
    """Why there is none here.  One line."""


Argv = tuple[str | bytes, ...]


def wrapped(argv: Argv, *, work: str, tmp: str, values: str | None) -> Argv:
    """The command line that runs `argv` in it.  Raises NoStrictSandbox.

    `work`: its working folder; `tmp`: what it sees as /tmp; `values`: a folder that it may read.
    """
    base = _base(_bubblewrap(os.environ.get("PATH", os.defpath)))
    return (*base, *_folders(work, tmp, values), "--remount-ro", "/", "--chdir", work, "--", *argv)


def bubblewrap() -> str:
    """The program, which works here.  Raises NoStrictSandbox."""
    return _bubblewrap(os.environ.get("PATH", os.defpath))


def environment(env: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What is elsewhere for a step in it: the home folder of the user is not there."""
    own = TEMPORARY.encode()
    return {**env, b"TMPDIR": own, b"HOME": own}


@functools.lru_cache(maxsize=8)
def _bubblewrap(path: str) -> str:
    """The program, which was seen to work.  Raises NoStrictSandbox."""
    import shutil
    import subprocess

    if not sys.platform.startswith("linux"):
        raise NoStrictSandbox("`sandbox: strict` is had on Linux only")
    program = shutil.which("bwrap", path=path)
    if program is None:
        raise NoStrictSandbox(
            "`sandbox: strict` needs bubblewrap, and there is no `bwrap` here: install bubblewrap"
        )
    try:
        tried = subprocess.run(
            [*_base(program), "--", "/bin/sh", "-c", ":"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoStrictSandbox(f"`sandbox: strict` can't be had: {error}") from None
    if tried.returncode:
        said = tried.stderr.decode("utf-8", "replace").strip().splitlines() or [
            f"exit code {tried.returncode}"
        ]
        raise NoStrictSandbox(
            f"`sandbox: strict` can't be had: this system does not let bubblewrap work ({said[-1]})"
        )
    return program


@functools.lru_cache(maxsize=8)
def _base(program: str) -> tuple[str, ...]:
    """Namespaces and the system's folders."""
    found = [program, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--hostname", "llmc"]
    for folder in SYSTEM:
        if os.path.islink(folder):
            found += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            found += ["--ro-bind", folder, folder]
    # What may be written below /proc/sys, the kernel asks of the user alone, and root is still that without a
    # capability.
    return (*found, "--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev")


def _folders(work: str, tmp: str, values: str | None) -> tuple[str, ...]:
    """The step's own.  Where the workspace is in a folder of the system, the rest of it is covered."""
    home = os.path.dirname(work)
    workspace = home.partition("/.llmc/")[0]
    covered = ["--tmpfs", workspace] if any(home.startswith(f"{folder}/") for folder in SYSTEM) else []
    shared = ["--ro-bind", values, values] if values is not None else []
    # Shared memory lies on the disk too: what a step writes there would fill the memory.
    own = ["--bind", tmp, TEMPORARY, "--bind", tmp, "/dev/shm", "--remount-ro", "/dev", "--bind", work, work]
    return (*covered, *own, *shared)
